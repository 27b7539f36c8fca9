// SPDX-License-Identifier: MIT
#include "agent/metrics.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <functional>

#include "agent/metrics_text.h"
#include "agent/migration_tally.h"
#include "agent/version.h"
#include "base/directory.h"
#include "base/fd.h"
#include "plan/destination.h"
#include "plan/source.h"

namespace mose::agent {
namespace {

constexpr size_t kStatmMax = 256;

uint64_t resident_now() {
  auto text = read_file("/proc/self/statm", kStatmMax);
  if (!text) return 0;
  const size_t second = text->find(' ');
  return second == std::string::npos ? 0 : std::strtoull(text->c_str() + second, nullptr, 10) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t descriptors_now() {
  Directory directory = open_directory("/proc/self/fd");
  uint64_t count = 0;
  while (directory && readdir(directory.get()) != nullptr) ++count;
  return count > 3 ? count - 3 : 0;  // itself, "." and ".."
}

double processor_now_s() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Without what the operator is told of it.
std::string phase_of(const MigrationProgress& progress) { return progress.phase.substr(0, progress.phase.find(':')); }

template <typename Phase>
std::vector<std::string> phases_up_to(Phase last) {
  std::vector<std::string> names;
  for (int number = 0; number <= static_cast<int>(last); ++number) names.emplace_back(plan::to_string(static_cast<Phase>(number)));
  return names;
}

bool is_pending(const MigrationProgress& progress) {
  const std::string phase = phase_of(progress);
  return phase == plan::to_string(plan::SourcePhase::preflight) || phase == plan::to_string(plan::SourcePhase::preparing);
}

bool has_ended(const MigrationProgress& progress) { return phase_of(progress) == plan::to_string(plan::SourcePhase::done); }

void format_phases(MetricsText& out, const std::vector<MigrationFigures>& migrations) {
  auto count = [&](auto&& wanted) {
    return static_cast<double>(std::ranges::count_if(migrations, [&](const MigrationFigures& m) { return !m.undecided && wanted(m.progress); }));
  };
  out.family({"mose_migrations_in_pending_phase", MetricType::gauge, "Migrations that are being prepared: nothing of the workload has been sent yet."});
  out.sample(count(is_pending));
  out.family({"mose_migrations_in_running_phase", MetricType::gauge, "Migrations from their first page on until nothing of them is left to do."});
  out.sample(count([](const MigrationProgress& p) { return !is_pending(p) && !has_ended(p); }));
  out.family({"mose_migrations_in_phase", MetricType::gauge, "Migrations by this node's role and phase."});
  for (Role role : {Role::source, Role::destination}) {
    const auto names = role == Role::source ? phases_up_to(plan::SourcePhase::done) : phases_up_to(plan::DestinationPhase::done);
    for (const std::string& name : names) {
      out.sample({{"role", std::string(to_string(role))}, {"phase", name}},
                 count([&](const MigrationProgress& p) { return p.role == role && phase_of(p) == name; }));
    }
  }
  out.family({"mose_migrations_undecided", MetricType::gauge, "Migrations whose journal decides nothing: they wait for mose recover."});
  out.sample(static_cast<double>(std::ranges::count_if(migrations, &MigrationFigures::undecided)));
}

void format_ended(MetricsText& out, const MigrationTally& ended) {
  out.family({"mose_migrations_ended_total", MetricType::counter, "Migrations that have ended, by this node's role and their result."});
  for (Role role : {Role::source, Role::destination}) {
    for (size_t number = 0; number < kOutcomes; ++number) {
      const auto outcome = static_cast<Outcome>(number);
      out.sample({{"role", std::string(to_string(role))}, {"result", std::string(to_string(outcome))}}, static_cast<double>(ended.ended(role, outcome)));
    }
  }
  out.family({"mose_migration_downtime_seconds", MetricType::histogram, "From the hold of packets at this source to the thaw at the destination."});
  out.histogram(ended.downtime());
  out.family({"mose_migration_silence_seconds", MetricType::histogram, "From a workload's last frame at this source to its first at the destination."});
  out.histogram(ended.silence());
  out.family({"mose_migration_standby_pause_seconds", MetricType::histogram, "The earlier pause of a workload, for the dump that its standby is built from."});
  out.histogram(ended.standby_pause());
  out.family({"mose_migration_total_seconds", MetricType::histogram, "Complete migrations from this source, from their start to their last page."});
  out.histogram(ended.total());
  out.family({"mose_fault_events_lost_total", MetricType::counter, "Write faults that were to be watched and were not, in migrations that have ended."});
  out.sample(static_cast<double>(ended.fault_events_lost()));
}

struct RunningFamily {
  MetricFamily family;
  std::function<std::optional<double>(const MigrationFigures&)> value;
};

std::optional<double> as_number(const std::optional<uint64_t>& value) {
  return value ? std::optional(static_cast<double>(*value)) : std::nullopt;
}

const std::vector<RunningFamily>& running_families() {
  using enum MetricType;
  using F = const MigrationFigures&;
  static const std::vector<RunningFamily> kFamilies = {
      {{"mose_migration_elapsed_seconds", gauge, "Since this agent began the migration, or went on with it."},
       [](F m) { return static_cast<double>(m.progress.elapsed_ms) / 1000; }},
      {{"mose_migration_round", gauge, "The pre-copy round under way, or the last one; 0: none yet."},
       [](F m) { return m.progress.role == Role::source ? std::optional<double>(m.progress.round) : std::nullopt; }},
      {{"mose_migration_data_total_bytes", gauge, "Memory of the workload: of the source as it began, of the destination as the final map says."},
       [](F m) { return m.progress.bytes_total != 0 ? std::optional(static_cast<double>(m.progress.bytes_total)) : std::nullopt; }},
      {{"mose_migration_data_processed_bytes", gauge, "Sent by the source, or received by the destination, of the workload's memory."},
       [](F m) { return as_number(m.bytes_processed); }},
      {{"mose_migration_data_remaining_bytes", gauge, "Source: still to be sent before the workload stops, from the second round on as forecast. Destination: lacking after the final map."},
       [](F m) { return as_number(m.bytes_remaining); }},
      {{"mose_migration_dirty_memory_rate_bytes", gauge, "Bytes of memory that the workload writes in a second, as forecast from the last round."},
       [](F m) { return m.dirty_bytes_per_s; }},
      {{"mose_migration_memory_transfer_rate_bytes", gauge, "Bytes in a second that the link was seen to carry."}, [](F m) { return m.link_bytes_per_s; }},
      {{"mose_migration_pages_missing", gauge, "Pages of the final map that are still at the source alone."}, [](F m) { return as_number(m.pages_missing); }},
      {{"mose_migration_faults", gauge, "Page faults of the arrived workload that the pager was asked to answer."}, [](F m) { return as_number(m.faults); }},
      {{"mose_migration_fault_waiting_seconds", gauge, "For how long the oldest fault without an answer has waited: a thread stands still. 0: none."},
       [](F m) { return m.fault_waiting_s; }},
  };
  return kFamilies;
}

void format_running(MetricsText& out, const std::vector<MigrationFigures>& migrations, const std::string& node) {
  auto labels = [&](const MigrationProgress& p) -> MetricLabels {
    return {{"id", p.id.hex()}, {"workload", p.workload}, {"role", std::string(to_string(p.role))}, {"peer", p.source == node ? p.destination : p.source}};
  };
  for (const RunningFamily& one : running_families()) {
    out.family(one.family);
    for (const MigrationFigures& migration : migrations) {
      auto value = migration.undecided ? std::nullopt : one.value(migration);
      if (value) out.sample(labels(migration.progress), *value);
    }
  }
}

void format_node(MetricsText& out, const MetricsSnapshot& snapshot) {
  out.family({"mose_peer_refusals_total", MetricType::counter, "Connections to node.listen that were not taken, by reason."});
  for (size_t kind = 0; kind < kRefusalKinds; ++kind) {
    out.sample({{"reason", to_string(static_cast<RefusalKind>(kind))}}, static_cast<double>(snapshot.service.refused[kind]));
  }
  out.family({"mose_workloads", MetricType::gauge, "Workloads that this node knows, by state."});
  for (size_t state = 0; state < snapshot.workloads.size(); ++state) {
    out.sample({{"state", to_string(static_cast<WorkloadState>(state))}}, static_cast<double>(snapshot.workloads[state]));
  }
  out.family({"mose_certificate_expires_in_seconds", MetricType::gauge, "Until this node's certificate expires; negative: it has. Nothing in plain text."});
  if (snapshot.certificate_left_s) out.sample(*snapshot.certificate_left_s);
  out.family({"process_resident_memory_bytes", MetricType::gauge, "Memory of the agent that is in use."});
  out.sample(static_cast<double>(snapshot.resident_bytes));
  out.family({"process_open_fds", MetricType::gauge, "Descriptors that the agent has open."});
  out.sample(static_cast<double>(snapshot.open_descriptors));
  out.family({"process_cpu_seconds_total", MetricType::counter, "Processor time of the agent."});
  out.sample(snapshot.processor_s);
}

}  // namespace

MetricsSnapshot take_metrics(const Core& core, const MigrationService& service) {
  MetricsSnapshot out;
  out.node = core.config.node.name;
  out.version = kVersion;
  out.service = service.figures();
  for (const Workload* workload : core.workloads.list()) ++out.workloads[static_cast<size_t>(workload->state)];
  if (const auto& tls = core.peers.tls()) out.certificate_left_s = static_cast<double>(tls->own().ends_unix_s - std::time(nullptr));
  out.resident_bytes = resident_now();
  out.open_descriptors = descriptors_now();
  out.processor_s = processor_now_s();
  return out;
}

std::string format_metrics(const MetricsSnapshot& snapshot) {
  MetricsText out;
  out.family({"mose_build_info", MetricType::gauge, "1; its labels say what runs here."});
  out.sample({{"version", snapshot.version}, {"node", snapshot.node}}, 1);
  format_phases(out, snapshot.service.migrations);
  format_ended(out, *snapshot.service.ended);
  format_running(out, snapshot.service.migrations, snapshot.node);
  format_node(out, snapshot);
  return out.take();
}

Readiness readiness_of(const ServiceFigures& service, bool ending) {
  Readiness out;
  const auto undecided = std::ranges::count_if(service.migrations, &MigrationFigures::undecided);
  out.ready = !ending && service.listening && service.journal_problem.empty() && service.criu_problem.empty() && service.certificate_problem.empty();
  out.text = fmt::format("{}\njournals: {}\nother nodes: {}\ncertificates: {}\nCRIU: {}\nundecided migrations: {}{}\n", ending ? "ending" : out.ready ? "ready" : "not ready",
                         service.journal_problem.empty() ? "read" : service.journal_problem,
                         service.listening ? "can connect" : "cannot connect",
                         service.certificate_problem.empty() ? "usable" : service.certificate_problem, service.criu_problem.empty() ? "ready" : service.criu_problem,
                         undecided, undecided == 0 ? "" : " (see mose status)");
  return out;
}

}  // namespace mose::agent
