// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "kernel/userfaultfd.h"
#include "netns/pager/support.h"

// Two processes in a group of their own that hold a number in every page of their memory: what is done to them while they are frozen
// they must not notice, but for pages that are gone and come again.
namespace mose::restore {

inline constexpr uint64_t kPages = 6000, kAreas[] = {0, 2500, kPages};
inline constexpr uint64_t kOwnPage = 12, kOwnOffset = 64;  // where the parent's first thread has its restartable sequences
inline constexpr PageRun kShutPages{3000, 100};
inline constexpr uint64_t kServed = 0x5a5a5a5a5a5a5a5a;

// What the processes and the test share.
struct Shared {
  std::atomic<uint32_t> ready, go_on, bad;
  std::atomic<uint64_t> beats;           // of threads that never wait
  std::atomic<pid_t> child;
  std::atomic<int> uffd[2];
  std::atomic<uint8_t> gone[2][kPages];  // by process: to be served
};

inline uint64_t mark_of(unsigned who, uint64_t page) { return (page + 1) * 2 + who; }

class FrozenPair : public testing::Test {
 protected:
  void SetUp() override {
    auto mount = cgroup_mount();
    ASSERT_TRUE(mount) << mount.error().what;
    auto made = Cgroup::create(*mount + "/mose-frozen-pair-test-" + std::to_string(::getpid()));
    ASSERT_TRUE(made) << made.error().what;
    group_ = std::move(*made);
    shared_ = static_cast<Shared*>(map(sizeof(Shared), MAP_SHARED));
    memory_ = static_cast<std::byte*>(map(kPages * kPageSize, MAP_PRIVATE));
    ASSERT_EQ(::madvise(memory_, kPages * kPageSize, MADV_NOHUGEPAGE), 0);
  }
  void TearDown() override {
    if (!group_.valid()) return;
    (void)group_.kill();
    (void)group_.thaw();
    served_ = true;
    if (server_.joinable()) server_.join();
    if (parent_ > 0) ::waitpid(parent_, nullptr, 0);
    EXPECT_TRUE(group_.remove(std::chrono::seconds(5)));
    ::munmap(shared_, sizeof(Shared));
    ::munmap(memory_, kPages * kPageSize);
  }
  static void* map(size_t bytes, int kind) {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
  }

  // A process with threads of several kinds and a child with one; both hold a number in every page.
  void begin(const std::function<void()>& before = [] {}) {
    parent_ = ::fork();
    if (parent_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      (void)group_.add(0);
      before();
      live(0);
    }
    ASSERT_TRUE(test::eventually([&] { return shared_->ready == 2; }));
  }
  // From here on this system call ends the process that makes it.
  static void die_of(uint32_t call) {
    sock_filter code[] = {{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0},
                          {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, call},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
                          {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    sock_fprog program{std::size(code), code};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
  }
  [[noreturn]] void live(unsigned who) {
    for (uint64_t i = 0; i < kPages; ++i) number(i) = mark_of(who, i);
    if (who == 0) {
      move_restartable_area();
      const pid_t child = ::fork();
      if (child == 0) live(1);
      shared_->child = child;
      std::thread([this] { compute(); }).detach();
      std::thread([this] { sleep_exactly(); }).detach();
    }
    for (uint64_t i = 0; leave_out_ && i < kPages; ++i)
      if (shared_->gone[who][i]) ::madvise(memory_ + i * kPageSize, kPageSize, MADV_DONTNEED);
    auto uffd = uffd_open();
    if (!uffd || !uffd_register(uffd->get(), area(0)) || !uffd_register(uffd->get(), area(1))) ++shared_->bad;
    if (uffd) shared_->uffd[who] = uffd->release();
    if (shut_) ::mprotect(memory_ + kShutPages.first * kPageSize, kShutPages.count * kPageSize, PROT_NONE);
    ++shared_->ready;
    while (shared_->go_on == 0) ::usleep(500);
    if (shut_) ::mprotect(memory_ + kShutPages.first * kPageSize, kShutPages.count * kPageSize, PROT_READ);
    for (uint64_t i = 0; i < kPages; ++i)
      if (number(i) != (shared_->gone[who][i] ? kServed : mark_of(who, i))) ++shared_->bad;
    ++shared_->ready;
    for (;;) ::pause();
  }
  uint64_t& number(uint64_t page) { return *reinterpret_cast<uint64_t*>(memory_ + page * kPageSize); }
  // To where the test sees it. The kernel writes there whenever the thread has been interrupted.
  void move_restartable_area() {
    constexpr uint32_t kBytes = 32, kSignature = 0x53053053, kUnregister = 1;
    auto* own = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    auto* to = memory_ + kOwnPage * kPageSize + kOwnOffset;
    std::memset(to, 0, kBytes);
    if (::syscall(SYS_rseq, own, kBytes, kUnregister, kSignature) != 0 || ::syscall(SYS_rseq, to, kBytes, 0, kSignature) != 0)
      ++shared_->bad;
  }
  void compute() {
    for (uint64_t seed = 1;; ++seed) {
      uint64_t a = seed, b = seed;
      for (int i = 0; i < 20000; ++i) a = a * 6364136223846793005ull + 1;
      for (int i = 0; i < 20000; ++i) b = b * 6364136223846793005ull + 1;
      if (a != b) ++shared_->bad;
      ++shared_->beats;
    }
  }
  void sleep_exactly() {
    timespec pause{0, 1'000'000};
    for (;;)
      if (::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr) != 0) ++shared_->bad;
  }

  // Random pages of both, in runs of one to five.
  std::array<PageSet, 2> choose(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::array<PageSet, 2> out;
    const uint64_t base = reinterpret_cast<uint64_t>(memory_) >> kPageShift;
    for (unsigned who : {0u, 1u}) {
      for (uint64_t at = random() % 4; at < kPages - 5; at += 6 + random() % 4) {
        if (at <= kOwnPage && at + 5 > kOwnPage) continue;
        const PageRun run{at, 1 + random() % 5};
        for (uint64_t i = run.first; i < run.end(); ++i) shared_->gone[who][i] = 1;
        out[who].add({base + run.first, run.count});
      }
    }
    return out;
  }
  PageRun area(int number) const {
    return {(reinterpret_cast<uint64_t>(memory_) >> kPageShift) + kAreas[number], kAreas[number + 1] - kAreas[number]};
  }
  Status open_processes() {
    for (size_t who : {0u, 1u}) {
      MOSE_ASSIGN(processes_[who], ProcessHandle::open(who == 0 ? parent_ : shared_->child.load()));
      MOSE_ASSIGN(uffds_[who], processes_[who].descriptor(shared_->uffd[who]));
    }
    return {};
  }
  // What is missing comes with a number of its own. Nothing else may be told: no page was given back by the process itself.
  void serve() {
    std::vector<std::byte> page(kPageSize);
    std::memcpy(page.data(), &kServed, sizeof kServed);
    for (; !served_; ::usleep(50))
      for (const Fd& uffd : uffds_) {
        UffdMessage message;
        while (uffd_read(uffd.get(), message).value_or(false)) {
          const UffdEvent event = decode(message);
          if (event.kind == UffdEvent::Kind::fault)
            (void)uffd_copy(uffd.get(), event.page, page);
          else
            ++shared_->bad;
        }
      }
  }
  void look() {
    server_ = std::thread([this] { serve(); });
    shared_->go_on = 1;
    ASSERT_TRUE(test::eventually([&] { return shared_->ready == 4; }));
    const uint64_t beats = shared_->beats;
    EXPECT_TRUE(test::eventually([&] { return shared_->beats > beats + 3; }));
    EXPECT_EQ(shared_->bad, 0u);
  }

  bool shut_ = false;       // kShutPages may not be read meanwhile
  bool leave_out_ = false;  // what is gone was never there
  Cgroup group_;
  Shared* shared_ = nullptr;
  std::byte* memory_ = nullptr;
  pid_t parent_ = -1;
  std::array<ProcessHandle, 2> processes_;
  std::array<Fd, 2> uffds_;
  std::thread server_;
  std::atomic<bool> served_{false};
};

}  // namespace mose::restore
