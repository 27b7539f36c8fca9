// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"
#include "lab/node.h"

// One end of the baseline `stock-cold`: what an administrator does with CRIU's own command line on one node. It runs as
// a process in the node, started before the move and told each step by a line on a socket, so that no step of the
// baseline pays for our starting a process that it would not need.
//
// Steps (each answered by "ok[ WORDS]" or "error SENTENCE"):
//   prepare        a fresh network namespace with the service's address, silent; listen for images
//   launch         the service's first process, here; then it is reachable
//   dump           criu dump: the tree is gone afterwards
//   send ADDRESS   images over TCP to the other end
//   receive        takes them (started before `dump` at the other end)
//   restore        criu restore
//   activate       gratuitous ARP: the address is here
//   retire         the address has moved away: no port of the bridge any more, network namespace forgotten
//   stop           the service's tree is killed
namespace mose::lab {

class StockEnd {
 public:
  [[nodiscard]] static Result<StockEnd> start(const LabState& state, const std::string& node);
  StockEnd(StockEnd&&) noexcept = default;
  StockEnd& operator=(StockEnd&&) noexcept = default;
  ~StockEnd();

  // Sends a step; answer() waits for its end. One at a time.
  [[nodiscard]] Status request(const std::string& step);
  [[nodiscard]] Result<std::string> answer();
  [[nodiscard]] Result<std::string> call(const std::string& step);

 private:
  StockEnd(Fd socket, ProcessHandle process) : socket_(std::move(socket)), process_(std::move(process)) {}
  Fd socket_;
  ProcessHandle process_;
};

// Redis as the lab runs it, for both sides of a comparison: nothing on disk, no fork.
[[nodiscard]] std::vector<std::string> redis_command();

}  // namespace mose::lab
