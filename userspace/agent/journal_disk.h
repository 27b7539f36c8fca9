// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// What a journal asks of its disk, step by step as a crash can come between: the simulation (tests/sim) puts a disk in the
// place of the host's that fails, is slow, and loses what was not synced. Errors carry the errno and name the step.
namespace mose::agent {

class JournalFile {
 public:
  virtual ~JournalFile() = default;
  // All bytes or an error, after which some may have been written.
  [[nodiscard]] virtual Status write_at(size_t offset, std::string_view bytes) = 0;
  [[nodiscard]] virtual Status truncate(size_t bytes) = 0;
  // On success what has been written survives the loss of the machine. After an error nothing is known of it, and a later
  // success says nothing of it either: the kernel has given those pages up.
  [[nodiscard]] virtual Status sync_data() = 0;  // without what only times need: fdatasync
  [[nodiscard]] virtual Status sync() = 0;
  // A file of create() has its name from here on.
  [[nodiscard]] virtual Status publish() = 0;
};

class JournalDisk {
 public:
  virtual ~JournalDisk() = default;
  // An empty file that may have no name before publish(): who dies before that leaves nothing, where the file system can
  // do that. Fails where there is one of that name, here or in publish().
  [[nodiscard]] virtual Result<std::unique_ptr<JournalFile>> create(const std::string& path) = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<JournalFile>> open(const std::string& path) = 0;
  [[nodiscard]] virtual Result<std::string> read(const std::string& path, size_t bytes_max) = 0;
  // Names in a directory, in any order; none where it is missing.
  [[nodiscard]] virtual Result<std::vector<std::string>> list(const std::string& directory) = 0;
  [[nodiscard]] virtual Status remove(const std::string& path) = 0;  // missing is fine
  // Names that were given and taken in it survive the loss of the machine on success.
  [[nodiscard]] virtual Status sync_directory(const std::string& directory) = 0;
};

// The host's own.
[[nodiscard]] JournalDisk& host_disk();

}  // namespace mose::agent
