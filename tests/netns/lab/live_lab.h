// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "bed.h"
#include "lab/child_process.h"
#include "lab/lab.h"
#include "lab/node.h"
#include "lab/state.h"
#include "lab/topology.h"

namespace mose::test {

// A lab with agents, of a test's own: nothing of its name before the test, and no trace of it afterwards.
class LiveLab : public testing::Test {
 protected:
  // `command_bound`: what one command on a node may take.
  explicit LiveLab(const std::string& lab, Nanoseconds command_bound = std::chrono::minutes(1));
  ~LiveLab() override;

  // The name is filled in. Fails the test where it cannot be made: call it by ASSERT_NO_FATAL_FAILURE.
  void make_lab(lab::LabOptions options = {});
  // `mose run redis OPTIONS...` on a, at the lab's address of services.
  [[nodiscard]] lab::ProgramResult start_redis(std::vector<std::string> options = {});

  // Of a node, as this process sees it.
  [[nodiscard]] std::string root(const std::string& node) const;
  [[nodiscard]] std::string agent_log(const std::string& node) const;
  // A program on a node, and `mose WORDS...` there. What could not be run has the exit code -1 and says why.
  lab::ProgramResult run(const std::string& node, std::vector<std::string> words) const;
  lab::ProgramResult mose(const std::string& node, std::vector<std::string> words) const;

 private:
  std::string lab_;
  Nanoseconds command_bound_;
  Fd turn_;

 protected:
  lab::Names names_;
  lab::LabState state_;

 private:
  std::optional<lab::LabLock> lock_;
};

}  // namespace mose::test
