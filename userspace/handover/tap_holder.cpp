// SPDX-License-Identifier: MIT
#include "handover/tap_holder.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "base/clock.h"
#include "kernel/procfs.h"
#include "kernel/spawn.h"
#include "kernel/tap.h"

namespace mose::handover {
namespace {

constexpr int kTapInHolder = 3;
constexpr size_t kFileMax = 64;  // two numbers
constexpr Nanoseconds kEndBound = std::chrono::seconds(2);

Status write_name(const std::string& file, const ProcessHandle& process) {
  return write_whole_file(file, std::to_string(process.pid()) + " " + std::to_string(process.start_time()) + "\n");
}

Result<ProcessHandle> named_in(const std::string& file) {
  MOSE_ASSIGN(std::string text, read_file(file, kFileMax));
  pid_t pid = 0;
  uint64_t start_time = 0;
  const char* end = text.data() + text.size();
  auto [space, error] = std::from_chars(text.data(), end, pid);
  if (error != std::errc() || pid <= 0 || space == end || *space != ' ') return fail(file + " is damaged");
  auto [rest, second] = std::from_chars(space + 1, end, start_time);
  if (second != std::errc() || rest == end || *rest != '\n') return fail(file + " is damaged");
  return ProcessHandle::open_same(pid, start_time);
}

}  // namespace

Result<TapHolder> TapHolder::start(int tap, const std::string& file) {
  SpawnRequest request;
  MOSE_ASSIGN(request.program, helper_path("mose-holder"));
  request.fds = {{tap, kTapInHolder}};
  request.new_session = true;  // signals to the agent's group are not for it
  MOSE_ASSIGN(ProcessHandle process, spawn(request));
  TapHolder holder(std::move(process), file);
  MOSE_TRY(write_name(file, holder.process_));
  return holder;
}

Result<TapHolder::Left> TapHolder::take_over(const std::string& file) {
  MOSE_ASSIGN(ProcessHandle process, named_in(file));
  auto tap = process.descriptor(kTapInHolder);
  if (!tap) return context("the tap of its holder", tap.error());
  return Left{TapHolder(std::move(process), file), std::move(*tap)};
}

void TapHolder::end_left(const std::string& file) {
  if (auto process = named_in(file)) TapHolder(std::move(*process), file).end();
}

void TapHolder::end_left_of(const std::string& tap, const std::string& file) {
  auto left = take_over(file);
  if (left && !adopt_tap(std::move(left->tap), tap)) left->holder.leave();
}

TapHolder& TapHolder::operator=(TapHolder&& other) noexcept {
  if (this == &other) return *this;
  end();
  process_ = std::move(other.process_);
  file_ = std::move(other.file_);
  return *this;
}

void TapHolder::end() {
  if (!process_) return;
  (void)process_.signal(SIGKILL);
  // Ours to reap, or, after take_over, somebody else's: then that it has ended is enough. The device is free after it.
  if (!process_.reap(kEndBound)) (void)process_.wait_ended(kEndBound);
  process_ = {};
  (void)unlink(file_.c_str());
}

}  // namespace mose::handover
