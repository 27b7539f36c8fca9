// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kernel/stopped_tree.h"

namespace mose::restore {

// Memory of ours in a stopped process, for what its thread is to be given or to execute. Whoever has made it takes it away again
// with remove(), or does not let the process run any more.
class AddedMemory {
 public:
  // Readable and writable, private, all zero. Nothing: the process may not have it (a limit).
  [[nodiscard]] static Result<std::optional<AddedMemory>> add(StoppedTree& tree, pid_t process, size_t bytes);

  [[nodiscard]] uint64_t address() const { return address_; }
  [[nodiscard]] Status write(uint64_t offset, std::span<const std::byte> contents) const;
  // False: refused. From the beginning, whole pages.
  [[nodiscard]] Result<bool> make_executable(size_t bytes) const;
  [[nodiscard]] Status remove() const;

 private:
  AddedMemory(StoppedTree& tree, pid_t process, uint64_t address, size_t bytes)
      : tree_(&tree), process_(process), address_(address), bytes_(bytes) {}
  StoppedTree* tree_;
  pid_t process_;
  uint64_t address_;
  size_t bytes_;
};

}  // namespace mose::restore
