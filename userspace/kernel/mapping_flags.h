// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernel/bpf_iterator.h"

// The flags of a process' mappings as CRIU wants to read them, without /proc/PID/smaps. The kernel walks every page of a
// mapping before smaps tells its flags: 24 ms a gigabyte here, half of the time that the tree is frozen for a dump. A BPF
// iterator gives the same flags as bits, in some 20 us a process; what a bit is called is learned from mappings of our own,
// because it is no part of the kernel's interface.
namespace mose {

// What smaps calls each bit, "rd" and "wr" for two. Learned, never assumed.
class FlagNames {
 public:
  // One mapping: its bits and its words in smaps. Words stand in the order of bits, so that where there are as many, each is
  // the name of its bit; else nothing is learned. False: it contradicts what was learned before.
  [[nodiscard]] bool learn(uint64_t bits, std::string_view words);
  // The words of these bits, a blank behind each. Nothing when one of them was never seen.
  [[nodiscard]] std::optional<std::string> words(uint64_t bits) const;

 private:
  std::array<std::string, 64> names_;
};

struct MappingWords {
  uint64_t start = 0, end = 0;  // addresses
  std::string words;            // its flags as smaps names them, a blank behind each
};

class MappingFlags {
 public:
  // Loads the iterator and learns from mappings of this process, among them some made for it. Fails where the kernel has no
  // such iterator, or where what was learned does not give back what smaps says of one of them.
  [[nodiscard]] static Result<MappingFlags> prepare();

  // Of every mapping, in the order of addresses, as /proc/PID/maps has them. For a process that cannot change meanwhile. An error
  // where a mapping has a flag whose name is not known.
  [[nodiscard]] Result<std::vector<MappingWords>> of(pid_t pid) const;

 private:
  explicit MappingFlags(bpf::Iterator iterator) : iterator_(std::move(iterator)) {}

  bpf::Iterator iterator_;
  FlagNames names_;
  std::vector<MappingWords> everywhere_;  // that no iterator shows: the page for old system calls
};

}  // namespace mose
