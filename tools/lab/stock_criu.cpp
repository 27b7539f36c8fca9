// SPDX-License-Identifier: MIT
#include "lab/stock_criu.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>

#include "kernel/spawn.h"
#include "lab/child_process.h"

namespace mose::lab {
namespace {

constexpr Nanoseconds kCriuBound = std::chrono::minutes(3);
constexpr Nanoseconds kKillBound = std::chrono::seconds(10), kListenPoll = std::chrono::milliseconds(1);
constexpr const char* kPipeLimit = "/usr/libexec/mose/libmose-lab-pipe-limit.so";  // in a node's root
constexpr int kStatusFd = 21;
constexpr size_t kLogTail = 2000;

std::string log_tail(const std::string& log) {
  auto text = read_file(log);
  if (!text) return {};
  return text->substr(text->size() > kLogTail ? text->size() - kLogTail : 0);
}

// Whether somebody in this network namespace listens on a unix socket of that name: connecting would use it up.
bool listens(const std::string& name) {
  constexpr unsigned long kAccepting = 0x10000;  // of the kernel's flags in the fourth column
  auto table = read_file("/proc/net/unix");
  if (!table) return false;
  std::istringstream lines(*table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string number, references, protocol, flags, type, state, inode, path;
    words >> number >> references >> protocol >> flags >> type >> state >> inode >> path;
    if (path == name && (std::strtoul(flags.c_str(), nullptr, 16) & kAccepting)) return true;
  }
  return false;
}

}  // namespace

std::string stock_criu_path() {
  const char* prefix = std::getenv("MOSE_PREFIX");
  return std::string(prefix ? prefix : "/opt/mose") + "/criu/bin/criu";
}

Status run_criu(const CriuCall& call) {
  ProgramSpec spec;
  spec.descriptors = call.descriptors;
  spec.argv = {stock_criu_path()};
  spec.argv.insert(spec.argv.end(), call.arguments.begin(), call.arguments.end());
  MOSE_ASSIGN(auto result, run_program(spec, "", kCriuBound));
  if (result.exit_code == 0) return {};
  return fail("criu " + call.arguments[0] + " failed with status " + std::to_string(result.exit_code) + ": " + result.err + log_tail(call.log));
}

Result<BackgroundCriu> BackgroundCriu::start(CriuCall call) {
  BackgroundCriu out;
  MOSE_ASSIGN(auto status, make_pipe());
  ProgramSpec spec;
  spec.argv = {stock_criu_path()};
  spec.argv.insert(spec.argv.end(), call.arguments.begin(), call.arguments.end());
  spec.argv.insert(spec.argv.end(), {"--status-fd", std::to_string(kStatusFd)});
  spec.descriptors = call.descriptors;
  spec.descriptors.emplace_back(status.write.get(), kStatusFd);
  spec.environment = {std::string("LD_PRELOAD=") + kPipeLimit};
  spec.die_with_us = true;
  MOSE_ASSIGN(out.process_, start_program(spec));
  out.status_ = std::move(status.read);
  out.call_ = std::move(call);
  return out;
}

BackgroundCriu& BackgroundCriu::operator=(BackgroundCriu&& other) noexcept {
  std::swap(process_, other.process_);
  std::swap(status_, other.status_);
  std::swap(call_, other.call_);
  return *this;
}

BackgroundCriu::~BackgroundCriu() {
  if (!process_) return;
  (void)process_.signal(SIGKILL);
  (void)process_.reap(kKillBound);
}

std::unexpected<Error> BackgroundCriu::ended_with(const ProcessHandle::Exit& exit) {
  process_ = {};
  return fail("criu " + call_.arguments[0] + " ended with " + describe(exit) + ": " + log_tail(call_.log));
}

Status BackgroundCriu::wait_ready() {
  pollfd ready{status_.get(), POLLIN, 0};
  const int ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(kCriuBound).count());
  int n;
  while ((n = ::poll(&ready, 1, ms)) < 0 && errno == EINTR) {
  }
  if (n <= 0) return fail_errno("criu " + call_.arguments[0], ETIMEDOUT);
  char byte;
  if (::read(status_.get(), &byte, 1) == 1) return {};
  MOSE_ASSIGN(auto exit, process_.reap(kKillBound));
  return ended_with(exit);
}

Status BackgroundCriu::wait_listening(const std::string& name) {
  const Timestamp deadline = now() + kCriuBound;
  while (!listens(name)) {
    if (!process_.alive()) {
      MOSE_ASSIGN(auto exit, process_.reap(kKillBound));
      return ended_with(exit);
    }
    if (now() > deadline) return fail_errno("criu " + call_.arguments[0] + " does not listen", ETIMEDOUT);
    timespec pause = to_timespec(kListenPoll.count());
    ::nanosleep(&pause, nullptr);
  }
  return {};
}

Status BackgroundCriu::wait_ended() {
  MOSE_ASSIGN(auto exit, process_.reap(kCriuBound));
  if (!exit.success()) return ended_with(exit);
  process_ = {};
  return {};
}

}  // namespace mose::lab
