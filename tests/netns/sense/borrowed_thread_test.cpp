// SPDX-License-Identifier: MIT
// Threads that are borrowed while their group has used up its share of the processor: whatever comes too late, a thread
// goes on with the call that it was in, and the process keeps nothing.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "kernel/borrowed_thread.h"
#include "kernel/procfs.h"
#include "kernel/write_tracking.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

constexpr int kTries = 12;
constexpr int kPeriodUs = 600'000, kQuotaUs = 12'000;  // kept away for longer than a borrower waits
constexpr Nanoseconds kPutRightBound = std::chrono::seconds(10);

// A group with a little of the processor (version 1 of control groups, or 2); none where neither has the controller.
class Limited {
 public:
  Limited() {
    const std::string name = "/mose-t-borrowed-" + std::to_string(::getpid());
    if (fs::exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")) {
      path_ = "/sys/fs/cgroup/cpu" + name;
      fs::create_directory(path_);
      given_ = write("cpu.cfs_period_us", std::to_string(kPeriodUs)) && write("cpu.cfs_quota_us", std::to_string(kQuotaUs));
    } else if (fs::exists("/sys/fs/cgroup/cgroup.controllers")) {
      std::ofstream("/sys/fs/cgroup/cgroup.subtree_control") << "+cpu" << std::flush;
      path_ = "/sys/fs/cgroup" + name;
      fs::create_directory(path_);
      given_ = write("cpu.max", std::to_string(kQuotaUs) + " " + std::to_string(kPeriodUs));
    }
  }
  ~Limited() {
    std::error_code error;
    for (int i = 0; i < 100 && !path_.empty() && !fs::remove(path_, error); ++i) ::usleep(20'000);
  }
  Limited(const Limited&) = delete;
  Limited& operator=(const Limited&) = delete;

  [[nodiscard]] bool given() const { return given_; }
  void take(pid_t pid) { ASSERT_TRUE(write("cgroup.procs", std::to_string(pid))); }
  void unlimit() { (void)(fs::exists(path_ + "/cpu.max") ? write("cpu.max", "max") : write("cpu.cfs_quota_us", "-1")); }

 private:
  [[nodiscard]] bool write(const char* leaf, const std::string& text) const {
    std::ofstream file(path_ + "/" + leaf);
    file << text << std::flush;
    return file.good();
  }
  std::string path_;
  bool given_ = false;
};

enum class Wait { signal, futex, epoll, poll, read };

// What the waiting thread tells: how often its call has come back, and with what the first time.
struct Told {
  std::atomic<int> waits, returns;
  std::atomic<long> first;
  std::atomic<int> lost;  // descriptors of the other thread that somebody else has closed
  std::atomic<int> go;    // the call is meant to come back: for a futex its word
};

struct Ends {
  int read = -1, write = -1;
};

long wait_once(Wait wait, Told& told, int from, int epoll) {
  switch (wait) {
    case Wait::signal: {
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, SIGUSR1);
      return ::syscall(SYS_rt_sigtimedwait, &set, nullptr, nullptr, 8ul);
    }
    case Wait::futex:
      return ::syscall(SYS_futex, &told.go, FUTEX_WAIT, 0, nullptr, nullptr, 0);
    case Wait::epoll: {
      epoll_event event{};
      return ::syscall(SYS_epoll_wait, epoll, &event, 1, -1);
    }
    case Wait::poll: {
      pollfd one{from, POLLIN, 0};
      return ::syscall(SYS_poll, &one, 1, -1);
    }
    case Wait::read: {
      char byte = 0;
      return ::syscall(SYS_read, from, &byte, 1);
    }
  }
  return -1;
}

class Borrowed : public ::testing::TestWithParam<Wait> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    if (!limited_.given()) GTEST_SKIP() << "no control group with a limit of the processor";
    told_ = static_cast<Told*>(::mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(told_, MAP_FAILED);
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    pipe_ = {ends[0], ends[1]};
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) live();
    while (told_->waits == 0) ::usleep(1000);
    ::usleep(10'000);
    limited_.take(pid_);
  }
  void TearDown() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    for (int end : {pipe_.read, pipe_.write})
      if (end >= 0) ::close(end);
    if (told_ != nullptr) ::munmap(told_, sizeof(Told));
  }

  // One thread waits, the other one uses up what there is, with descriptors of its own.
  [[noreturn]] void live() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
    epoll_event event{.events = EPOLLIN, .data = {}};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, pipe_.read, &event);
    std::thread([this] {
      for (;;) {
        const int own = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        for (int i = 0; i < 1000; ++i) told_->lost += ::fcntl(own, F_GETFD) < 0 ? 1 : 0;
        if (own >= 0) told_->lost += ::close(own) == 0 ? 0 : 1;
      }
    }).detach();
    for (;;) {
      ++told_->waits;
      const long result = wait_once(GetParam(), *told_, pipe_.read, epoll);
      if (told_->returns == 0) told_->first = result;
      ++told_->returns;
    }
  }
  void let_return() {
    switch (GetParam()) {
      case Wait::signal:
        ::kill(pid_, SIGUSR1);
        break;
      case Wait::futex:
        told_->go = 1;
        ::syscall(SYS_futex, &told_->go, FUTEX_WAKE, 1, nullptr, nullptr, 0);
        break;
      default:
        ASSERT_EQ(::write(pipe_.write, "x", 1), 1);
    }
  }
  [[nodiscard]] long right_return() const { return GetParam() == Wait::signal ? SIGUSR1 : GetParam() == Wait::futex ? 0 : 1; }

  // Nobody traces it, and it has no userfaultfd.
  [[nodiscard]] bool put_right() const {
    const std::string directory = "/proc/" + std::to_string(pid_);
    for (const auto& thread : fs::directory_iterator(directory + "/task")) {
      std::ifstream status(thread.path() / "status");
      for (std::string line; std::getline(status, line);)
        if (line.starts_with("TracerPid:") && line != "TracerPid:\t0") return false;
    }
    for (const auto& descriptor : fs::directory_iterator(directory + "/fd")) {
      std::error_code error;
      if (fs::read_symlink(descriptor.path(), error) == "anon_inode:[userfaultfd]") return false;
    }
    return true;
  }

  Limited limited_;
  Told* told_ = nullptr;
  Ends pipe_;
  pid_t pid_ = 0;
};

TEST_P(Borrowed, GoesOnWithItsCallHoweverLateItComes) {
  int taken = 0;
  for (int i = 0; i < kTries; ++i) {
    auto tracking = WriteTracking::take(pid_);
    taken += tracking ? 1 : 0;
    ::usleep(static_cast<useconds_t>(i) * 20'000);
  }
  std::printf("%d of %d were taken\n", taken, kTries);
  EXPECT_TRUE(wait_for_borrowed_threads(kPutRightBound));
  EXPECT_TRUE(put_right());
  limited_.unlimit();
  ::usleep(700'000);
  EXPECT_EQ(::waitpid(pid_, nullptr, WNOHANG), 0) << "it has died";
  EXPECT_EQ(told_->lost, 0);
  EXPECT_EQ(told_->returns, 0) << "its call has come back with " << told_->first;
  let_return();
  const Timestamp asked = now();
  while (told_->returns == 0 && now() - asked < kPutRightBound) ::usleep(1000);
  EXPECT_EQ(told_->first, right_return());
}
std::string name_of(const ::testing::TestParamInfo<Wait>& wait) {
  constexpr const char* kNames[] = {"Signal", "Futex", "Epoll", "Poll", "Read"};
  return kNames[static_cast<size_t>(wait.param)];
}
INSTANTIATE_TEST_SUITE_P(Waits, Borrowed, ::testing::Values(Wait::signal, Wait::futex, Wait::epoll, Wait::poll, Wait::read), name_of);

}  // namespace
}  // namespace mose::test
