// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

// Watches both places of a workload while it moves, and finds any moment at which the program ran on both.
//
// Life: from construction to destruction a thread samples each millisecond; begin() and end() frame one case.
//
// A cgroup that is populated and not frozen is only suspicious: CRIU stands in the destination's group while it restores,
// and thaws the source's while it dumps. So where both are suspicious the processes themselves are looked at: the program
// runs where a task of it is neither frozen, stopped nor traced and is, by its instruction pointer, in the program's own
// code or its libraries (a task under restore is in CRIU's). The first place is looked at again after the second, so that
// a handover between the two looks is not taken for two running trees.
namespace mose::test {

class TreeWatch {
 public:
  // Directories of the workload's cgroups; they come and go.
  TreeWatch(std::string cgroup_a, std::string cgroup_b, std::string program);
  ~TreeWatch();

  struct Findings {
    uint64_t samples = 0;
    uint64_t suspicious = 0;              // samples with both groups populated and not frozen
    std::vector<std::string> violations;  // both ran: what was seen, at most kViolationsMax
  };
  void begin();
  [[nodiscard]] Findings end();

 private:
  void loop();
  void sample();

  std::string groups_[2], program_;
  std::mutex mutex_;
  Findings findings_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

inline constexpr size_t kViolationsMax = 5;

// Populated and not frozen.
[[nodiscard]] bool group_may_run(const std::string& cgroup);
// What shows that a task of `program` (beginning of its name) runs its own code in that cgroup; nothing: none does.
[[nodiscard]] std::optional<std::string> running_evidence(const std::string& cgroup, const std::string& program);

}  // namespace mose::test
