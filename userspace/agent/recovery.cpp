// SPDX-License-Identifier: MIT
#include "agent/recovery.h"

namespace mose::agent {

using plan::contains;
using plan::Record;

std::optional<EndedMigration> ended_source(const std::vector<Record>& records, bool ours, bool alive, std::optional<Outcome> told) {
  const bool finished = !records.empty() && records.back() == Record::finished;
  if (contains(records, Record::lost)) {
    if (ours && alive) return std::nullopt;
    return EndedMigration{Outcome::lost, "given up by the operator of the source", !alive};
  }
  // Only what was committed is ever complete.
  if (contains(records, Record::complete) || (finished && plan::committed(records))) {
    if (ours && alive) return std::nullopt;
    return EndedMigration{Outcome::complete, "the agent of the source was restarted before it had written the report", !alive};
  }
  if (finished) return EndedMigration{Outcome::failed, "the agent of the source was restarted before it had written the report", false};
  // On a disk that took no record any more it has ended as the operator was told.
  const bool moved = told == Outcome::complete || told == Outcome::target_missed || told == Outcome::lost || told == Outcome::failed_after_commit;
  if (plan::committed(records) && !ours && moved) return EndedMigration{*told, "", !alive};
  if (ours || plan::committed(records)) return std::nullopt;
  // Never stopped, or running again since: who moves it now, if anybody, has nothing to do with this one.
  return EndedMigration{Outcome::failed, "the agent of the source was restarted while the destination was told of the end", false};
}

std::optional<EndedMigration> ended_destination(const std::vector<Record>& records) {
  if (records.empty() || records.back() != Record::finished) return std::nullopt;
  // A source that comes back and has not heard of the end asks the history: its journal is all that it has.
  const std::string restarted = "the agent of the destination was restarted before it had written the report";
  if (contains(records, Record::lost)) return EndedMigration{Outcome::lost, "the workload ended before its memory was complete", false};
  return EndedMigration{plan::committed(records) ? Outcome::complete : Outcome::failed, restarted, false};
}

}  // namespace mose::agent
