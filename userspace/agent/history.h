// SPDX-License-Identifier: MIT
#pragma once

#include <deque>
#include <string>

#include "base/result.h"
#include "model/migration.h"

namespace mose::agent {

// Reports of finished migrations, the newest last, in state_dir/history.jsonl: one line of JSON each, at most
// `count_max` kept. Rewritten whole through a temporary file, so that a crash leaves the old or the new one.
class History {
 public:
  // A missing file is an empty history; lines that cannot be read are dropped.
  static Result<History> open(std::string path, size_t count_max);

  [[nodiscard]] Status add(const std::string& report_json);
  // Newest first; `count_max` 0: all. A JSON array.
  [[nodiscard]] std::string list(size_t count_max) const;
  // The report whose migration_id begins with `prefix`; an error when there is none or more than one.
  [[nodiscard]] Result<std::string> find(const std::string& prefix) const;
  [[nodiscard]] size_t count() const { return lines_.size(); }

 private:
  std::string path_;
  size_t count_max_ = 0;
  std::deque<std::string> lines_;
};

}  // namespace mose::agent
