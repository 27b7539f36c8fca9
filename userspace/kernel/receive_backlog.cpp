// SPDX-License-Identifier: MIT
#include "kernel/receive_backlog.h"

#include <algorithm>
#include <charconv>
#include <ctime>
#include <string>

#include "base/fd.h"

namespace mose {
namespace {

constexpr size_t kBacklogColumn = 11;  // from 0; both queues of the CPU
constexpr Nanoseconds kPause = std::chrono::microseconds(50);

std::string_view next_word(std::string_view& line) {
  size_t begin = line.find_first_not_of(' ');
  if (begin == std::string_view::npos) return {};
  line.remove_prefix(begin);
  std::string_view word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

}  // namespace

Result<std::vector<unsigned>> parse_receive_backlog(std::string_view text) {
  std::vector<unsigned> waiting;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    std::string_view word;
    for (size_t column = 0; column <= kBacklogColumn; ++column) word = next_word(line);
    unsigned value = 0;
    auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, 16);
    if (word.empty() || error != std::errc() || end != word.data() + word.size()) {
      return fail("/proc/net/softnet_stat does not say how many frames wait");
    }
    waiting.push_back(value);
  }
  if (waiting.empty()) return fail("/proc/net/softnet_stat is empty");
  return waiting;
}

Result<bool> wait_receive_backlog(Nanoseconds bound) {
  std::vector<bool> seen_empty;
  for (Timestamp deadline = now() + bound;;) {
    MOSE_ASSIGN(std::string text, read_file("/proc/net/softnet_stat"));
    MOSE_ASSIGN(std::vector<unsigned> waiting, parse_receive_backlog(text));
    if (seen_empty.size() < waiting.size()) seen_empty.resize(waiting.size());
    bool all = true;
    for (size_t cpu = 0; cpu < waiting.size(); ++cpu) {
      if (waiting[cpu] == 0) seen_empty[cpu] = true;
      all = all && seen_empty[cpu];
    }
    if (all) return true;
    if (now() >= deadline) return false;
    timespec pause{.tv_sec = 0, .tv_nsec = kPause.count()};
    ::nanosleep(&pause, nullptr);
  }
}

}  // namespace mose
