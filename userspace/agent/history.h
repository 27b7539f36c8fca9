// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <string>

#include "base/result.h"
#include "model/migration.h"

namespace mose::agent {

// Reports of finished migrations, the newest last, in state_dir/history.jsonl: one line of JSON each, at most
// `count_max` kept, and no more than fit into `bytes_max`: the oldest go. Rewritten whole through a temporary file, so
// that a crash leaves the old or the new one.
class History {
 public:
  static constexpr size_t kBytesMax = 64u << 20;  // read whole at start, and kept in memory

  // A missing file is an empty history; lines that cannot be read are dropped. Of a longer file the end is read.
  static Result<History> open(std::string path, size_t count_max, size_t bytes_max = kBytesMax);

  [[nodiscard]] Status add(const std::string& report_json);
  // Newest first, as a JSON array of at most `bytes_max`; `count_max` 0: all. `left_out`: asked for, but without room.
  struct Page {
    std::string json;
    size_t left_out = 0;
  };
  [[nodiscard]] Page list(size_t count_max, size_t bytes_max) const;
  // The report whose migration_id begins with `prefix`; an error when there is none or more than one.
  [[nodiscard]] Result<std::string> find(const std::string& prefix) const;
  [[nodiscard]] size_t count() const { return lines_.size(); }

 private:
  std::string path_;
  void keep(std::string line);

  size_t count_max_ = 0, bytes_max_ = 0;
  size_t bytes_ = 0;  // of the lines with their ends
  std::deque<std::string> lines_;
};

}  // namespace mose::agent
