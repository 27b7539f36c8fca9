// SPDX-License-Identifier: MIT
// `mose cleanup`: what records say is over, the uplink's programs, and what no record says anything of.
#include <fmt/format.h>

#include "agent/requests.h"
#include "mose/control/control.pb.h"

namespace mose::agent {
namespace {

void send_lines(const Reply& reply, std::vector<std::string> lines) {
  if (lines.empty()) lines.emplace_back("nothing to clean up");
  control::v1::Response response;
  auto& done = *response.mutable_done();
  for (const std::string& line : lines) done.add_notes(line);
  reply.send(response, true);
}

}  // namespace

// One that has just left is still redirecting what comes late: its migration removes its network first.
void Requests::clean_up(const Reply& reply) {
  std::vector<std::string> names;
  for (const Workload* workload : core_.workloads.list()) {
    if (workload->state == WorkloadState::away) names.push_back(workload->spec.name);
  }
  clean_up_after(std::move(names), reply);
}

void Requests::clean_up_after(std::vector<std::string> leaving, const Reply& reply) {
  if (!leaving.empty()) {
    const std::string name = std::move(leaving.back());
    leaving.pop_back();
    return service_.after_departure(name, [this, leaving = std::move(leaving), reply] { clean_up_after(leaving, reply); });
  }
  core_.workloads.clean_up([this, reply](std::vector<std::string> notes) {
    // After the workloads: their entries are gone.
    core_.workers.run([this] { return core_.uplink.clean_up(); },
                      [this, reply, notes = std::move(notes)](const std::vector<std::string>& more) mutable {
                        notes.insert(notes.end(), more.begin(), more.end());
                        clean_up_orphans(std::move(notes), reply);
                      });
  });
}

OrphanClaims Requests::claims() const {
  OrphanClaims out;
  for (const MigrationProgress& progress : service_.list()) {
    out.migrations.insert(progress.id.hex());
    out.workloads.insert(progress.workload);
  }
  for (const Workload* workload : core_.workloads.list()) {
    out.workloads.insert(workload->spec.name);
    // A described one may have a group of ours under another name.
    out.workloads.insert(workload->cgroup.substr(workload->cgroup.rfind('/') + 1));
    if (!workload->migration.empty()) out.migrations.insert(workload->migration);
  }
  out.packets_held = !steer_.closed().empty();
  return out;
}

// Looked for, then asked again: an arrival may have begun meanwhile. From then on nothing of those names begins. One at a time: two would
// find the same, and the first to end would let a workload begin in what the other still removes.
void Requests::clean_up_orphans(std::vector<std::string> notes, const Reply& reply) {
  if (removing_orphans_) {
    notes.emplace_back("what no record names is just being removed by another `mose cleanup`: ask again when that has ended");
    return send_lines(reply, std::move(notes));
  }
  removing_orphans_ = true;
  core_.workers.run(
      [&config = core_.config, claimed = claims()] { return find_orphans(config, claimed); },
      [this, reply, notes = std::move(notes)](Orphans orphans) {
        const OrphanClaims claimed = claims();
        drop_claimed(orphans, claimed);
        core_.workloads.hold_names(orphans.workloads);
        core_.workers.run([&config = core_.config, orphans, held = claimed.packets_held] { return remove_orphans(config, orphans, held); },
                          [this, reply, notes](const std::vector<std::string>& more) mutable {
                            core_.workloads.hold_names({});
                            removing_orphans_ = false;
                            notes.insert(notes.end(), more.begin(), more.end());
                            send_lines(reply, std::move(notes));
                          });
      });
}

void Requests::show_clean_up(const Reply& reply) {
  std::vector<std::string> notes;
  for (const Workload* workload : core_.workloads.list()) {
    const bool over = workload->state == WorkloadState::exited || workload->state == WorkloadState::away;
    if (over && workload->origin != WorkloadOrigin::described) notes.push_back(fmt::format("workload {} is {}: it would be forgotten", workload->spec.name, to_string(workload->state)));
  }
  core_.workers.run([&config = core_.config, claimed = claims()] { return describe(config, find_orphans(config, claimed)); },
                    [reply, notes = std::move(notes)](const std::vector<std::string>& more) mutable {
                      notes.insert(notes.end(), more.begin(), more.end());
                      send_lines(reply, std::move(notes));
                    });
}

}  // namespace mose::agent
