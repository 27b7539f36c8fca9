// SPDX-License-Identifier: MIT
#include "walk_page.h"

#include <fnmatch.h>

#include <sstream>

namespace mose::test {
namespace {

constexpr const char* kAnything = "…";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.pop_back();
    out.push_back(line);
  }
  return out;
}

std::string as_pattern(const std::string& line) {
  std::string out;
  for (size_t at = 0; at < line.size();) {
    if (line.compare(at, 3, kAnything) == 0) {
      out += '*';
      at += 3;
      continue;
    }
    if (std::string_view("*?[\\").find(line[at]) != std::string_view::npos) out += '\\';
    out += line[at++];
  }
  return out;
}

using Lines = std::vector<std::string>;

bool matches(Lines::const_iterator said, Lines::const_iterator said_end, Lines::const_iterator line, Lines::const_iterator end) {
  if (said == said_end) return line == end;
  if (*said == kAnything) {
    for (;; ++line) {
      if (matches(said + 1, said_end, line, end)) return true;
      if (line == end) return false;
    }
  }
  return line != end && ::fnmatch(as_pattern(*said).c_str(), line->c_str(), 0) == 0 && matches(said + 1, said_end, line + 1, end);
}

constexpr const char* kBothNodes = "a,b";

bool is_place(const std::string& word) { return word == "ops" || word == "a" || word == "b"; }

// What the words behind the backquotes say; nothing: they say nothing that is known.
std::optional<WalkStep> step_of(const std::string& info) {
  std::istringstream in(info);
  std::string language, first, second, more;
  in >> language >> first >> second >> more;
  WalkStep step;
  step.place = first;
  if (!more.empty()) return std::nullopt;
  if (((language == "toml" && is_place(first)) || (language == "file" && first == kBothNodes)) && second.starts_with("/")) {
    step.kind = WalkStep::Kind::write_file;
    step.file = second;
    return step;
  }
  if (language != "sh") return std::nullopt;
  if (is_place(first) && second.empty()) return step;
  if (first == "by-hand" && second.empty()) {
    step.kind = WalkStep::Kind::by_hand;
    return step;
  }
  if ((first != "power-off" && first != "power-on") || !is_place(second)) return std::nullopt;
  step.kind = first == "power-off" ? WalkStep::Kind::power_off : WalkStep::Kind::power_on;
  step.place = second;
  return step;
}

}  // namespace

bool prints_as(const std::string& said, const std::string& output) {
  const Lines expected = lines_of(said), got = lines_of(output);
  return matches(expected.begin(), expected.end(), got.begin(), got.end());
}

std::optional<std::vector<WalkStep>> read_walk(const std::string& page, std::string& problem) {
  constexpr const char* kFence = "```";
  std::vector<WalkStep> out;
  const Lines lines = lines_of(page);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].starts_with(kFence)) continue;
    const size_t fence = i;
    std::string body;
    for (++i; i < lines.size() && lines[i] != kFence; ++i) body += lines[i] + "\n";
    const std::string info = lines[fence].substr(3);
    // Right behind the block that it belongs to, or the reader would not know to which.
    const bool follows = fence > 0 && lines[fence - 1] == kFence && !out.empty() && out.back().kind == WalkStep::Kind::type;
    if (info == "text" && follows) {
      out.back().printed = body;
      continue;
    }
    auto step = step_of(info);
    if (!step || i == lines.size()) {
      problem = "line " + std::to_string(fence + 1) + ": a block that nobody can follow: " + lines[fence];
      return std::nullopt;
    }
    step->body = body;
    step->line = fence + 1;
    if (step->place != kBothNodes) {
      out.push_back(*step);
      continue;
    }
    for (const char* place : {"a", "b"}) {
      out.push_back(*step);
      out.back().place = place;
    }
  }
  return out;
}

}  // namespace mose::test
