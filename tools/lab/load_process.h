// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
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
};

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
  [[nodiscard]] Status begin_window();
  [[nodiscard]] Result<client::Figures> end_window();
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
