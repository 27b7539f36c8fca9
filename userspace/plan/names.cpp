// SPDX-License-Identifier: MIT
#include "plan/destination.h"
#include "plan/source.h"

namespace mose::plan {

const char* to_string(SourcePhase phase) {
  switch (phase) {
    case SourcePhase::preflight:
      return "preflight";
    case SourcePhase::preparing:
      return "preparing";
    case SourcePhase::precopy:
      return "precopy";
    case SourcePhase::standby:
      return "standby";
    case SourcePhase::arming:
      return "arming";
    case SourcePhase::quiescing:
      return "quiescing";
    case SourcePhase::freezing:
      return "freezing";
    case SourcePhase::dumping:
      return "dumping";
    case SourcePhase::restoring:
      return "restoring";
    case SourcePhase::committing:
      return "committing";
    case SourcePhase::committed:
      return "committed";
    case SourcePhase::serving:
      return "serving";
    case SourcePhase::finishing:
      return "finishing";
    case SourcePhase::aborting:
      return "aborting";
    case SourcePhase::done:
      return "done";
  }
  return "?";
}

const char* to_string(SourceActionKind kind) {
  switch (kind) {
    case SourceActionKind::preflight:
      return "preflight";
    case SourceActionKind::record:
      return "record";
    case SourceActionKind::connect:
      return "connect";
    case SourceActionKind::send:
      return "send";
    case SourceActionKind::precopy_round:
      return "precopy_round";
    case SourceActionKind::make_standby:
      return "make_standby";
    case SourceActionKind::arm_dump:
      return "arm_dump";
    case SourceActionKind::quiesce:
      return "quiesce";
    case SourceActionKind::freeze:
      return "freeze";
    case SourceActionKind::dump:
      return "dump";
    case SourceActionKind::final_scan:
      return "final_scan";
    case SourceActionKind::finish_dump:
      return "finish_dump";
    case SourceActionKind::resume_source:
      return "resume_source";
    case SourceActionKind::redirect:
      return "redirect";
    case SourceActionKind::kill_source:
      return "kill_source";
    case SourceActionKind::wait_retry:
      return "wait_retry";
    case SourceActionKind::close:
      return "close";
  }
  return "?";
}

const char* to_string(DestinationPhase phase) {
  switch (phase) {
    case DestinationPhase::preparing:
      return "preparing";
    case DestinationPhase::prepared:
      return "prepared";
    case DestinationPhase::restoring:
      return "restoring";
    case DestinationPhase::fenced:
      return "fenced";
    case DestinationPhase::activating:
      return "activating";
    case DestinationPhase::running:
      return "running";
    case DestinationPhase::finishing:
      return "finishing";
    case DestinationPhase::discarding:
      return "discarding";
    case DestinationPhase::done:
      return "done";
  }
  return "?";
}

const char* to_string(DestinationActionKind kind) {
  switch (kind) {
    case DestinationActionKind::record:
      return "record";
    case DestinationActionKind::send:
      return "send";
    case DestinationActionKind::prepare:
      return "prepare";
    case DestinationActionKind::restore:
      return "restore";
    case DestinationActionKind::activate:
      return "activate";
    case DestinationActionKind::discard:
      return "discard";
    case DestinationActionKind::finish:
      return "finish";
    case DestinationActionKind::query_verdict:
      return "query_verdict";
  }
  return "?";
}

const char* to_string(RoundVerdict verdict) {
  switch (verdict) {
    case RoundVerdict::another:
      return "another";
    case RoundVerdict::small:
      return "small";
    case RoundVerdict::no_gain:
      return "no_gain";
    case RoundVerdict::outrun:
      return "outrun";
    case RoundVerdict::used_up:
      return "used_up";
    case RoundVerdict::costly:
      return "costly";
  }
  return "?";
}

}  // namespace mose::plan
