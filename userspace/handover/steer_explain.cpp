// SPDX-License-Identifier: MIT
// The answer to "what would happen to this packet now": given by the programs themselves, not by a second opinion.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "handover/steering.h"
#include "handover/steering_maps.h"
#include "handover/steering_programs.h"
#include "kernel/bpf_object.h"

namespace mose::handover {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr MacAddress kSomebody{0x02, 0, 0, 0, 0, 1};  // the other side: no rule looks at it but that against loops
constexpr size_t kMacsSize = 12;
constexpr uint16_t kIpv4 = 0x0800, kIpv6 = 0x86dd;
constexpr uint8_t kTcpSyn = 0x02, kTcpAck = 0x10, kHops = 64, kIcmpv6 = 58;

void put16(Bytes& out, uint16_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}

void put(Bytes& out, std::span<const uint8_t> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// Checksums are left out: steering never looks at them.
Bytes transport_of(const Flow& flow) {
  Bytes out;
  switch (flow.protocol) {
    case FlowProtocol::tcp:
      put16(out, flow.source_port);
      put16(out, flow.destination_port);
      out.resize(12);
      out.push_back(0x50);  // five words of header
      out.push_back(flow.opens ? kTcpSyn : kTcpAck);
      out.resize(20);
      break;
    case FlowProtocol::udp:
      put16(out, flow.source_port);
      put16(out, flow.destination_port);
      put16(out, 8);
      out.resize(8);
      break;
    case FlowProtocol::icmp:
      out.push_back(flow.source.family == AF_INET ? 8 : 128);  // an echo request
      out.resize(8);
      break;
  }
  return out;
}

Bytes frame_of(const Flow& flow, const MacAddress& to, const MacAddress& from) {
  Bytes transport = transport_of(flow), out;
  put(out, to);
  put(out, from);
  auto length = static_cast<uint16_t>(transport.size());
  if (flow.source.family == AF_INET) {
    put16(out, kIpv4);
    out.insert(out.end(), {0x45, 0});
    put16(out, static_cast<uint16_t>(20 + length));
    out.insert(out.end(), {0, 0, 0, 0, kHops, static_cast<uint8_t>(flow.protocol), 0, 0});
    put(out, std::span(flow.source.bytes).first(4));
    put(out, std::span(flow.destination.bytes).first(4));
  } else {
    put16(out, kIpv6);
    out.insert(out.end(), {0x60, 0, 0, 0});
    put16(out, length);
    out.push_back(flow.protocol == FlowProtocol::icmp ? kIcmpv6 : static_cast<uint8_t>(flow.protocol));
    out.push_back(kHops);
    put(out, flow.source.bytes);
    put(out, flow.destination.bytes);
  }
  put(out, transport);
  return out;
}

bool serves(const SteeringConfig& config, const ServiceAddress& address) {
  return std::any_of(config.addresses.begin(), config.addresses.end(), [&](const ServiceAddress& own) {
    return own.family == address.family && own.bytes == address.bytes;
  });
}

// What the maps of `from` say of a direction, in those of programs that are attached nowhere.
Status copy_maps(const SteeringMaps& from, Direction direction, const steer_tc& to) {
  auto key = static_cast<uint32_t>(direction);
  MOSE_ASSIGN(mose_steer_policy policy, from.policy(direction));
  mose_steer_drained drained{.frames = from.frames(direction).load(std::memory_order_acquire)};
  mose_steer_drained_bytes drained_bytes{.bytes = from.bytes(direction).load(std::memory_order_relaxed)};
  MOSE_ASSIGN(mose_steer_queue queue, from.queue(direction));
  MOSE_TRY(bpf::map_update(bpf_map__fd(to.maps.mose_services), &key, &policy, bpf::kMapLocked));
  MOSE_TRY(bpf::map_update(bpf_map__fd(to.maps.mose_drained), &key, &drained));
  MOSE_TRY(bpf::map_update(bpf_map__fd(to.maps.mose_drained_bytes), &key, &drained_bytes));
  return bpf::map_update(bpf_map__fd(to.maps.mose_queues), &key, &queue);
}

// The counter and the state that one frame has left in maps that were empty.
struct Trace {
  uint32_t reason = MOSE_STEER_R_INVALID;
  std::optional<SteerState> state;
};
Result<Trace> trace_of(const steer_tc& programs, Direction direction, size_t slots) {
  MOSE_ASSIGN(unsigned cpus, bpf::possible_cpus());
  Trace trace;
  for (uint32_t slot = 0; slot < slots; ++slot) {
    std::vector<mose_steer_counts> each(cpus);
    uint32_t key = MOSE_STEER_COUNTS_KEY(static_cast<uint32_t>(direction), slot);
    MOSE_TRY(bpf::map_lookup(bpf_map__fd(programs.maps.mose_counts), &key, each.data()));
    for (const mose_steer_counts& counts : each) {
      for (uint32_t reason = 0; reason < MOSE_STEER_R_MAX; ++reason) {
        if (counts.frames[reason] != 0) trace.reason = reason;
      }
      for (uint32_t state = 0; state < MOSE_STEER_STATE_MAX; ++state) {
        if (counts.stamps[state].first_ns != 0) trace.state = static_cast<SteerState>(state);
      }
    }
  }
  return trace;
}

// Have the programs that work now the instructions of those that were asked?
Result<bool> same_program(const SteeringConfig& config, const char* place, int asked) {
  std::string directory = pin_directory(config.bpffs, config.workload) + "/";
  Fd program;
  if (config.attach == TcAttach::clsact) {
    MOSE_ASSIGN(program, bpf::open_pinned(directory + "program_" + place));
  } else {
    MOSE_ASSIGN(Fd link, bpf::open_pinned(directory + "link_" + place));
    MOSE_ASSIGN(program, bpf::program_of_link(link.get()));
  }
  MOSE_ASSIGN(auto attached_tag, bpf::program_tag(program.get()));
  MOSE_ASSIGN(auto asked_tag, bpf::program_tag(asked));
  return attached_tag == asked_tag;
}

}  // namespace

const char* to_string(SteerExplanation::Verdict verdict) {
  switch (verdict) {
    case SteerExplanation::Verdict::pass:
      return "pass";
    case SteerExplanation::Verdict::hold:
      return "hold";
    case SteerExplanation::Verdict::redirect:
      return "redirect";
    case SteerExplanation::Verdict::drop:
      return "drop";
  }
  return "?";
}

Result<SteerExplanation> Steering::explain(const Flow& flow) const {
  MOSE_CHECK(maps_ != nullptr, "steering used after remove()");
  bool inward = serves(config_, flow.destination);
  if (!inward && !serves(config_, flow.source)) {
    return fail("neither " + format_address(flow.source) + " nor " + format_address(flow.destination) +
                " is an address of " + config_.workload);
  }
  SteerExplanation out;
  out.direction = inward ? Direction::ingress : Direction::egress;
  MOSE_ASSIGN(Skeleton programs, load_programs(config_));
  MOSE_TRY(copy_maps(*maps_, out.direction, *programs));
  int program = bpf_program__fd(inward ? programs->progs.steer_ingress : programs->progs.steer_egress);
  Bytes frame = inward ? frame_of(flow, config_.mac, kSomebody) : frame_of(flow, kSomebody, config_.mac);
  MOSE_ASSIGN(bpf::TcRun run, bpf::run_at_tc(program, frame));
  MOSE_ASSIGN(Trace trace, trace_of(*programs, out.direction, config_.addresses.size() + 1));
  MOSE_ASSIGN(out.same_programs, same_program(config_, inward ? "ingress" : "egress", program));
  MOSE_ASSIGN(SteerPolicy now, policy(out.direction));

  out.reason = reason_name(trace.reason);
  out.state = trace.state;
  if (run.verdict == bpf::TcVerdict::next) out.verdict = SteerExplanation::Verdict::pass;
  if (run.verdict == bpf::TcVerdict::redirect && trace.reason == MOSE_STEER_R_HELD) {
    out.verdict = SteerExplanation::Verdict::hold;
    out.ifindex = now.tap_ifindex;
  } else if (run.verdict == bpf::TcVerdict::redirect) {
    out.verdict = SteerExplanation::Verdict::redirect;
    out.ifindex = now.peer_ifindex;
    out.tunnel = now.tunnel;
    if (run.frame.size() < kMacsSize) return fail("explain " + format_flow(flow) + ": the redirected frame was cut off");
    std::copy_n(run.frame.begin(), 6, out.destination_mac.begin());
    std::copy_n(run.frame.begin() + 6, 6, out.source_mac.begin());
  }
  return out;
}

}  // namespace mose::handover
