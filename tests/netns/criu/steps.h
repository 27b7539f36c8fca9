// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "bed.h"

// The steps of a move as the tests need them, each with everything checked on the way.
namespace mose::test {

inline constexpr Nanoseconds kBound{10'000'000'000};
inline const std::vector<std::string> kWorkloadCommand = {"/bin/workload", "2000", "/data/state"};

inline ::testing::AssertionResult ok(const Status& status) {
  if (status) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << status.error().what;
}
template <typename T>
::testing::AssertionResult ok(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().what;
}

// Called at each hook; true: go on, false: answer no.
using AtHook = std::function<Result<bool>(const restore::Swrk::Hook&)>;
// Drives CRIU to its answer. The error of a dead CRIU begins with "CRIU died".
[[nodiscard]] Result<restore::Swrk::Done> drive(restore::Swrk& swrk, const AtHook& at_hook);

// Dump of the frozen workload. At post-dump the group is frozen again, then `at_hook` is called, if any. Afterwards the
// tree is stopped and frozen.
[[nodiscard]] Status dump(CriuBed::Node& from, restore::Swrk& swrk, int images, const AtHook& at_hook = {});
// Adds the contents of all pages to the images of a dump without memory.
[[nodiscard]] Status add_pages(const CriuBed::Node& from, int images);
// Restore behind the fence; returns the new first process. `at_hook` is called after our own work at that hook.
[[nodiscard]] Result<pid_t> restore_tree(CriuBed::Node& to, restore::Swrk& swrk, int images, const AtHook& at_hook = {},
                                         bool lazy = false);
[[nodiscard]] Status carry_images(int from, int to);
// After a dump that is not wanted any more: the source goes on.
[[nodiscard]] Status resume(CriuBed::Node& node);
// Kills what is in the node's group, whose connections say nothing, and leaves it ready for use.
[[nodiscard]] Status clear(CriuBed::Node& node);

struct HopTimes {
  double freeze_ms = 0, dump_ms = 0, pages_ms = 0, carry_ms = 0, restore_ms = 0;
};
// One move; afterwards `to` runs and `from` is empty.
[[nodiscard]] Result<HopTimes> hop(CriuBed& bed, CriuBed::Node& from, CriuBed::Node& to);

}  // namespace mose::test
