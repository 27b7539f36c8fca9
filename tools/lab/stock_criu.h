// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"

// Stock CRIU's own command line, for the baselines.
namespace mose::lab {

struct CriuCall {
  std::vector<std::string> arguments;
  std::string log;                               // its log file: what is shown when it fails
  std::vector<std::pair<int, int>> descriptors;  // ours, and its number there
};

// Of MOSE_PREFIX, else below /opt/mose.
[[nodiscard]] std::string stock_criu_path();
// To its end; a failure shows the end of its log.
[[nodiscard]] Status run_criu(const CriuCall& call);

// One that works on beside us: a page server, or who asks it. Killed with the object.
class BackgroundCriu {
 public:
  BackgroundCriu() = default;
  [[nodiscard]] static Result<BackgroundCriu> start(CriuCall call);
  ~BackgroundCriu();
  BackgroundCriu(BackgroundCriu&& other) noexcept = default;
  BackgroundCriu& operator=(BackgroundCriu&& other) noexcept;

  // Until it says (--status-fd) that it is ready to serve. An error when it ended instead.
  [[nodiscard]] Status wait_ready();
  // Until it listens on a unix socket that it has bound as `name`.
  [[nodiscard]] Status wait_listening(const std::string& name);
  // Until it has ended; an error when that was no success.
  [[nodiscard]] Status wait_ended();
  explicit operator bool() const { return process_.valid(); }

 private:
  [[nodiscard]] std::unexpected<Error> ended_with(const ProcessHandle::Exit& exit);

  ProcessHandle process_;
  Fd status_;
  CriuCall call_;
};

}  // namespace mose::lab
