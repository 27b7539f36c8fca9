// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/migration.h"
#include "plan/protocol.h"
#include "plan/source.h"

// The destination's half of a migration as a pure function.
//
// Life: preparing -> prepared -> restoring -> fenced (READY; only a verdict decides) -> activating -> running (pages
// still come) -> finishing -> done; before READY a failure, an ABORT or a lost connection leads to discarding -> done.
// In `fenced` a lost connection changes nothing: the tree stays stopped until COMMIT or ABORT arrives.
namespace mose::plan {

enum class DestinationPhase : uint8_t {
  preparing, prepared, restoring, fenced, activating, running, finishing, discarding, done,
};
[[nodiscard]] const char* to_string(DestinationPhase phase);

enum class DestinationActionKind : uint8_t {
  record,     // `record` durable in the journal
  send,       // `message`; lost silently when there is no connection
  prepare,    // checks, namespaces, silent address, cgroup, steering shut, restore process, pager and guardian
  restore,    // images written, RESTORE until swrk has exited and the cgroup is seen frozen
  activate,   // thaw, held egress released, announce, pass
  discard,    // egress dropped, tree killed, pager ended, namespaces thrown away; idempotent
  finish,     // pager closed after the last page, workload registered as running here
};
[[nodiscard]] const char* to_string(DestinationActionKind kind);

struct DestinationAction {
  DestinationActionKind kind;
  Message message{};
  Record record{};
  std::string reason;
  bool operator==(const DestinationAction&) const = default;
};

struct DestinationActionDone {
  DestinationActionKind kind;
  std::string error;
};
struct PagesComplete {};  // the pager has every page
using DestinationEvent = std::variant<DestinationActionDone, MessageReceived, ConnectionLost, PagesComplete, Tick>;

struct DestinationState {
  DestinationPhase phase = DestinationPhase::preparing;
  std::vector<DestinationActionKind> running;
  bool connected = true;
  bool pages_complete = false;
  Outcome outcome = Outcome::failed;
  std::string reason;
  std::optional<Timestamp> deadline;
};

struct DestinationStep {
  DestinationState state;
  std::vector<DestinationAction> actions;
};

// PREPARE has arrived for a migration that is unknown here.
[[nodiscard]] DestinationStep start_destination(Timestamp now);
// After a restart: without `ready` everything is discarded; `ready` without a verdict stays fenced; a committed tree is
// activated (idempotent) and goes on.
[[nodiscard]] DestinationStep recover_destination(const std::vector<Record>& records, Timestamp now);
[[nodiscard]] DestinationStep step(const DestinationState& state, const DestinationEvent& event, Timestamp now);

}  // namespace mose::plan
