// SPDX-License-Identifier: MIT
#include "tree_watch.h"

#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <sstream>

#include "base/fd.h"

namespace mose::test {
namespace {

constexpr auto kPeriod = std::chrono::milliseconds(1);

std::string text_of(const std::string& path) {
  return read_file(path).value_or("");
}

std::string value_of(const std::string& text, const std::string& key) {
  size_t at = text.find(key);
  if (at == std::string::npos) return {};
  at = text.find_first_not_of(" \t", at + key.size());
  return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
}

// File that the address is mapped from; empty when there is none (CRIU's code, the heap, vdso).
std::string file_at(const std::string& maps, uint64_t address) {
  std::istringstream lines(maps);
  for (std::string line; std::getline(lines, line);) {
    char* next = nullptr;
    uint64_t begin = std::strtoull(line.c_str(), &next, 16);
    uint64_t end = *next == '-' ? std::strtoull(next + 1, nullptr, 16) : 0;
    if (address < begin || address >= end) continue;
    size_t path = line.find('/');
    return path == std::string::npos ? "" : line.substr(path);
  }
  return {};
}

// Killed, and no instruction of it will run any more: the signal waits, or is being obeyed.
bool dying(const std::string& base) {
  constexpr uint64_t kKill = 1u << (SIGKILL - 1), kExiting = 4;
  std::string status = text_of(base + "/status"), stat = text_of(base + "/stat");
  for (const char* pending : {"SigPnd:", "ShdPnd:"}) {
    if (std::strtoull(value_of(status, pending).c_str(), nullptr, 16) & kKill) return true;
  }
  // "PID (NAME) STATE ppid pgrp session tty tpgid FLAGS ..."
  size_t end = stat.rfind(')');
  if (status.empty() || end == std::string::npos) return true;
  std::istringstream fields(stat.substr(end + 1));
  std::string skipped;
  uint64_t flags = 0;
  for (int i = 0; i < 6; ++i) fields >> skipped;
  fields >> flags;
  return (flags & kExiting) != 0;
}

std::optional<std::string> task_evidence(const std::string& pid, const std::string& program) {
  std::string base = "/proc/" + pid;
  char link[PATH_MAX];
  ssize_t n = ::readlink((base + "/exe").c_str(), link, sizeof link - 1);
  if (n <= 0) return {};
  std::string exe(link, static_cast<size_t>(n));
  if (!exe.substr(exe.rfind('/') + 1).starts_with(program)) return {};
  std::string status = text_of(base + "/status");
  std::string state = value_of(status, "State:");
  // A group that is killed is "frozen" no longer with the first death in it; the others wait in the freezer until their
  // own.
  std::string where = text_of(base + "/wchan");
  if (where == "get_signal" || where == "do_freezer_trap") return {};
  if (value_of(status, "TracerPid:") != "0" || state.empty() || std::string("TtZX").contains(state[0])) return {};
  // "NUMBER arguments... SP PC" of a waiting task, "running" of one on a processor: where that one is cannot be seen.
  std::string call = text_of(base + "/syscall");
  size_t last = call.rfind(" 0x");
  if (last == std::string::npos) return {};
  uint64_t pc = std::strtoull(call.c_str() + last + 1, nullptr, 16);
  std::string file = file_at(text_of(base + "/maps"), pc);
  if (file.empty() || dying(base)) return {};
  return pid + " (" + state + ") in " + file;
}

}  // namespace

bool group_may_run(const std::string& cgroup) {
  std::string events = text_of(cgroup + "/cgroup.events");
  return value_of(events, "populated") == "1" && value_of(events, "frozen") == "0";
}

std::optional<std::string> running_evidence(const std::string& cgroup, const std::string& program) {
  if (!group_may_run(cgroup)) return {};
  std::istringstream pids(text_of(cgroup + "/cgroup.procs"));
  for (std::string pid; pids >> pid;) {
    auto seen = task_evidence(pid, program);
    // What was seen counts only if the group was not frozen meanwhile.
    if (seen && group_may_run(cgroup)) return seen;
  }
  return {};
}

TreeWatch::TreeWatch(std::string cgroup_a, std::string cgroup_b, std::string program)
    : groups_{std::move(cgroup_a), std::move(cgroup_b)}, program_(std::move(program)), thread_([this] { loop(); }) {}

TreeWatch::~TreeWatch() {
  stop_ = true;
  thread_.join();
}

void TreeWatch::begin() {
  std::lock_guard lock(mutex_);
  findings_ = {};
}

TreeWatch::Findings TreeWatch::end() {
  std::lock_guard lock(mutex_);
  return findings_;
}

void TreeWatch::loop() {
  while (!stop_) {
    sample();
    std::this_thread::sleep_for(kPeriod);
  }
}

void TreeWatch::sample() {
  bool suspicious = group_may_run(groups_[0]) && group_may_run(groups_[1]);
  std::string violation;
  if (suspicious) {
    auto first = running_evidence(groups_[0], program_);
    auto second = first ? running_evidence(groups_[1], program_) : std::nullopt;
    // Neither of them was only on its way out.
    if (second && running_evidence(groups_[0], program_) && running_evidence(groups_[1], program_))
      violation = *first + " and " + *second;
  }
  std::lock_guard lock(mutex_);
  ++findings_.samples;
  findings_.suspicious += suspicious;
  if (!violation.empty() && findings_.violations.size() < kViolationsMax) findings_.violations.push_back(violation);
}

}  // namespace mose::test
