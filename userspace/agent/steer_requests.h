// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/core.h"
#include "agent/migration_service.h"
#include "agent/refusal.h"

// What an operator may ask and do about packets: `mose steer`. Loop thread; what takes milliseconds runs in a worker.
namespace mose::agent {

class SteerRequests {
 public:
  // Borrowed, outlive this.
  SteerRequests(Core& core, const MigrationService& service) : core_(core), service_(service) {}

  // JSON, one object for each address: by direction state, deadline, its counters by reason, and those of its workload. Where
  // there are programs that cannot be asked (another build's) the state is "unknown", with the reason. `service`: an address
  // or the name of a workload; empty: all.
  [[nodiscard]] Answer<std::string> show(const std::string& service) const;
  // Workloads that are here, their processes running or stopped, whose packets do not simply pass, as far as is known.
  struct Closed {
    std::string workload;
    handover::SteerState ingress{}, egress{};
    std::optional<Timestamp> since;     // when the first of the two left pass, as far as is known
    std::optional<Timestamp> deadline;  // when the first of them ends by itself
    bool unclaimed = false;             // no migration is left that would open it
    std::string unknown;                // why the states cannot be read; empty: they are known
  };
  [[nodiscard]] std::vector<Closed> closed() const;
  // JSON: what the programs would do with a packet of this flow now, and why.
  void explain(const std::string& flow, std::function<void(Answer<std::string>)> done) const;
  // Whatever is held, shut or redirected of a service is so no longer. Refused while a migration decides about it. `done`
  // gets a sentence.
  void release(const std::string& service, std::function<void(Answer<std::string>)> done) const;

 private:
  [[nodiscard]] const Workload* find(const std::string& service) const;
  // Whether a migration decides about its packets.
  [[nodiscard]] bool claimed(const std::string& workload) const;

  Core& core_;
  const MigrationService& service_;
};

}  // namespace mose::agent
