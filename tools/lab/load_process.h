// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "client/figures.h"
#include "kernel/process.h"
#include "lab/names.h"

namespace mose::lab {

struct LoadRequest {
  std::string server;
  double megabytes = 10;
  uint32_t connections = 16, probes = 2;
  uint64_t seed = 1;
  std::optional<uint32_t> rate;  // absent: closed loop
  std::string mix = "set", keys = "uniform";
  uint32_t value_bytes = 1000;
};

struct CommandLine;
// What a person has asked for, against this server.
[[nodiscard]] LoadRequest load_request(const CommandLine& line, const std::string& server);

// The load client as a child in the client's network namespace. Ends with the object, and dies with us.
class LoadProcess {
 public:
  [[nodiscard]] static Result<LoadProcess> start(const Names& names, const LoadRequest& request);
  LoadProcess(LoadProcess&&) noexcept = default;
  LoadProcess& operator=(LoadProcess&&) noexcept = default;
  ~LoadProcess();

  // Fills the server (waiting until it accepts connections) and opens all connections; the load rests.
  [[nodiscard]] Status prepare();
  [[nodiscard]] Status resume();
  [[nodiscard]] Status pause();
  // The server's process from now on, of our pid namespace; 0: none.
  [[nodiscard]] Status watch_server(pid_t pid);
  [[nodiscard]] Status begin_window();
  [[nodiscard]] Result<client::Figures> end_window(const client::PhaseBounds& bounds = {});
  [[nodiscard]] Result<client::Verification> verify();

 private:
  LoadProcess(ProcessHandle process, Fd to, Fd from)
      : process_(std::move(process)), to_(std::move(to)), from_(std::move(from)) {}
  [[nodiscard]] Result<std::string> call(const std::string& command);
  [[nodiscard]] Status simple(const std::string& command);

  ProcessHandle process_;
  Fd to_, from_;
  std::string buffer_;
};

}  // namespace mose::lab
