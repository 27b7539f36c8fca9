// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/control_server.h"
#include "agent/core.h"
#include "agent/migration_service.h"
#include "agent/orphans.h"
#include "agent/steer_requests.h"

namespace mose::control::v1 {
class CheckResult;
class Migrate;
class Recover;
class Run;
}  // namespace mose::control::v1

namespace mose::agent {

// What each request of the control protocol does. Lives in the loop thread; keeps who follows events and who waits for
// the end of which migration.
class Requests {
 public:
  // `core` and `service` are borrowed and outlive this. `probe_host` fills the check of this host; it runs in a worker.
  using HostCheck = std::function<void(const Config&, control::v1::CheckResult&)>;
  Requests(Core& core, MigrationService& service, HostCheck probe_host);

  void handle(const control::v1::Request& request, const Reply& reply);
  // To every follower of `mose events`.
  void publish(const AgentEvent& event);
  void shutting_down() { ending_ = true; }

 private:
  void run(const control::v1::Run& request, const Reply& reply);
  void stop(const std::string& name, uint32_t grace_ms, const Reply& reply);
  void workloads(const Reply& reply) const;
  void nodes(const Reply& reply) const;
  void check(const std::string& workload, const std::string& node, const Reply& reply);
  void migrate(const control::v1::Migrate& request, const Reply& reply);
  void begin(const control::v1::Migrate& request, const MigrationOptions& options, const Reply& reply);
  void status(const Reply& reply) const;
  void show(const std::string& prefix, const Reply& reply) const;
  void history(size_t count_max, const Reply& reply) const;
  void cancel(const std::string& prefix, const Reply& reply);
  void recover(const control::v1::Recover& request, const Reply& reply);
  void clean_up(const Reply& reply);
  void show_clean_up(const Reply& reply);
  [[nodiscard]] OrphanClaims claims() const;
  void clean_up_orphans(std::vector<std::string> notes, const Reply& reply);
  void clean_up_after(std::vector<std::string> leaving, const Reply& reply);
  // The migration under way whose id begins with `prefix`, or that is of the workload of that name.
  [[nodiscard]] Answer<MigrationId> find_active(const std::string& prefix) const;
  void on_progress(const MigrationProgress& progress);
  void on_end(const MigrationEnd& end);
  [[nodiscard]] bool known_node(const std::string& name, const Reply& reply) const;

  Core& core_;
  MigrationService& service_;
  SteerRequests steer_;
  HostCheck probe_host_;
  std::vector<Reply> followers_;
  std::map<MigrationId, std::vector<Reply>> watchers_;
  std::map<MigrationId, std::string> phases_;  // last one announced
  std::map<MigrationId, std::string> notes_;   // the last one told
  bool ending_ = false;
  bool removing_orphans_ = false;  // a `mose cleanup` looks for what no record names, or removes it
};

}  // namespace mose::agent
