// SPDX-License-Identifier: MIT
#include "kernel/tree_memory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "kernel/proc_status.h"
#include "model/page_set.h"

namespace mose {
namespace {

constexpr uint64_t kPages = 24'000, kLockedPages = 100;
constexpr Nanoseconds kLong = std::chrono::seconds(10);

struct Shared {
  std::atomic<uint32_t> ready;
  std::atomic<uint64_t> beats;
};

// A process of two threads with memory in every second page of a mapping, frozen and told to stop as a dump leaves it.
class TreeMemory : public testing::Test {
 protected:
  void SetUp() override {
#if !defined(__x86_64__)
    GTEST_SKIP() << "nobody works for us in a stopped tree here";
#endif
    auto mount = cgroup_mount();
    ASSERT_TRUE(mount) << mount.error().what;
    auto made = Cgroup::create(*mount + "/mose-tree-memory-test-" + std::to_string(::getpid()));
    ASSERT_TRUE(made) << made.error().what;
    group_ = std::move(*made);
    void* shared = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    shared_ = static_cast<Shared*>(shared);
    child_ = ::fork();
    if (child_ == 0) live();
    for (int i = 0; i < 10'000 && shared_->ready == 0; ++i) ::usleep(1000);
    ASSERT_EQ(shared_->ready, 1u) << "it has no memory, or no group";
    ASSERT_TRUE(group_.freeze(kLong));
    ASSERT_EQ(::kill(child_, SIGSTOP), 0);
  }
  void TearDown() override {
    if (!group_.valid()) return;
    (void)group_.kill();
    (void)group_.thaw();
    if (child_ > 0) ::waitpid(child_, nullptr, 0);
    EXPECT_TRUE(group_.remove(kLong));
    ::munmap(shared_, sizeof(Shared));
  }
  [[noreturn]] void live() {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!group_.add(0)) ::_exit(1);
    auto* memory = static_cast<char*>(::mmap(nullptr, 2 * kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::madvise(memory, 2 * kPages * kPageSize, MADV_NOHUGEPAGE);
    for (uint64_t i = 0; i < kPages; ++i) memory[2 * i * kPageSize] = 1;
    auto* locked = static_cast<char*>(::mmap(nullptr, kLockedPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (::mlock(locked, kLockedPages * kPageSize) != 0) ::_exit(1);
    std::thread([this] {
      for (;;) ++shared_->beats;
    }).detach();
    shared_->ready = 1;
    for (;;) ::pause();
  }
  [[nodiscard]] uint64_t resident() const { return resident_bytes(child_).own / kPageSize; }

  Cgroup group_;
  Shared* shared_ = nullptr;
  pid_t child_ = -1;
};

TEST_F(TreeMemory, IsGivenBackByAProcessThatNeverRuns) {
  ASSERT_GE(resident(), kPages + kLockedPages);
  const uint64_t beats = shared_->beats;
  auto given = give_memory_back(group_, kLong, 0);
  ASSERT_TRUE(given) << given.error().what;
  EXPECT_GE(*given, kPages);
  EXPECT_LT(resident(), kPages / 10);
  EXPECT_GE(resident(), kLockedPages);
  EXPECT_TRUE(*group_.frozen());
  ::usleep(20'000);
  EXPECT_EQ(shared_->beats, beats) << "it runs";
  // Nor does it without the freezer: it is stopped as before.
  ASSERT_TRUE(group_.thaw());
  ::usleep(20'000);
  EXPECT_EQ(shared_->beats, beats) << "it runs";
}

TEST_F(TreeMemory, OfASmallProcessIsLeftAlone) {
  const uint64_t before = resident();
  auto given = give_memory_back(group_, kLong);
  ASSERT_TRUE(given) << given.error().what;
  EXPECT_EQ(*given, 0u);
  EXPECT_EQ(resident(), before);
  EXPECT_TRUE(*group_.frozen());
}

TEST_F(TreeMemory, IsLeftToTheKillWhenTheTimeIsOver) {
  const uint64_t before = resident();
  auto given = give_memory_back(group_, Nanoseconds(0), 0);
  ASSERT_TRUE(given) << given.error().what;
  EXPECT_EQ(*given, 0u);
  EXPECT_EQ(resident(), before);
  EXPECT_TRUE(*group_.frozen());
}

TEST_F(TreeMemory, OfWhatRunsIsNotTouched) {
  ASSERT_EQ(::kill(child_, SIGCONT), 0);
  ASSERT_TRUE(group_.thaw());
  const uint64_t beats = shared_->beats;
  EXPECT_FALSE(give_memory_back(group_, kLong, 0));
  EXPECT_GE(resident(), kPages);
  for (int i = 0; i < 1000 && shared_->beats == beats; ++i) ::usleep(1000);
  EXPECT_NE(shared_->beats, beats);
}

}  // namespace
}  // namespace mose
