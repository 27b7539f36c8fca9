// SPDX-License-Identifier: MIT
#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "lab/child_process.h"
#include "lab/lab.h"

namespace mose::test {

// One test run at a time works with a lab's name; ends the process with 77 where a prerequisite is missing.
[[nodiscard]] Fd take_turn(const std::string& lab);
void need_criu_and_redis();

// Everything on this machine that a lab of this name could leave behind, as sentences.
[[nodiscard]] std::set<std::string> traces(const std::string& lab);

// Options of a lab without agents: what is tested here is the lab.
[[nodiscard]] lab::LabOptions bare_lab(const std::string& lab);

// A program on a node, as who is logged in there starts it.
[[nodiscard]] Result<lab::ProgramResult> run_on(const lab::LabState& state, const std::string& node, std::vector<std::string> words, Nanoseconds bound);

}  // namespace mose::test
