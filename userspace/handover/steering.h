// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "handover/tunnel.h"
#include "model/flow.h"
#include "model/workload.h"

// What becomes of the packets of one workload on this node: three TC programs (towards the workload, from it, and on
// the uplink for frames that a peer redirects to us) and the maps that tell them what to do.
//
// Life: attach() before the workload's link is up: everything is shut and silent, so that nothing is seen of it; set()
// as often as needed; remove() at the end. Links and maps are pinned under <bpffs>/mose/<workload>/, so that an agent
// that dies leaves the programs working; adopt() finds them again, after renew() those of another build as well. The
// destructor only closes descriptors.
namespace mose::handover {

enum class Direction : uint8_t { ingress = 1, egress = 2, uplink = 3 };  // uplink has counters only
[[nodiscard]] const char* to_string(Direction direction);

enum class SteerState : uint8_t { pass = 1, hold = 2, drain = 3, redirect = 4, shut = 5, hold_new = 6 };
[[nodiscard]] const char* to_string(SteerState state);

// Bounds of a hold. The packets stay below the queue length of the tap, because a full tap drops unseen.
inline constexpr unsigned kTapQueueLength = 20000;
inline constexpr uint64_t kHoldPacketsMax = 16000;
static_assert(kHoldPacketsMax < kTapQueueLength);
inline constexpr uint64_t kHoldBytesMax = 512ull << 20;

// What the programs do with one direction. Redirect and drain-then-redirect need peer_*; hold and drain need a tap.
struct SteerPolicy {
  SteerState state = SteerState::shut;
  SteerState after_drain = SteerState::pass;
  bool silent = false;  // ARP and neighbour discovery are dropped as well
  // When the state ends by itself, decided in BPF, for an agent that dies: a hold before a dump becomes pass. Nothing
  // that a dump may have read, and nothing after a commit, may have one. What is in the tap then is late, or lost with
  // it.
  std::optional<Timestamp> deadline;
  SteerState on_expiry = SteerState::pass;  // pass or shut
  unsigned tap_ifindex = 0;
  unsigned peer_ifindex = 0;  // our uplink
  MacAddress peer_mac{};      // the peer's uplink, with a tunnel the next hop's
  MacAddress own_mac{};       // our uplink
  std::optional<Tunnel> tunnel;  // redirect: the peer is behind a router
  uint64_t hold_packets_max = kHoldPacketsMax;
  uint64_t hold_bytes_max = kHoldBytesMax;

  std::optional<SteerState> expired;  // read only: the state whose deadline has come since the last set()
  std::optional<Timestamp> since;     // read only: when the state began; none: programs before ours have set it

  bool operator==(const SteerPolicy&) const = default;
};

struct SteerCounters {
  struct Count {
    uint64_t frames = 0, bytes = 0;
  };
  Count passed, held, reinjected, redirected;
  Count taken;    // uplink: a peer had redirected it to us
  Count foreign;  // uplink: in our tunnel, but not from the peer; left to the kernel
  Count dropped_shut, dropped_overflow, dropped_parse, dropped_silent, dropped_other, dropped_loop, dropped_rewrite;
  Count dropped_tunnel, dropped_mtu;
  std::array<Count, 16> reasons{};  // all of the above by enum mose_steer_reason
  uint64_t queued = 0;              // given to the tap, in all
  uint64_t drained = 0;             // put back, in all; queued - drained frames are in the tap now
  // First and last frame that met a state since it was last entered by set(); 0: none.
  struct Stamps {
    uint64_t first_ns = 0, last_ns = 0;
  };
  std::array<Stamps, 8> stamps{};  // by SteerState

  [[nodiscard]] uint64_t dropped() const;  // frames, all reasons
};

// "drop-overflow": the name of a reason, by enum mose_steer_reason; empty: there is none of this number.
[[nodiscard]] std::string_view reason_name(size_t reason);
// Whether frames of this direction can be counted for it.
[[nodiscard]] bool can_count(Direction direction, size_t reason);

// How programs are attached at TC. Automatic: links where the kernel has them, else filters of clsact; the environment
// variable MOSE_TC_ATTACH ("tcx" or "clsact") overrides it, so that the other way can be had on any kernel.
enum class TcAttach : uint8_t { automatic = 0, tcx = 1, clsact = 2 };
[[nodiscard]] const char* to_string(TcAttach attach);

struct SteeringConfig {
  std::string workload;
  std::vector<ServiceAddress> addresses;  // 1 to 8
  MacAddress mac{};                       // of the workload
  unsigned host_ifindex = 0;              // host end of its device, in the caller's network namespace
  unsigned uplink_ifindex = 0;            // 0: no uplink program (frames redirected to us are not taken)
  MacAddress uplink_mac{};
  std::string bpffs = "/sys/fs/bpf";
  TcAttach attach = TcAttach::automatic;  // of an attached object: what came of it
};

struct SteeringMaps;

// What the programs would do with a packet now.
struct SteerExplanation {
  enum class Verdict : uint8_t { pass, hold, redirect, drop };
  Direction direction = Direction::ingress;
  Verdict verdict = Verdict::drop;
  std::string_view reason;          // reason_name()
  std::optional<SteerState> state;  // that it meets; none when it is not judged by state
  unsigned ifindex = 0;             // hold: the tap, redirect: the device it leaves by
  MacAddress destination_mac{};     // redirect: as it leaves
  MacAddress source_mac{};
  std::optional<Tunnel> tunnel;  // redirect: it leaves in it
  bool same_programs = false;  // those attached have the same instructions as those that were asked
};
[[nodiscard]] const char* to_string(SteerExplanation::Verdict verdict);

class Steering {
 public:
  // In the node's network namespace. Loads, attaches and pins; on failure nothing is left. Refuses when pins of this
  // workload exist (adopt or remove them first). Takes milliseconds: never during a freeze.
  [[nodiscard]] static Result<Steering> attach(const SteeringConfig& config);
  // Whether there are pins of this workload, of whatever build and however many.
  [[nodiscard]] static bool pinned(const std::string& bpffs, const std::string& workload);
  // Opens what attach() pinned, after a restart, in the same namespace. Fails when anything is missing.
  [[nodiscard]] static Result<Steering> adopt(const std::string& bpffs, const std::string& workload);
  // What another build of ours has pinned becomes what adopt() of this one takes: programs are replaced one by one in
  // one step each, maps whose values have changed are copied before (counters lose what comes in between), held frames
  // stay where they are. On failure the old programs go on as they did. An agent that dies in the middle leaves what
  // the next call completes. At the agent's start, when nobody sets policies or drains; verifying programs takes the
  // kernel up to a second.
  struct Renewed {
    std::string workload;
    Result<bool> replaced;  // false: it is this build's
  };
  [[nodiscard]] static std::vector<Renewed> renew(const std::string& bpffs);
  // Detaches and unpins whatever there is of this workload, whatever build it is of; nothing to remove is fine. In the
  // node's network namespace. A filter that cannot be detached keeps the pins, by which the next call finds it.
  [[nodiscard]] static Status remove_pins(const std::string& bpffs, const std::string& workload);

  Steering(Steering&&) noexcept;
  Steering& operator=(Steering&&) noexcept;
  Steering(const Steering&) = delete;
  Steering& operator=(const Steering&) = delete;
  ~Steering();

  // One map update, a few microseconds; counters and queues are untouched. When it returns no program acts by the old
  // policy any more, except that frames which were being passed or dropped are so. Refuses a policy that lacks a device
  // its state needs, and a new hold while frames of the last drain are still in the tap. A drain whose tap is gone (the
  // agent that held it has died) is over at once: what it held is written off, with a warning.
  [[nodiscard]] Status set(Direction direction, const SteerPolicy& policy);
  // The same policy with another state: what is used in the critical moments.
  [[nodiscard]] Status set_state(Direction direction, SteerState state);
  // Nothing passes, whatever was to come after a time. `silent`: ARP and neighbour discovery neither.
  [[nodiscard]] Status shut(Direction direction, bool silent);
  // Ingress is redirected and nothing waits any more: from now on the programs read the peer without their lock, at
  // half the cost. A later set() with another peer takes some 10 ms, as this does: until no program reads the former.
  // In any other state nothing happens.
  [[nodiscard]] Status settle_peer();
  // As the programs see it now: a finished drain reads as its after_drain.
  [[nodiscard]] Result<SteerPolicy> policy(Direction direction) const;
  // Frames of this tunnel that are for the workload are taken on the uplink; none: only those redirected on the
  // segment.
  [[nodiscard]] Status take_from(const std::optional<Tunnel>& tunnel);
  [[nodiscard]] Result<std::optional<Tunnel>> taken_from() const;
  // Of all services and of frames that belong to none.
  [[nodiscard]] Result<SteerCounters> counters(Direction direction) const;
  // By place in config().addresses, without queued and drained, which are counted for all together. What passes in the
  // state pass is not looked at and counts for none.
  [[nodiscard]] Result<std::vector<SteerCounters>> service_counters(Direction direction) const;

  // By the real programs, run on a frame of this flow with a copy of what the maps say now; nothing is counted or held.
  // Refuses a flow that has no address of this workload. Loads the programs once more: some milliseconds.
  [[nodiscard]] Result<SteerExplanation> explain(const Flow& flow) const;

  // Frames in the tap. Zero while in drain means: the drain is over, and no frame can come to the tap any more.
  [[nodiscard]] Result<uint64_t> queued_now(Direction direction) const;
  // Of those the ones that can still be put back: none when the tap has gone, with all that was in it.
  [[nodiscard]] Result<uint64_t> held_now(Direction direction) const;
  // While in drain at most so many frames wait, 0: as many as the hold allows; what comes beyond is dropped and counted as
  // overflow. In any other state nothing happens, and the next set() ends it. Only the pump of the hold queue calls this, when
  // more comes than it can put back.
  [[nodiscard]] Status bound_drain(Direction direction, uint32_t frames);
  // Only the pump of the hold queue calls this, after the frames have been delivered (or are lost for good). `bytes` as read
  // from the tap, without its header; what nobody knows is 0, and counts against the bound until the tap is empty.
  void add_drained(Direction direction, uint64_t frames, uint64_t bytes);
  // Nobody will put back what is in the tap any more: how many frames that are, with a warning in the log. All of them once
  // the direction holds and drains no longer.
  uint64_t write_off(Direction direction);

  [[nodiscard]] const std::string& workload() const { return config_.workload; }
  [[nodiscard]] const SteeringConfig& config() const { return config_; }
  // For hold queues: the program that puts held egress back, borrowed.
  [[nodiscard]] int tap_program() const;
  // Detaches and unpins. The object is empty afterwards, whatever the result.
  [[nodiscard]] Status remove();

 private:
  Steering(SteeringConfig config, std::unique_ptr<SteeringMaps> maps);

  SteeringConfig config_;
  std::unique_ptr<SteeringMaps> maps_;
};

// How programs would be attached here, or why they cannot be.
[[nodiscard]] Result<TcAttach> steering_supported();

}  // namespace mose::handover
