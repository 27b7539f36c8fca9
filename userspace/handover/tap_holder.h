// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"

// Packets in the queue of a tap live as long as a descriptor of it. A process that only waits (mose-holder) keeps a
// second one, so that an agent that is killed loses no held packet: the next agent takes the descriptor from it.
//
// Life: start() writes the file that names the process; end(), or the destructor, kills it and removes the file. An
// agent that dies does neither: take_over() by the next one finds the process by the file, and owns it from then on.
namespace mose::handover {

class TapHolder {
 public:
  [[nodiscard]] static Result<TapHolder> start(int tap, const std::string& file);
  struct Left;
  // The holder named in `file`, with a descriptor of its tap. Fails when there is none or it has ended.
  [[nodiscard]] static Result<Left> take_over(const std::string& file);
  // Kills what an agent that died has left under this name; nothing there is fine.
  static void end_left(const std::string& file);
  // The same, only where what it keeps is tap `tap` of the caller's network namespace.
  static void end_left_of(const std::string& tap, const std::string& file);

  TapHolder() = default;
  TapHolder(TapHolder&& other) noexcept = default;
  TapHolder& operator=(TapHolder&& other) noexcept;
  TapHolder(const TapHolder&) = delete;
  TapHolder& operator=(const TapHolder&) = delete;
  ~TapHolder() { end(); }

  void end();
  // The process and its file stay for take_over() by another agent.
  void leave() { process_ = {}; }

 private:
  TapHolder(ProcessHandle process, std::string file) : process_(std::move(process)), file_(std::move(file)) {}

  ProcessHandle process_;
  std::string file_;
};

struct TapHolder::Left {
  TapHolder holder;
  Fd tap;
};

}  // namespace mose::handover
