// SPDX-License-Identifier: MIT
// What explain() says must be what happens, and asking must change nothing.
#include <gtest/gtest.h>

#include "bed.h"
#include "handover/hold_queue.h"
#include "handover.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::HoldQueue;
using handover::SteerExplanation;
using handover::SteerState;
using handover::WorkloadNetwork;
using Verdict = SteerExplanation::Verdict;

constexpr const char* kRequest = "tcp 192.0.2.2:40000 192.0.2.10:6379";
constexpr const char* kConnect = "tcp 192.0.2.2:40000 192.0.2.10:6379 syn";
constexpr const char* kAnswer = "tcp 192.0.2.10:6379 192.0.2.2:40000";
constexpr const char* kRequest6 = "udp [2001:db8::2]:40000 [2001:db8::10]:53";

SteerExplanation explain(const WorkloadNetwork& network, const char* text) {
  auto flow = parse_flow(text);
  if (!flow) throw std::runtime_error(flow.error().what);
  auto out = network.steering().explain(*flow);
  if (!out) throw std::runtime_error(out.error().what);
  EXPECT_TRUE(out->same_programs) << text;
  return *out;
}

void expect(const SteerExplanation& seen, Verdict verdict, std::string_view reason, std::optional<SteerState> state) {
  EXPECT_STREQ(handover::to_string(seen.verdict), handover::to_string(verdict));
  EXPECT_EQ(seen.reason, reason);
  EXPECT_EQ(seen.state, state);
}

// In the hold of ingress.
void wait_for_one(const Bed& bed, const WorkloadNetwork& network) {
  UdpClient client(bed.client, AF_INET, 1000);
  EXPECT_TRUE(eventually([&] { return network.steering().queued_now(Direction::ingress).value_or(0) > 0; }));
}

TEST(Explain, SaysWhatEachStateDoes) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);

  expect(explain(network, kRequest), Verdict::pass, "passed", SteerState::pass);
  expect(explain(network, kAnswer), Verdict::pass, "passed", SteerState::pass);

  EXPECT_OK(network.hold_new(queue.tap_ifindex()));
  expect(explain(network, kRequest), Verdict::pass, "passed", SteerState::hold_new);
  SteerExplanation held = explain(network, kConnect);
  expect(held, Verdict::hold, "held", SteerState::hold_new);
  EXPECT_EQ(held.ifindex, queue.tap_ifindex());

  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  expect(explain(network, kRequest), Verdict::hold, "held", SteerState::hold);
  expect(explain(network, kRequest6), Verdict::hold, "held", SteerState::hold);
  expect(explain(network, kAnswer), Verdict::pass, "passed", SteerState::pass);

  EXPECT_OK(network.shut(Direction::egress, false));
  expect(explain(network, kAnswer), Verdict::drop, "drop-shut", SteerState::shut);

  // Behind what still waits, whatever comes after the drain.
  wait_for_one(bed, network);
  EXPECT_OK(network.drain_to_peer({.mac = bed.b.uplink_mac}));
  SteerExplanation behind = explain(network, kRequest);
  expect(behind, Verdict::hold, "held", SteerState::drain);
  EXPECT_EQ(behind.ifindex, queue.tap_ifindex());
  expect_drained(queue, network);  // whatever the segment has flooded meanwhile
  SteerExplanation gone = explain(network, kRequest);
  expect(gone, Verdict::redirect, "redirected", SteerState::redirect);
  EXPECT_EQ(gone.ifindex, network.uplink_ifindex());
  EXPECT_EQ(gone.destination_mac, bed.b.uplink_mac);
  EXPECT_EQ(gone.source_mac, network.uplink_mac());

  // A settled peer is redirected to as before, and one that is set later takes its place.
  for (const MacAddress& peer : {bed.b.uplink_mac, MacAddress{2, 0, 0, 0, 0, 77}}) {
    EXPECT_OK(network.drain_to_peer({.mac = peer}));
    EXPECT_OK(network.steering().settle_peer());
    SteerExplanation settled = explain(network, kRequest);
    expect(settled, Verdict::redirect, "redirected", SteerState::redirect);
    EXPECT_EQ(settled.destination_mac, peer);
    EXPECT_EQ(settled.ifindex, network.uplink_ifindex());
  }
}

TEST(Explain, SaysByWhichTunnelAFrameLeaves) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  const handover::Tunnel tunnel{.local = *parse_service_address("192.0.2.11/32"),
                                .remote = *parse_service_address("203.0.113.12/32")};
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_TRY(network.drain_to_peer({.mac = bed.b.uplink_mac, .tunnel = tunnel}));
    expect_drained(queue, network);
    const SteerExplanation gone = explain(network, kRequest);
    expect(gone, Verdict::redirect, "redirected", SteerState::redirect);
    EXPECT_EQ(gone.tunnel, tunnel);
    EXPECT_EQ(gone.destination_mac, bed.b.uplink_mac);
    EXPECT_EQ(gone.source_mac, network.uplink_mac());
    return {};
  });
}

TEST(Explain, ChangesNothing) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  for (int i = 0; i < 3; ++i) (void)explain(network, kRequest);
  // By service: multicast of the segment is held as well, and counted for none.
  auto counters = network.steering().service_counters(Direction::ingress);
  ASSERT_TRUE(counters);
  for (const auto& service : *counters) EXPECT_EQ(service.held.frames, 0u);
  auto all = network.steering().counters(Direction::ingress);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->queued, all->held.frames) << "a drain would wait for a frame that does not exist";
}

// A full hold drops, and so says the explanation.
TEST(Explain, KnowsTheBoundsOfAHold) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  auto policy = network.steering().policy(Direction::ingress);
  ASSERT_TRUE(policy);
  policy->state = SteerState::hold;
  policy->tap_ifindex = queue.tap_ifindex();
  policy->hold_packets_max = 0;
  EXPECT_OK(network.steering().set(Direction::ingress, *policy));
  expect(explain(network, kRequest), Verdict::drop, "drop-overflow", SteerState::hold);
}

TEST(Explain, RefusesAFlowOfOthers) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto flow = parse_flow("tcp 192.0.2.2:1 192.0.2.3:2");
  ASSERT_TRUE(flow);
  auto out = network.steering().explain(*flow);
  ASSERT_FALSE(out);
  EXPECT_NE(out.error().what.find("192.0.2.3"), std::string::npos) << out.error().what;
}

}  // namespace
}  // namespace mose::test
