// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "region.h"

namespace mose::test {

struct WriterOptions {
  std::string data;  // file of write_data(); empty: no writers that need one
};

// The regions of one kind differ in nothing but their number. For Kind::stack `stack` is where the pages are, on the
// stack of the thread that calls step(). Ends the process where memory cannot be had.
[[nodiscard]] std::unique_ptr<Region> make_region(Kind kind, unsigned number, const WriterOptions& options,
                                                  char* stack);
[[nodiscard]] uint64_t pages_of(Kind kind);
// All regions get that many, a power of two; before the first is made.
void set_pages(uint64_t pages);
[[nodiscard]] bool needs_data(Kind kind);

// The file from which pages are read that nobody in the process has in memory: for each kind that reads it what all its
// steps leave, several times around. The same on every node.
[[nodiscard]] bool write_data(const std::string& path);

}  // namespace mose::test
