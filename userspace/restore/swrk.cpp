// SPDX-License-Identifier: MIT
#include "restore/swrk.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "restore/criu_messages.h"
#include "restore/mapping_table.h"

namespace mose::restore {
namespace {

constexpr int kSocketNumber = 3;  // of the RPC socket in CRIU
constexpr int kKeptLine = 4;      // a restoring CRIU's copy of our end: its line never ends before it
// Inside CRIU's private mount namespace, on its own tmpfs.
constexpr const char* kRootMount = "/run/mose-criu/root";
constexpr const char* kExternalMounts = "/run/mose-criu/mounts/";
constexpr size_t kMessageMax = 65536;
constexpr Nanoseconds kKillBound{5'000'000'000};
constexpr Nanoseconds kStillLook{100'000'000};
constexpr size_t kLogBytesMax = 64u << 20;
constexpr size_t kLogLinesQuoted = 3;

// "(00.012345)      1: Error (criu/x.c:12): text" -> "1: Error (criu/x.c:12): text"; 1 is the number of a restored
// task.
std::string_view without_stamp(std::string_view line) {
  if (line.starts_with('(')) {
    size_t end = line.find(") ");
    if (end != std::string_view::npos) line.remove_prefix(end + 1);
  }
  size_t text = line.find_first_not_of(' ');
  return text == std::string_view::npos ? std::string_view() : line.substr(text);
}

// Changes whenever the process, which has one thread, has been on a processor: its state, and how often it has left one.
std::string activity_of(const ProcessHandle& process) {
  std::string out;
  for (const char* field : {"State", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}) out += status_field(process, field).value_or("") + " ";
  return out;
}
bool is_running(const std::string& activity) { return activity.starts_with('R'); }
bool is_stopped(const std::string& activity) { return activity.starts_with('T') || activity.starts_with('t'); }

// Complaints that say nothing of why CRIU failed: harmless ones of its start, summaries and echoes of its end.
bool tells_nothing(std::string_view line) {
  constexpr std::string_view kNoise[] = {"Can't setup RLIMIT_NOFILE for self", "Restoring FAILED", "Dumping FAILED",
                                         "cgroupd: recv req error"};
  return std::any_of(std::begin(kNoise), std::end(kNoise),
                     [&](std::string_view noise) { return line.find(noise) != std::string_view::npos; });
}

}  // namespace

std::string meaningful_log_lines(std::string_view log) {
  std::vector<std::string_view> lines;
  for (size_t at = 0; at < log.size();) {
    size_t end = log.find('\n', at);
    if (end == std::string_view::npos) end = log.size();
    std::string_view line = without_stamp(log.substr(at, end - at));
    bool error = line.find("Error (") != std::string_view::npos || line.starts_with("mose-exec: ");
    if (error && !tells_nothing(line)) lines.push_back(line);
    at = end + 1;
  }
  std::string out;
  for (size_t i = lines.size() - std::min(lines.size(), kLogLinesQuoted); i < lines.size(); ++i) {
    if (!out.empty()) out += "; ";
    out += lines[i];
  }
  return out;
}

Result<Swrk> Swrk::start(const CriuSetup& setup, const Place& place, Purpose purpose) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return fail_errno("make CRIU's socket");
  Fd ours(ends[0]), theirs(ends[1]);
  Fd output(::memfd_create("criu-output", MFD_CLOEXEC));
  if (!output) return fail_errno("make a file for CRIU's output");

  LaunchRequest request;
  request.net_fd = place.net_fd;
  request.ipc_fd = place.ipc_fd;
  request.uts_fd = place.uts_fd;
  request.mnt_fd = setup.mounts_fd();
  request.command.program = setup.criu();
  request.command.arguments = {"swrk", std::to_string(kSocketNumber)};
  request.command.fds = {{theirs.get(), kSocketNumber}, {output.get(), 1}, {output.get(), 2}};
  request.command.environment = {"LD_PRELOAD=" + setup.preload()};
  request.command.new_session = true;
  std::string root;
  std::vector<std::string> externals;
  Fd mappings;
  if (purpose == Purpose::dump) {
    request.time_fd = place.time_fd;
    request.command.environment.push_back(place.skip_memory ? "MOSE_CRIU_SKIP_MEMORY=1" : "MOSE_CRIU_SKIP_MEMORY=0");
    request.command.environment.emplace_back("MOSE_CRIU_MAPPINGS=1");
    request.command.environment.emplace_back("MOSE_CRIU_BRIEF_REPAIR=1");
    mappings = Fd(::memfd_create("mose-mappings", MFD_CLOEXEC));
    if (!mappings) return fail_errno("make a file for the table of mappings");
    request.command.fds.push_back({mappings.get(), MOSE_MAPPING_TABLE_FD});
  } else {
    // The tree goes with CRIU, and CRIU with us, by its own copy of our end not one system call further: the end of the
    // line would be taken for an answer.
    request.parent_death_signal = SIGKILL;
    request.command.environment.emplace_back("MOSE_CRIU_EXIT_KILL=1");
    request.command.fds.push_back({ours.get(), kKeptLine});
    request.cgroup_fd = place.cgroup_fd;
    request.private_mounts = true;
    if (!place.root.empty()) {
      root = kRootMount;
      request.binds.push_back({place.root, root, place.root_read_only});
    }
    for (const Place::Mount& mount : place.mounts) {
      std::string inside = kExternalMounts + std::to_string(externals.size());
      request.binds.push_back({mount.source, inside, mount.read_only});
      externals.push_back("mnt[" + mount.key + "]:" + inside);
    }
  }
  auto process = launch(request);
  if (!process) return context("start CRIU", std::move(process).error());
  Swrk swrk(purpose, std::move(ours), std::move(output), std::move(*process));
  swrk.mappings_ = std::move(mappings);
  swrk.root_ = std::move(root);
  swrk.externals_ = std::move(externals);
  return swrk;
}

Status Swrk::tell_mappings(const std::string& table) {
  MOSE_CHECK(purpose_ == Purpose::dump, "a restore maps what its images say");
  auto written = write_all(mappings_.get(), table);
  if (!written) (void)::ftruncate(mappings_.get(), 0);
  return written;
}

Result<Swrk> Swrk::start_for_dump(const CriuSetup& setup, const Place& place) {
  return start(setup, place, Purpose::dump);
}
Result<Swrk> Swrk::start_for_restore(const CriuSetup& setup, const Place& place) {
  return start(setup, place, Purpose::restore);
}

Swrk& Swrk::operator=(Swrk&& other) noexcept {
  if (this != &other) {
    end();
    purpose_ = other.purpose_;
    state_ = other.state_;
    socket_ = std::move(other.socket_);
    mappings_ = std::move(other.mappings_);
    output_ = std::move(other.output_);
    process_ = std::move(other.process_);
    images_dir_ = std::move(other.images_dir_);
    root_ = std::move(other.root_);
    externals_ = std::move(other.externals_);
  }
  return *this;
}

Swrk::~Swrk() {
  end();
}

Status Swrk::send(const std::string& bytes) {
  ssize_t n;
  do {
    n = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    int code = errno;
    std::string why = explain(0, "");
    if (why.empty()) return fail_errno("send a message to CRIU", code);
    return fail("send a message to CRIU: " + why);
  }
  return {};
}

Status Swrk::request_dump(const DumpRequest& request) {
  if (purpose_ != Purpose::dump || state_ != State::idle) return fail("this CRIU process cannot be asked for a dump");
  MOSE_ASSIGN(images_dir_, duplicate(request.images_dir));
  DumpMessage message{images_dir_.get(), request.pid, request.cgroup_path, {}, request.log_level};
  for (const DumpRequest::Mount& mount : request.mounts)
    message.externals.push_back("mnt[" + mount.target + "]:" + mount.key);
  MOSE_TRY(send(encode_dump(message)));
  state_ = State::asked;
  return {};
}

Status Swrk::request_restore(const RestoreRequest& request) {
  if (purpose_ != Purpose::restore || state_ != State::idle)
    return fail("this CRIU process cannot be asked for a restore");
  MOSE_ASSIGN(images_dir_, duplicate(request.images_dir));
  MOSE_TRY(send(encode_restore({images_dir_.get(), root_, externals_, request.lazy_pages, request.log_level})));
  state_ = State::asked;
  return {};
}

// What is there now: an event, or nothing.
Result<std::optional<Swrk::Event>> Swrk::receive() {
  std::string buffer(kMessageMax, '\0');
  ssize_t n;
  do {
    n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_TRUNC);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return std::optional<Event>();
  if (n < 0 && errno != ECONNRESET) return fail_errno("receive from CRIU");
  if (n <= 0) {  // CRIU has closed its end: it is about to be gone
    auto exit = purpose_ == Purpose::dump ? reap_broken_off() : process_.reap(kKillBound);
    state_ = State::finished;
    std::string how = exit ? describe(*exit) : exit.error().what;
    if (exit) process_ = ProcessHandle();
    std::string why = explain(0, "");
    return std::optional<Event>(Died{why.empty() ? how : how + ": " + why});
  }
  if (static_cast<size_t>(n) > buffer.size()) return fail("CRIU sent a message that is too long");
  MOSE_ASSIGN(CriuMessage message, decode_criu_message({buffer.data(), static_cast<size_t>(n)}));
  if (message.is_hook) {
    state_ = State::in_hook;
    return std::optional<Event>(Hook{message.hook, message.pid});
  }
  state_ = State::finished;
  Done done{message.success, message.error, "", message.pid};
  // A successful answer may carry the text of some early complaint: it means nothing then.
  if (!done.success) done.message = explain(message.error, message.error_text);
  return std::optional<Event>(done);
}

Result<Swrk::Event> Swrk::next(Nanoseconds timeout) {
  if (state_ == State::idle || state_ == State::finished) return fail("CRIU was not asked for anything");
  if (state_ == State::in_hook) return fail("CRIU waits for the answer of a hook");
  Timestamp deadline = now() + timeout;
  for (;;) {
    MOSE_ASSIGN(std::optional<Event> event, receive());
    if (event) return *event;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0) return TimedOut{};
    // Tasks under restore hold copies of the socket: CRIU's death is seen by its pidfd only.
    pollfd p[2] = {{socket_.get(), POLLIN, 0}, {process_.fd(), POLLIN, 0}};
    if (::poll(p, 2, static_cast<int>(std::min<int64_t>(left, 1'000'000'000))) < 0 && errno != EINTR)
      return fail_errno("wait for CRIU");
    if (!(p[0].revents & POLLIN) && (p[1].revents & POLLIN)) {
      ::shutdown(socket_.get(), SHUT_RDWR);  // receive() then finds the end
    }
  }
}

Status Swrk::answer(bool ok) {
  if (state_ != State::in_hook) return fail("CRIU waits for no answer");
  state_ = State::asked;
  return send(encode_hook_answer(ok));
}

Status Swrk::wait_exit(Nanoseconds bound) {
  if (!process_) return {};
  auto exit = process_.reap(bound);
  if (!exit) return context("wait until CRIU has gone", std::move(exit).error());
  process_ = ProcessHandle();
  return {};
}

void Swrk::end() {
  if (!process_) return;
  bool dumping = purpose_ == Purpose::dump && (state_ == State::asked || state_ == State::in_hook);
  if (dumping) {
    ::shutdown(socket_.get(), SHUT_RDWR);
    if (reap_broken_off()) {
      process_ = ProcessHandle();
      state_ = State::finished;
      return;
    }
  }
  kill();
}

Result<ProcessHandle::Exit> Swrk::reap_broken_off() {
  const Timestamp deadline = now() + kBreakMost;
  Timestamp moved = now();
  std::string before;
  for (;;) {
    auto exit = process_.reap(kStillLook);
    if (exit || exit.error().code != ETIMEDOUT || now() >= deadline) return exit;
    std::string doing = activity_of(process_);
    if (is_running(doing) || doing != before) moved = now();
    if (now() - moved >= (is_stopped(doing) ? kStillMax : kBreakBound)) return exit;
    before = std::move(doing);
  }
}

void Swrk::Breaker::break_off() const {
  if (line_) ::shutdown(line_.get(), SHUT_RDWR);
}

Result<Swrk::Breaker> Swrk::breaker() const {
  MOSE_ASSIGN(Fd line, duplicate(socket_.get()));
  return Breaker(std::move(line));
}

void Swrk::kill() {
  if (!process_) return;
  (void)process_.signal(SIGKILL);
  (void)process_.reap(kKillBound);
  process_ = ProcessHandle();
  state_ = State::finished;
}

// One line on why CRIU failed: its own message if any, the last errors of its log, what it wrote to standard error.
std::string Swrk::explain(int error, const std::string& text) const {
  std::string lines;
  if (images_dir_) {
    auto log = open_at(images_dir_.get(), purpose_ == Purpose::dump ? kDumpLog : kRestoreLog, O_RDONLY);
    if (log) {
      auto content = read_all(log->get(), kLogBytesMax);
      if (content) lines = meaningful_log_lines(*content);
    }
  }
  if (lines.empty() && output_ && ::lseek(output_.get(), 0, SEEK_SET) == 0) {
    auto content = read_all(output_.get(), kLogBytesMax);
    if (content) lines = meaningful_log_lines(*content);
  }
  if (lines.empty() && !tells_nothing(text)) lines = text;
  if (error == 0) return lines;
  std::string number = "errno " + std::to_string(error);
  return lines.empty() ? number : lines + " (" + number + ")";
}

}  // namespace mose::restore
