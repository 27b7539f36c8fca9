// SPDX-License-Identifier: MIT
// What the page fault programs make of processes that write in known ways. Counts are compared by region, because a
// process writes to its stack as well.
#include "sense/fault_monitor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "kernel/cgroup.h"
#include "kernel/pagemap.h"
#include "kernel/probe.h"
#include "kernel/write_tracking.h"
#include "netns/sense/sense_bed.h"
#include "support/support.h"

namespace mose::sense {
namespace {

using Form = FaultMonitorOptions::Form;
using test::Actor;
using test::Group;

constexpr size_t kRegionPages = 512;
constexpr size_t kRegionBytes = kRegionPages * kPageSize;

// Aligned to a region, without huge pages, inherited by an Actor that is made afterwards.
class Memory {
 public:
  explicit Memory(size_t regions) : bytes_((regions + 1) * kRegionBytes) {
    base_ = static_cast<char*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(base_) + kRegionBytes - 1) & ~(kRegionBytes - 1));
    madvise(base_, bytes_, MADV_NOHUGEPAGE);
  }
  ~Memory() { munmap(base_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] uint64_t first_page() const { return reinterpret_cast<uintptr_t>(at) >> kPageShift; }
  [[nodiscard]] PageRun pages(size_t regions = 1) const { return {first_page(), regions * kRegionPages}; }
  void write(size_t first, size_t count) const {
    for (size_t i = first; i < first + count; ++i) static_cast<volatile char*>(at)[i * kPageSize] = 1;
  }
  char* at;

 private:
  size_t bytes_;
  char* base_;
};

FaultMonitor attach(const Cgroup& group, const FaultMonitorOptions& options = {}) {
  for (const char* needed : {"btf", "page-fault-tracepoints"}) {
    ProbeResult found = probe(needed);
    if (found.state != ProbeState::yes) test::skip_process(std::string(needed) + ": " + found.detail);
  }
  auto monitor = FaultMonitor::attach(group.path(), options);
  if (!monitor) {
    ADD_FAILURE() << monitor.error().what;
    std::abort();
  }
  return std::move(*monitor);
}

// Of a group that stands still: an actor still writes a little when its step is done.
FaultSnapshot snapshot_of(const FaultMonitor& monitor, const Cgroup& group) {
  EXPECT_TRUE(group.freeze(std::chrono::seconds(5)));
  auto snapshot = monitor.snapshot();
  EXPECT_TRUE(group.thaw());
  EXPECT_TRUE(snapshot) << snapshot.error().what;
  return snapshot ? std::move(*snapshot) : FaultSnapshot{};
}

// Region number `index` of the memory; nothing counted there gives zeros.
RegionFaults region_at(const FaultMonitor& monitor, const Memory& memory, size_t index = 0) {
  auto snapshot = monitor.snapshot();
  EXPECT_TRUE(snapshot) << snapshot.error().what;
  for (RegionFaults& region : snapshot->regions) {
    if (region.pages.first == memory.first_page() + index * kRegionPages) return region;
  }
  return {};
}

class FaultMonitorForm : public testing::TestWithParam<Form> {};

TEST_P(FaultMonitorForm, EachUntouchedPageThatIsWrittenIsOneFault) {
  Group group;
  Memory memory(1);
  Actor actor({[&] { memory.write(0, kRegionPages); }, [&] { memory.write(0, kRegionPages); }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group, {.form = GetParam()});
  actor.step();
  RegionFaults region = region_at(monitor, memory);
  EXPECT_EQ(region.faults, kRegionPages);
  EXPECT_THAT(region.history, testing::Each(0x80));
  EXPECT_EQ(region.pid, static_cast<uint32_t>(actor.pid()));
  EXPECT_EQ(region.space, actor.spaces().at(0).space);
  EXPECT_GE(monitor.totals()->absent, kRegionPages);
  actor.step();  // present and writable: nothing to see
  EXPECT_EQ(region_at(monitor, memory).faults, kRegionPages);
}

// The kernel resolves these faults alone; they pass the tracepoint all the same, once for each page and arming.
TEST_P(FaultMonitorForm, EachWriteProtectedPageThatIsWrittenIsOneFault) {
  Group group;
  Memory memory(1);
  std::vector<std::function<void()>> steps(3, [&] { memory.write(0, kRegionPages); });
  Actor actor(steps);
  ASSERT_TRUE(group.group.add(actor.pid()));
  actor.step();
  auto tracking = WriteTracking::take(actor.pid());
  // On a busy machine a thread may not come to its stop within the bound of a borrow.
  for (int i = 0; i < 50 && !tracking; ++i) tracking = WriteTracking::take(actor.pid());
  ASSERT_TRUE(tracking) << tracking.error().what;
  ASSERT_TRUE(tracking->add(memory.pages()));
  auto pagemap = Pagemap::open(actor.pid());
  FaultMonitor monitor = attach(group.group, {.form = GetParam()});
  PageSet area = PageSet::from_runs({memory.pages()});
  for (uint64_t armed = 1; armed <= 2; ++armed) {
    auto before = monitor.totals();
    ASSERT_TRUE(pagemap->protect(area));
    actor.step();
    EXPECT_EQ(region_at(monitor, memory).faults, armed * kRegionPages);
    EXPECT_GE(monitor.totals()->present - before->present, kRegionPages);
    EXPECT_EQ(pagemap->tracked(area)->written.pages(), kRegionPages);  // the record that is the truth
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, FaultMonitorForm, testing::Values(Form::tp_btf, Form::raw_tp),
                         [](const auto& form) { return form.param == Form::tp_btf ? "tp_btf" : "raw_tp"; });

TEST(FaultMonitor, ReadsAreNotCounted) {
  Group group;
  Memory memory(1);
  Actor actor({[&] {
    for (size_t i = 0; i < kRegionPages; ++i)
      static_cast<void>(*static_cast<volatile char*>(memory.at + i * kPageSize));
  }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group);
  actor.step();
  EXPECT_EQ(region_at(monitor, memory).faults, 0u);
}

TEST(FaultMonitor, WhatTheKernelWritesForTheProcessIsCountedAsSuch) {
  Group group;
  Memory memory(1);
  Actor actor({[&] {
    int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    if (read(zero, memory.at, kRegionBytes) != static_cast<ssize_t>(kRegionBytes)) _exit(3);
  }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group);
  uint64_t before = monitor.totals()->from_kernel;
  actor.step();
  EXPECT_EQ(region_at(monitor, memory).faults, kRegionPages);
  EXPECT_GE(monitor.totals()->from_kernel - before, kRegionPages);
}

TEST(FaultMonitor, OnlyTheGroupAndGroupsBelowItCount) {
  Group group;
  auto below = Cgroup::create(group.group.path() + "/below");
  ASSERT_TRUE(below) << below.error().what;
  {
    Memory memory(2);
    Actor inside({[&] { memory.write(0, 7); }}), outside({[&] { memory.write(kRegionPages, 7); }});
    ASSERT_TRUE(below->add(inside.pid()));
    FaultMonitor monitor = attach(group.group);
    inside.step();
    ASSERT_TRUE(group.group.freeze(std::chrono::seconds(5)));
    auto before = monitor.totals();
    outside.step();
    EXPECT_EQ(monitor.totals()->faults, before->faults);
    EXPECT_EQ(region_at(monitor, memory, 0).faults, 7u);
    EXPECT_EQ(region_at(monitor, memory, 1).faults, 0u);
    EXPECT_TRUE(group.group.thaw());
  }
  EXPECT_TRUE(below->remove(std::chrono::seconds(2)));
}

TEST(FaultMonitor, TellsThreadsApart) {
  Group group;
  Memory memory(3);
  Actor actor({[&] {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 3; ++i) {
      threads.emplace_back([&memory, i] {
        pthread_setname_np(pthread_self(), ("writer-" + std::to_string(i)).c_str());
        memory.write(i * kRegionPages, 100 * (i + 1));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group);
  actor.step();
  FaultSnapshot snapshot = snapshot_of(monitor, group.group);
  uint64_t sum = 0;
  std::vector<uint64_t> of_writers;
  for (const ThreadFaults& thread : snapshot.threads) {
    sum += thread.faults;
    EXPECT_NE(thread.inner_tid, 0u);
    EXPECT_EQ(thread.space, actor.spaces().at(0).space);
    if (thread.tid != static_cast<uint32_t>(actor.pid())) of_writers.push_back(thread.faults);
  }
  // A thread also writes to its stack and its block, some pages only; most faults come first.
  ASSERT_EQ(of_writers.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_GE(of_writers[i], 100 * (3 - i));
    EXPECT_LT(of_writers[i], 100 * (3 - i) + 50);
  }
  EXPECT_EQ(sum, snapshot.totals.faults);
  ASSERT_EQ(snapshot.processes.size(), 1u);
  EXPECT_EQ(snapshot.processes[0].faults(), snapshot.totals.faults);
}

TEST(FaultMonitor, NamesAProcessAsItsOwnPidNamespaceDoes) {
  Group group;
  Memory memory(1);
  Actor actor({[&] {
    if (unshare(CLONE_NEWPID) != 0) _exit(3);
    pid_t child = fork();
    if (child == 0) {
      memory.write(0, 9);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group);
  actor.step();
  RegionFaults region = region_at(monitor, memory);
  EXPECT_EQ(region.faults, 9u);
  EXPECT_EQ(region.space, 1u);
  EXPECT_NE(region.pid, static_cast<uint32_t>(actor.pid()));
}

TEST(FaultMonitor, AHistoryAgesByEpochs) {
  Group group;
  Memory memory(1);
  // Given back, a page is absent and faults again.
  auto again = [&](size_t page) {
    madvise(memory.at + page * kPageSize, kPageSize, MADV_DONTNEED);
    memory.write(page, 1);
  };
  Actor actor({[&] { memory.write(0, 2); }, [&] { again(1); }, [&] { again(1), again(9); }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group);
  actor.step();
  monitor.next_epoch();
  actor.step();
  monitor.next_epoch();
  monitor.next_epoch();
  actor.step();
  auto history = region_at(monitor, memory).history;
  ASSERT_EQ(history.size(), kRegionPages);
  EXPECT_EQ(history[0], 0b00010000);
  EXPECT_EQ(history[1], 0b10110000);
  EXPECT_EQ(history[9], 0b10000000);
  EXPECT_EQ(history[8], 0);
  monitor.next_epoch();  // not touched in it: whoever reads goes on counting
  EXPECT_EQ(region_at(monitor, memory).history[1], 0b01011000);
  for (int i = 0; i < 7; ++i) monitor.next_epoch();
  EXPECT_THAT(region_at(monitor, memory).history, testing::Each(0));
}

TEST(FaultMonitor, BoundedTablesCountWhatTheyCannotHold) {
  constexpr size_t kRegions = 1024, kBound = 64;
  Group group;
  Memory memory(kRegions);
  Actor actor({[&] {
    for (size_t i = 0; i < kRegions; ++i) memory.write(i * kRegionPages, 1);
    pid_t child = fork();
    if (child == 0) {
      memory.write(0, kRegionPages);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  }});
  ASSERT_TRUE(group.group.add(actor.pid()));
  FaultMonitor monitor = attach(group.group, {.processes_max = 1, .threads_max = 64, .regions_max = kBound});
  actor.step();
  FaultSnapshot snapshot = snapshot_of(monitor, group.group);
  EXPECT_LE(snapshot.regions.size(), kBound);
  EXPECT_GT(snapshot.regions.size(), 0u);
  EXPECT_GE(snapshot.totals.faults, kRegions + kRegionPages);
  uint64_t held = 0;
  for (const RegionFaults& region : snapshot.regions) held += region.faults;
  EXPECT_EQ(held + snapshot.lost() - snapshot.totals.missed, snapshot.totals.faults);
  EXPECT_GE(snapshot.evicted_regions, kRegions - kBound);
  ASSERT_EQ(snapshot.processes.size(), 1u);
  EXPECT_GE(snapshot.totals.lost_processes, kRegionPages);
  EXPECT_EQ(snapshot.processes[0].faults() + snapshot.totals.lost_processes, snapshot.totals.faults);
}

TEST(FaultMonitor, SaysWhatItCannotWatch) {
  auto monitor = FaultMonitor::attach("/sys/fs/cgroup/no-such-group");
  ASSERT_FALSE(monitor);
  EXPECT_THAT(monitor.error().what, testing::HasSubstr("/sys/fs/cgroup/no-such-group"));
  EXPECT_THAT(monitor.error().what, testing::HasSubstr("No such file"));
}

}  // namespace
}  // namespace mose::sense
