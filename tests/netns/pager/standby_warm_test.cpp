// SPDX-License-Identifier: MIT
#include "restore/standby_warm.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include <array>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "kernel/proc_status.h"
#include "kernel/stopped_tree.h"
#include "netns/pager/frozen_pair.h"

// Frozen processes read their own memory for us, which the kernel counts as references and they do not notice.
namespace mose::restore {
namespace {

constexpr Nanoseconds kLong = std::chrono::seconds(30);

class StandbyWarm : public FrozenPair {
 protected:
  Result<Warmed> warm(Nanoseconds bound = kLong) {
    MOSE_TRY(open_processes());
    std::vector<WarmTarget> targets;
    for (size_t who : {0u, 1u}) {
      WarmTarget target{&processes_[who], {}};
      for (int i : {0, 1}) target.areas.add(area(i));
      targets.push_back(std::move(target));
    }
    return warm_pages(group_, targets, bound, stop_, which_);
  }
  pid_t pid(unsigned who) const { return who == 0 ? parent_ : shared_->child.load(); }
  std::string maps(unsigned who) const { return read_file("/proc/" + std::to_string(pid(who)) + "/maps").value_or("none"); }
  // And whatever translates its addresses has to be asked again.
  Status forget_references(unsigned who) const {
    iovec all{memory_, kPages * kPageSize};
    const ssize_t bytes = ::syscall(SYS_process_madvise, processes_[who].fd(), &all, 1, MADV_COLD, 0ul);
    return bytes == static_cast<ssize_t>(all.iov_len) ? Status{} : Status(fail_errno("process_madvise"));
  }
  // Pages of the two areas that the process has touched since.
  uint64_t referenced(unsigned who) const {
    std::istringstream lines(read_file("/proc/" + std::to_string(pid(who)) + "/smaps").value_or(""));
    uint64_t sum = 0;
    bool inside = false;
    for (std::string line; std::getline(lines, line);) {
      unsigned long from = 0, to = 0, kib = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx ", &from, &to) == 2)
        inside = from >= area(0).first << kPageShift && to <= area(1).end() << kPageShift;
      if (inside && std::sscanf(line.c_str(), "Referenced: %lu kB", &kib) == 1) sum += kib * 1024 / kPageSize;
    }
    return sum;
  }
  std::atomic<bool> stop_{false};
  Warming which_ = Warming::always;
};

TEST_F(StandbyWarm, EveryPageThatIsThereIsReadAndNothingElseChanges) {
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  const std::string before[] = {maps(0), maps(1)};
  const int nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(parent_));
  ASSERT_TRUE(open_processes());
  for (unsigned who : {0u, 1u}) {
    auto forgotten = forget_references(who);
    ASSERT_TRUE(forgotten) << forgotten.error().what;
    ASSERT_LT(referenced(who), kPages / 100) << "they are told of nothing";
  }
  auto warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 2 * kPages);
  EXPECT_EQ(warmed->pages_all, 2 * kPages);
  for (unsigned who : {0u, 1u}) {
    EXPECT_EQ(referenced(who), kPages) << who;
    EXPECT_EQ(maps(who), before[who]);
  }
  EXPECT_EQ(::getpriority(PRIO_PROCESS, static_cast<id_t>(parent_)), nice);
  EXPECT_TRUE(*group_.frozen());
  const uint64_t beats = shared_->beats;
  ::usleep(20'000);
  EXPECT_EQ(shared_->beats, beats) << "it runs";
  ASSERT_TRUE(group_.thaw());
  look();
}

// It would be waited for.
TEST_F(StandbyWarm, WhatIsNotThereIsNotTouched) {
  const auto pages = choose(1);
  leave_out_ = true;
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  auto warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 2 * kPages - pages[0].pages() - pages[1].pages());
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyWarm, WhatMayNotBeReadIsLeftAlone) {
  shut_ = true;
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  auto warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 2 * (kPages - kShutPages.count));
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyWarm, AFilterOfSystemCallsIsNotInTheWay) {
  begin([] { die_of(SYS_getpid); });
  ASSERT_TRUE(group_.freeze(kLong));
  auto warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 2 * kPages);
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyWarm, EndsEarlyWhenItIsToldToOrItsTimeIsOver) {
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  auto warmed = warm(Nanoseconds(0));
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 0u);
  stop_ = true;
  warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 0u);
  EXPECT_TRUE(*group_.frozen());
  ASSERT_TRUE(group_.thaw());
  look();
}

// Where nothing is to be gained only the first pages are read; on both kinds of machine what was read is right.
TEST_F(StandbyWarm, GoesOnOnlyWhereItIsWorthIt) {
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  which_ = Warming::where_worth;
  for (int i = 0; i < 2; ++i) {
    auto warmed = warm();
    ASSERT_TRUE(warmed) << warmed.error().what;
    EXPECT_EQ(warmed->pages == 2 * kPages, warmed->worth);
    if (i == 1) {
      EXPECT_FALSE(warmed->worth) << "the second time all of it is at hand";
    }
  }
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyWarm, IsKeptSoByCallsAndNothingElseRuns) {
  begin();
  ASSERT_TRUE(group_.freeze(kLong));
  ASSERT_TRUE(open_processes());
  const std::vector<WarmTarget> targets = {{&processes_[0], {}}, {&processes_[1], {}}};
  auto status = [&](unsigned who, std::string_view field) {
    return std::string(status_value(read_file("/proc/" + std::to_string(pid(who)) + "/status").value_or(""), field).value_or("none"));
  };
  const uint64_t beats = shared_->beats;
  for (bool bound : {false, true}) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (bound && ::sched_setaffinity(parent_, sizeof first, &first) != 0) break;  // not this processor
    std::array<std::string, 2> processors, waits;
    for (unsigned who : {0u, 1u}) {
      processors[who] = status(who, "Cpus_allowed");
      waits[who] = status(who, "voluntary_ctxt_switches");
    }
    stop_ = false;
    Result<uint64_t> calls = 0;
    std::thread keeper([&] { calls = keep_warm(group_, targets, stop_); });
    ::usleep(200'000);
    EXPECT_EQ(shared_->beats, beats) << "it runs";
    stop_ = true;
    keeper.join();
    ASSERT_TRUE(calls) << calls.error().what;
    EXPECT_GE(*calls, 4u);
    for (unsigned who : {0u, 1u}) {
      EXPECT_NE(status(who, "voluntary_ctxt_switches"), waits[who]) << who << " was left out";
      EXPECT_EQ(status(who, "Cpus_allowed"), processors[who]) << who;
    }
    EXPECT_TRUE(*group_.frozen());
  }
  EXPECT_EQ(keep_warm(group_, targets, stop_).value(), 0u) << "it was to end at once";
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyWarm, WhatRunsIsLeftAlone) {
  begin();
  EXPECT_EQ(keep_warm(group_, {}, stop_).value(), 0u);
  auto warmed = warm();
  ASSERT_TRUE(warmed) << warmed.error().what;
  EXPECT_EQ(warmed->pages, 0u);
  look();
}

}  // namespace
}  // namespace mose::restore
