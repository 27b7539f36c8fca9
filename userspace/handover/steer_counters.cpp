// SPDX-License-Identifier: MIT
#include "handover/steer_counters.h"

#include <algorithm>

#include "handover/steering_maps.h"

namespace mose::handover {

std::string_view reason_name(size_t reason) {
  switch (reason) {
    case MOSE_STEER_R_PASSED:
      return "passed";
    case MOSE_STEER_R_HELD:
      return "held";
    case MOSE_STEER_R_REINJECTED:
      return "reinjected";
    case MOSE_STEER_R_REDIRECTED:
      return "redirected";
    case MOSE_STEER_R_DROP_SHUT:
      return "drop-shut";
    case MOSE_STEER_R_DROP_OVERFLOW:
      return "drop-overflow";
    case MOSE_STEER_R_DROP_PARSE:
      return "drop-parse";
    case MOSE_STEER_R_DROP_SILENT:
      return "drop-silent";
    case MOSE_STEER_R_DROP_OTHER:
      return "drop-other";
    case MOSE_STEER_R_DROP_LOOP:
      return "drop-loop";
    case MOSE_STEER_R_DROP_REWRITE:
      return "drop-rewrite";
    case MOSE_STEER_R_TAKEN:
      return "taken";
    case MOSE_STEER_R_FOREIGN:
      return "tunnel-foreign";
    case MOSE_STEER_R_DROP_TUNNEL:
      return "drop-tunnel";
    case MOSE_STEER_R_DROP_MTU:
      return "drop-mtu";
    default:
      return "";
  }
}

bool can_count(Direction direction, size_t reason) {
  if (reason_name(reason).empty()) return false;
  switch (reason) {
    case MOSE_STEER_R_TAKEN:
    case MOSE_STEER_R_FOREIGN:
    case MOSE_STEER_R_DROP_TUNNEL:
      return direction == Direction::uplink;
    case MOSE_STEER_R_DROP_REWRITE:
      return direction != Direction::egress;
    case MOSE_STEER_R_REDIRECTED:  // only ingress is redirected
    case MOSE_STEER_R_DROP_OTHER:
    case MOSE_STEER_R_DROP_LOOP:
    case MOSE_STEER_R_DROP_MTU:
      return direction == Direction::ingress;
    default:
      return direction != Direction::uplink;
  }
}

uint64_t SteerCounters::dropped() const {
  return dropped_shut.frames + dropped_overflow.frames + dropped_parse.frames + dropped_silent.frames +
         dropped_other.frames + dropped_loop.frames + dropped_rewrite.frames + dropped_tunnel.frames + dropped_mtu.frames;
}

namespace {

SteerCounters::Stamps stamps_of(const std::vector<mose_steer_counts>& each, size_t state) {
  SteerCounters::Stamps out;
  uint32_t newest = 0;
  for (const auto& counts : each) newest = std::max(newest, counts.stamps[state].epoch);
  for (const auto& counts : each) {
    const mose_steer_stamp& in = counts.stamps[state];
    if (in.epoch != newest || in.first_ns == 0) continue;
    out.first_ns = out.first_ns == 0 ? in.first_ns : std::min<uint64_t>(out.first_ns, in.first_ns);
    out.last_ns = std::max<uint64_t>(out.last_ns, in.last_ns);
  }
  return out;
}

}  // namespace

SteerCounters sum_counts(const std::vector<mose_steer_counts>& each) {
  SteerCounters sum;
  for (const mose_steer_counts& counts : each) {
    for (size_t reason = 0; reason < sum.reasons.size(); ++reason) {
      sum.reasons[reason].frames += counts.frames[reason];
      sum.reasons[reason].bytes += counts.bytes[reason];
    }
  }
  sum.passed = sum.reasons[MOSE_STEER_R_PASSED];
  sum.held = sum.reasons[MOSE_STEER_R_HELD];
  sum.reinjected = sum.reasons[MOSE_STEER_R_REINJECTED];
  sum.redirected = sum.reasons[MOSE_STEER_R_REDIRECTED];
  sum.taken = sum.reasons[MOSE_STEER_R_TAKEN];
  sum.dropped_shut = sum.reasons[MOSE_STEER_R_DROP_SHUT];
  sum.dropped_overflow = sum.reasons[MOSE_STEER_R_DROP_OVERFLOW];
  sum.dropped_parse = sum.reasons[MOSE_STEER_R_DROP_PARSE];
  sum.dropped_silent = sum.reasons[MOSE_STEER_R_DROP_SILENT];
  sum.dropped_other = sum.reasons[MOSE_STEER_R_DROP_OTHER];
  sum.dropped_loop = sum.reasons[MOSE_STEER_R_DROP_LOOP];
  sum.dropped_rewrite = sum.reasons[MOSE_STEER_R_DROP_REWRITE];
  sum.foreign = sum.reasons[MOSE_STEER_R_FOREIGN];
  sum.dropped_tunnel = sum.reasons[MOSE_STEER_R_DROP_TUNNEL];
  sum.dropped_mtu = sum.reasons[MOSE_STEER_R_DROP_MTU];
  for (size_t state = 0; state < sum.stamps.size(); ++state) sum.stamps[state] = stamps_of(each, state);
  return sum;
}

Result<SteerCounters> Steering::counters(Direction direction) const {
  std::vector<mose_steer_counts> all;
  for (uint32_t slot = 0; slot <= config_.addresses.size(); ++slot) {
    MOSE_ASSIGN(auto each, maps_->counts_of(direction, slot));
    all.insert(all.end(), each.begin(), each.end());
  }
  SteerCounters sum = sum_counts(all);
  MOSE_ASSIGN(mose_steer_queue queue, maps_->queue(direction));
  sum.queued = queue.queued;
  sum.drained = maps_->frames(direction).load(std::memory_order_acquire);
  return sum;
}

Result<std::vector<SteerCounters>> Steering::service_counters(Direction direction) const {
  std::vector<SteerCounters> services;
  for (uint32_t slot = 1; slot <= config_.addresses.size(); ++slot) {
    MOSE_ASSIGN(auto each, maps_->counts_of(direction, slot));
    services.push_back(sum_counts(each));
  }
  return services;
}

}  // namespace mose::handover
