// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bed.h"

namespace mose::test {

// A client of the small Redis beside the one under load (BedOptions::neighbour): a process of the same workload whose few pages
// are in soon after a commit. It asks for one value every 10 ms, on one connection, and knows the answer.
//
// Life: start() writes the value; asks until it goes.
class Neighbour {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Neighbour>> start(FaultBed& bed);
  ~Neighbour();

  // Answers that came between the two.
  [[nodiscard]] size_t answers(Timestamp from, Timestamp to) const;
  // It has waited for none of those much longer than for the pause between two.
  [[nodiscard]] bool steady(Timestamp from, Timestamp to) const;
  // Answers that were not the value.
  [[nodiscard]] size_t wrong() const { return wrong_; }

 private:
  explicit Neighbour(Fd socket) : socket_(std::move(socket)) {}
  void loop();

  Fd socket_;
  mutable std::mutex mutex_;
  std::vector<Timestamp> answered_;
  std::atomic<size_t> wrong_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace mose::test
