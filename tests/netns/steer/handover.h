// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "bed.h"
#include "counters.h"
#include "handover/hold_queue.h"
#include "handover/workload_network.h"

namespace mose::test {

inline constexpr Nanoseconds kDrainLimit = std::chrono::seconds(5);

#define EXPECT_OK(expression)                                 \
  do {                                                        \
    auto result_ = (expression);                              \
    EXPECT_TRUE(result_.has_value()) << result_.error().what; \
  } while (false)

[[nodiscard]] handover::HoldQueue hold_queue(const Bed& bed, const Bed::Node& node, handover::WorkloadNetwork& network,
                                             handover::Direction direction);
void expect_drained(handover::HoldQueue& queue, handover::WorkloadNetwork& network);

// When a packet was last let through. ARP and neighbour discovery, which are never held, do not count.
[[nodiscard]] uint64_t last_passed_ns(handover::WorkloadNetwork& network, handover::Direction direction);
void wait_for_held(handover::WorkloadNetwork& network, uint64_t frames);

// With a hold in place, what passed before it has been taken, nothing new for `quiet_ms`: then the source is frozen.
void wait_until_idle(const UdpService& service, int quiet_ms = 3);

// A service's network that goes from node to node without the memory and sockets of its processes.
//
// Life: prepare() -> hold_new(), hold() -> switch_over() -> leave(), then the other way round.
class MovingNetwork {
 public:
  explicit MovingNetwork(Bed& bed) : bed_(bed), here_(&bed.a), there_(&bed.b) { network_.emplace(bed.create(bed.a)); }

  [[nodiscard]] Bed::Node& here() const { return *here_; }
  [[nodiscard]] Bed::Node& there() const { return *there_; }  // before switch_over: the next place
  [[nodiscard]] handover::WorkloadNetwork& network() { return *network_; }

  void prepare();
  void hold_new() { EXPECT_OK(network_->hold_new(queue_->tap_ifindex())); }
  void hold() { EXPECT_OK(network_->hold(handover::Direction::ingress, queue_->tap_ifindex())); }
  // The next place opens, what is held drains to it, then what it sends leaves, and the segment is told.
  void switch_over();
  // No straggler comes any more: the old place's network goes.
  void leave();
  [[nodiscard]] const TcpCounters& old_place() const { return old_place_; }  // all that its TCP noticed; after leave()
  [[nodiscard]] uint64_t held() const { return held_; }                      // frames, in all moves

 private:
  Bed& bed_;
  Bed::Node *here_, *there_;
  std::optional<handover::WorkloadNetwork> network_, next_;
  std::optional<handover::HoldQueue> queue_, next_egress_queue_;
  uint64_t dropped_before_ = 0;
  TcpCounters old_place_;
  uint64_t held_ = 0;
};

// The client sends to the uplink of the service's first place from now on, whatever it is told.
void send_to_first_place(Bed& bed);
// From prepare() to switch_over() with a service that ends here and is begun anew there; what it has received here.
[[nodiscard]] Sequence move_udp_service(MovingNetwork& moving, std::unique_ptr<UdpService>& service);

}  // namespace mose::test
