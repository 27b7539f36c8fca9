// SPDX-License-Identifier: MIT
#include "kernel/proc_status.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>

#include "base/fd.h"
#include "kernel/proc_path.h"

namespace mose {
namespace {

constexpr size_t kBytesMax = 65536;

template <typename Number>
std::optional<Number> number(std::string_view text, int base) {
  Number value{};
  if (std::from_chars(text.data(), text.data() + text.size(), value, base).ec != std::errc{}) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::string_view> status_value(std::string_view status, std::string_view field) {
  // The command's name comes first and may hold anything but the end of a line.
  for (size_t at = status.find('\n'); at != std::string_view::npos; at = status.find('\n', at + 1)) {
    std::string_view line = status.substr(at + 1);
    if (!line.starts_with(field) || !line.substr(field.size()).starts_with(':')) continue;
    line = line.substr(field.size() + 1);
    line = line.substr(0, line.find('\n'));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    return line.substr(0, line.find_last_not_of(" \t") + 1);
  }
  return std::nullopt;
}

uint64_t pending_signals(std::string_view status) {
  uint64_t all = 0;
  for (std::string_view field : {"SigPnd", "ShdPnd"}) all |= number<uint64_t>(status_value(status, field).value_or(""), 16).value_or(0);
  return all;
}

bool has_seccomp_filter(std::string_view status) { return status_value(status, "Seccomp").value_or("0") != "0"; }

Result<std::vector<pid_t>> numbers_of(pid_t thread) {
  auto status = read_file(proc_path(thread, "status"), kBytesMax);
  if (!status && (status.error().code == ENOENT || status.error().code == ESRCH)) return fail_errno("thread " + std::to_string(thread), ESRCH);
  if (!status) return std::unexpected(std::move(status.error()));
  std::string_view line = status_value(*status, "NSpid").value_or("");
  std::vector<pid_t> numbers;
  while (!line.empty()) {
    auto one = number<pid_t>(line, 10);
    if (!one) break;
    numbers.push_back(*one);
    line.remove_prefix(std::min(line.find_first_of("\t "), line.size()));
    line.remove_prefix(std::min(line.find_first_not_of("\t "), line.size()));
  }
  if (numbers.empty() || !line.empty()) return fail("/proc/PID/status: NSpid is not understood");
  // It was reaped between the opening of that file and its reading.
  if (numbers.back() == 0) return std::unexpected(Error{ESRCH, "thread " + std::to_string(thread) + " has ended"});
  return numbers;
}

Resident resident_bytes(pid_t process) {
  auto status = read_file(proc_path(process, "status"), kBytesMax);
  if (!status) return {};
  auto bytes = [&](std::string_view field) { return number<uint64_t>(status_value(*status, field).value_or(""), 10).value_or(0) * 1024; };
  return {bytes("RssAnon"), bytes("RssShmem")};
}

pid_t tracer_of(pid_t thread) {
  auto status = read_file(proc_path(thread, "status"), kBytesMax);
  return status ? number<pid_t>(status_value(*status, "TracerPid").value_or("0"), 10).value_or(0) : 0;
}

char state_of(pid_t thread) {
  auto status = read_file(proc_path(thread, "status"), kBytesMax);
  if (!status) return status.error().code == ENOENT || status.error().code == ESRCH ? 'X' : '?';
  const std::string_view state = status_value(*status, "State").value_or("");
  return state.empty() ? '?' : state.front();
}

bool has_ended(pid_t thread) {
  const char state = state_of(thread);
  return state == 'Z' || state == 'X';
}

}  // namespace mose
