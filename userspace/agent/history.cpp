// SPDX-License-Identifier: MIT
#include "agent/history.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "agent/durable_file.h"
#include "base/fd.h"
#include "base/log.h"

namespace mose::agent {
namespace {

std::string id_of(const std::string& line) {
  auto value = nlohmann::json::parse(line, nullptr, false);
  if (!value.is_object()) return {};
  auto id = value.find("migration_id");
  return id != value.end() && id->is_string() ? id->get<std::string>() : std::string();
}

// The last `bytes_max` bytes of a file, from the beginning of a line on.
Result<std::string> read_end(const std::string& path, size_t bytes_max) {
  MOSE_ASSIGN(Fd file, open_file(path, O_RDONLY));
  struct stat info;
  if (fstat(file.get(), &info) != 0) return fail_errno("read " + path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size <= bytes_max) return read_all(file.get(), bytes_max);
  log::warn("the history is longer than what is kept: its oldest entries are dropped",
            {{"file", path}, {"bytes", size}, {"kept", bytes_max}});
  if (lseek(file.get(), static_cast<off_t>(size - bytes_max), SEEK_SET) < 0) return fail_errno("seek in " + path);
  MOSE_ASSIGN(std::string text, read_all(file.get(), bytes_max));
  return text.substr(std::min(text.find('\n'), text.size() - 1) + 1);
}

}  // namespace

Result<History> History::open(std::string path, size_t count_max, size_t bytes_max) {
  History history;
  history.path_ = std::move(path);
  history.count_max_ = count_max;
  history.bytes_max_ = bytes_max;
  if (access(history.path_.c_str(), F_OK) != 0 && errno == ENOENT) return history;
  MOSE_ASSIGN(std::string text, read_end(history.path_, bytes_max));
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!id_of(line).empty()) history.keep(std::move(line));
    at = end + 1;
  }
  return history;
}

void History::keep(std::string line) {
  bytes_ += line.size() + 1;
  lines_.push_back(std::move(line));
  // The newest stays, whatever its length.
  while (lines_.size() > 1 && (lines_.size() > count_max_ || bytes_ > bytes_max_)) {
    bytes_ -= lines_.front().size() + 1;
    lines_.pop_front();
  }
}

Status History::add(const std::string& report_json) {
  if (id_of(report_json).empty() || report_json.find('\n') != std::string::npos) {
    return fail("a report is one line of JSON with a migration_id");
  }
  keep(report_json);
  std::string text;
  text.reserve(bytes_);
  for (const std::string& line : lines_) text += line + "\n";
  return replace_file(path_, text);
}

History::Page History::list(size_t count_max, size_t bytes_max) const {
  Page page{"[", 0};
  const size_t wanted = count_max == 0 ? lines_.size() : std::min(count_max, lines_.size());
  size_t count = 0;
  for (auto line = lines_.rbegin(); count < wanted; ++line, ++count) {
    if (page.json.size() + line->size() + 2 > bytes_max) break;
    page.json += (count == 0 ? "" : ",") + *line;
  }
  page.json += "]";
  page.left_out = wanted - count;
  return page;
}

Result<std::string> History::find(const std::string& prefix) const {
  const std::string* found = nullptr;
  for (const std::string& line : lines_) {
    std::string id = id_of(line);
    if (!id.starts_with(prefix)) continue;
    if (found != nullptr && id_of(*found) != id)
      return fail(fmt::format("more than one migration begins with {}", prefix));
    found = &line;
  }
  if (found == nullptr) return fail(fmt::format("no migration {} is known here: see mose history", prefix));
  return *found;
}

}  // namespace mose::agent
