// SPDX-License-Identifier: MIT
#include "lab/link_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "kernel/process.h"
#include "kernel/tap.h"
#include "lab/child_process.h"
#include "lab/topology.h"

namespace mose::lab {
namespace {

constexpr unsigned kTapFrames = 1000;  // beyond them the kernel drops, as a card's ring does
constexpr int64_t kSpinNs = 50'000;    // shorter than this it is not worth going to sleep
constexpr int kFramesPerTurn = 64;     // so that one direction does not keep the other waiting

// How late the kernel lets this process run after the moment that it waited for. Four wake-ups would add up on each way
// there and back: what they cost on average is taken off the delay.
class Lateness {
 public:
  void seen(int64_t late_ns) { estimate_ns_ += (std::clamp<int64_t>(late_ns, 0, kLateMaxNs) - estimate_ns_) / 16; }
  [[nodiscard]] int64_t estimate_ns() const { return estimate_ns_; }

 private:
  static constexpr int64_t kLateMaxNs = 300'000;  // more is the machine's load, not its habit
  int64_t estimate_ns_ = 0;
};

struct Direction {
  int from, to;  // taps
  LinkQueue queue;
  int64_t last_ns = 0;

  // `late_ns`: for how long the frames have probably been there.
  void take(std::string& buffer, int64_t late_ns) {
    for (int i = 0; i < kFramesPerTurn; ++i) {
      ssize_t n = ::read(from, buffer.data(), buffer.size());
      if (n <= 0) return;
      std::string frame(buffer.data(), static_cast<size_t>(n));
      size_t wire = wire_bytes(frame);
      last_ns = std::max(last_ns, now_ns() - late_ns);
      queue.push(std::move(frame), wire, last_ns);
    }
  }

  void deliver() {
    for (auto due = queue.next_due_ns(); due && *due <= now_ns() + kSpinNs; due = queue.next_due_ns()) {
      while (now_ns() < *due) {
      }
      std::string frame = queue.pop();
      // A device that is down takes nothing: lost, as on a wire.
      if (::write(to, frame.data(), frame.size()) < 0) continue;
    }
  }
};

// When the next frame is due at its other end; 0: none is under way.
int64_t next_due_ns(const std::vector<Direction>& directions) {
  int64_t next = 0;
  for (const Direction& d : directions) {
    auto due = d.queue.next_due_ns();
    if (due && (next == 0 || *due < next)) next = *due;
  }
  return next;
}

[[noreturn]] void carry(std::vector<Direction> directions, int timer) {
  std::string buffer(kTapFrameMax, '\0');
  Lateness late;
  std::vector<pollfd> fds = {{timer, POLLIN, 0}};
  for (const Direction& d : directions) fds.push_back({d.from, POLLIN, 0});
  while (true) {
    int64_t next = next_due_ns(directions);
    // One that has passed goes off at once; zero would stop the timer.
    int64_t wanted = next == 0 ? 0 : std::max<int64_t>(1, next - late.estimate_ns());
    itimerspec when{};
    when.it_value = to_timespec(wanted);
    int64_t slept_ns = now_ns();
    ::timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, nullptr);
    ::poll(fds.data(), fds.size(), -1);
    if (fds[0].revents && slept_ns < wanted) late.seen(now_ns() - wanted);
    for (Direction& d : directions) {
      d.take(buffer, late.estimate_ns());
      d.deliver();
    }
  }
}

// The process itself: has nothing of ours left but the pipe by which it says how its start went.
Status run(const Names& names, const LinkShape& shape, int report) {
  std::vector<Tap> taps;
  std::vector<Direction> directions;
  for (const char* node : kNodes) {
    for (const std::string& place : {std::string(node), std::string("sw")}) {
      MOSE_ASSIGN(auto ns, Place::of_netns(names.netns_path(place)));
      MOSE_TRY(ns.enter());
      MOSE_ASSIGN(auto tap, create_tap(place == "sw" ? std::string("p") + node : kUplink, kTapFrames));
      taps.push_back(std::move(tap));
    }
    int inner = taps[taps.size() - 2].fd.get(), outer = taps.back().fd.get();
    directions.push_back({inner, outer, LinkQueue(shape)});
    directions.push_back({outer, inner, LinkQueue(shape)});
  }
  Fd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer) return fail_errno("timerfd_create");
  MOSE_TRY(write_all(report, "pid " + std::to_string(::getpid()) + "\n"));
  ::close(report);
  carry(std::move(directions), timer.get());
}

// No descriptor of the lab's command may stay open here: its lock, a caller's pipe.
int detach(int report) {
  ::setsid();
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "mose-lab-link", 0, 0, 0);
  ::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  // A wire waits for nobody. Where it is not allowed the link is what the machine's other work leaves of it, and
  // measured.
  sched_param priority{};
  priority.sched_priority = 1;
  (void)::sched_setscheduler(0, SCHED_RR, &priority);
  int null = ::open("/dev/null", O_RDWR);
  for (int fd : {0, 1, 2}) {
    if (null >= 0) ::dup2(null, fd);
  }
  constexpr int kPipe = 3;
  int pipe = ::fcntl(report, F_DUPFD, kPipe);
  if (pipe > kPipe) ::dup2(pipe, kPipe);
  ::close_range(kPipe + 1, ~0u, 0);
  return kPipe;
}

}  // namespace

LinkShape link_shape(const LabState& state) {
  LinkShape out;
  out.rate_bits_per_s = static_cast<uint64_t>(state.link_rate_mbit.value_or(0) * 1e6);
  out.delay_ns = static_cast<int64_t>(state.link_rtt_ms.value_or(0) * 1e6 / 4);
  out.queue_bytes = link_queue_bytes(out.rate_bits_per_s);
  return out;
}

Result<ProcessRecord> start_link(const Names& names, const LinkShape& shape, const std::string& cgroup) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd read(fds[0]), write(fds[1]);
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    auto joined = write_control(cgroup + "/cgroup.procs", "0");
    // Ours for a moment, then nobody's: it stays when the command that made the lab ends.
    if (::fork() != 0) ::_exit(0);
    int report = detach(write.get());
    auto status = joined ? run(names, shape, report) : joined;
    (void)write_all(report, "error " + status.error().what + "\n");
    ::_exit(1);
  }
  write.reset();
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  MOSE_ASSIGN(std::string text, read_all(read.get(), 64u << 10));
  if (text.starts_with("error ")) return fail("the emulated link: " + text.substr(6, text.find('\n') - 6));
  if (!text.starts_with("pid ")) return fail("the emulated link did not start");
  MOSE_ASSIGN(auto process, ProcessHandle::open(std::atoi(text.c_str() + 4)));
  return ProcessRecord{process.pid(), process.start_time()};
}

}  // namespace mose::lab
