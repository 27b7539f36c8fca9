// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <vector>

// docs/operator.md as a list of what is to be done. Its fenced blocks:
//
//   sh PLACE            typed there: ops, a or b
//   sh by-hand          a person's, not the test's
//   sh power-off NODE, sh power-on NODE
//   text                what the block before it prints, all of it: "…" is anything within a line, a line of its own any number of
//                       lines. A block that none follows prints nothing.
//   toml NODE FILE      the contents of that file
namespace mose::test {

struct WalkStep {
  enum class Kind { type, write_file, power_off, power_on, by_hand };
  Kind kind = Kind::type;
  std::string place;  // node or "ops"
  std::string file;   // write_file
  std::string body;
  std::string printed;  // type: what it has to print
  size_t line = 0;      // of the fence, from 1
};

// Nothing and a sentence in `problem`: a fence that is none of the above.
[[nodiscard]] std::optional<std::vector<WalkStep>> read_walk(const std::string& page, std::string& problem);

// Whether `output` is what the page says.
[[nodiscard]] bool prints_as(const std::string& said, const std::string& output);

}  // namespace mose::test
