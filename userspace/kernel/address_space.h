// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <utility>

#include "base/result.h"
#include "kernel/bpf_iterator.h"

// Whether the mappings of a process have been changed between two looks, by whomever and however shortly: a mapping that came
// and went, a fork, a move. The kernel counts how often it locks an address space for such a change (Linux 6.4 with locks for each
// mapping); a BPF iterator reads that count, because nothing in /proc tells it.
namespace mose {

// Equal at two moments: between them no mapping of the process was made, changed, moved or taken away, the process has
// neither forked nor executed another program, and (`next_pid` too) nobody of its pid namespace has got a number, unless he
// chose it himself (clone3 with set_tid).
struct AddressSpaceState {
  uint64_t identity = 0;
  uint32_t changes = 0;
  uint32_t next_pid = 0;
  bool operator==(const AddressSpaceState&) const = default;
};

class AddressSpaces {
 public:
  // Loads the iterator: some milliseconds. Fails where the kernel has no iterators.
  [[nodiscard]] static Result<AddressSpaces> prepare();

  // Some 20 us. An error for a process without memory, or where the kernel does not count. What is under way at that moment
  // counts as a change that is still to come.
  [[nodiscard]] Result<AddressSpaceState> of(pid_t pid) const;

 private:
  explicit AddressSpaces(bpf::Iterator iterator) : iterator_(std::move(iterator)) {}
  bpf::Iterator iterator_;
};

}  // namespace mose
