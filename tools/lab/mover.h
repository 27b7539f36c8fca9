// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "lab/options.h"
#include "lab/state.h"

namespace mose::lab {

// What moves a service between the nodes: MOSE, or a baseline. Life: launch() on a node, then move() as often as wanted;
// the service ends with the object.
class Mover {
 public:
  virtual ~Mover() = default;
  [[nodiscard]] virtual std::string role() const = 0;
  [[nodiscard]] virtual std::string baseline() const = 0;  // empty: none
  [[nodiscard]] virtual std::string address() const = 0;   // of the service
  [[nodiscard]] virtual std::string cgroup() const = 0;    // of the service, below its node's
  [[nodiscard]] virtual Status launch(const std::string& node) = 0;
  // Gives the run object (without the client's part), also for a move that failed: then `outcome` says so. An error
  // means that nothing more can be moved.
  [[nodiscard]] virtual Result<std::string> move(const std::string& from, const std::string& to) = 0;
};

// kStockCold, or with `lazy` kStockLazy.
[[nodiscard]] Result<std::unique_ptr<Mover>> make_stock_mover(const LabState& state, bool lazy);
[[nodiscard]] std::unique_ptr<Mover> make_mose_mover(const LabState& state, const CommandLine& line);
// MOSE with write protection armed in every round, whatever a write fault costs here: a service of its own.
[[nodiscard]] std::unique_ptr<Mover> make_naive_mover(const LabState& state, const CommandLine& line);

}  // namespace mose::lab
