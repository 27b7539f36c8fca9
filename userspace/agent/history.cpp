// SPDX-License-Identifier: MIT
#include "agent/history.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "agent/durable_file.h"
#include "base/fd.h"

namespace mose::agent {
namespace {

constexpr size_t kHistoryBytesMax = 64u << 20;

std::string id_of(const std::string& line) {
  auto value = nlohmann::json::parse(line, nullptr, false);
  if (!value.is_object()) return {};
  auto id = value.find("migration_id");
  return id != value.end() && id->is_string() ? id->get<std::string>() : std::string();
}

}  // namespace

Result<History> History::open(std::string path, size_t count_max) {
  History history;
  history.path_ = std::move(path);
  history.count_max_ = count_max;
  if (access(history.path_.c_str(), F_OK) != 0 && errno == ENOENT) return history;
  MOSE_ASSIGN(std::string text, read_file(history.path_, kHistoryBytesMax));
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!id_of(line).empty()) history.lines_.push_back(std::move(line));
    at = end + 1;
  }
  while (history.lines_.size() > count_max) history.lines_.pop_front();
  return history;
}

Status History::add(const std::string& report_json) {
  if (id_of(report_json).empty() || report_json.find('\n') != std::string::npos) {
    return fail("a report is one line of JSON with a migration_id");
  }
  lines_.push_back(report_json);
  while (lines_.size() > count_max_) lines_.pop_front();
  std::string text;
  for (const std::string& line : lines_) text += line + "\n";
  return replace_file(path_, text);
}

std::string History::list(size_t count_max) const {
  std::string out = "[";
  size_t count = 0;
  for (auto line = lines_.rbegin(); line != lines_.rend() && (count_max == 0 || count < count_max); ++line, ++count) {
    out += (count == 0 ? "" : ",") + *line;
  }
  return out + "]";
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
