// SPDX-License-Identifier: MIT
// Steering with real packets: hold, drain, abort, redirect to another node, silence, and bounds that are reached.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "handover.h"
#include "handover/announce.h"
#include "handover/hold_queue.h"
#include "kernel/netns.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::HoldQueue;
using handover::SteerState;
using handover::WorkloadNetwork;

class HoldAndRelease : public testing::TestWithParam<int> {};

TEST_P(HoldAndRelease, LosesReordersAndDoublesNothingAt20000PacketsPerSecond) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, GetParam(), true);
  UdpClient client(bed.client, GetParam(), 20000);
  for (int round = 0; round < 10; ++round) {
    sleep_ms(20);
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(1);
    uint64_t before = last_passed_ns(network, Direction::ingress);
    wait_for_held(network, 100);
    EXPECT_EQ(last_passed_ns(network, Direction::ingress), before) << "packets pass a hold";
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    expect_drained(queue, network);
  }
  sleep_ms(20);
  client.finish(client.sent() + 1);
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  EXPECT_EQ(client.answers().fault(1, client.sent()), "");
  auto counters = network.steering().counters(Direction::ingress);
  ASSERT_TRUE(counters.has_value());
  EXPECT_EQ(counters->dropped(), 0u);
  EXPECT_EQ(counters->held.frames, counters->queued);
  EXPECT_EQ(counters->reinjected.frames, counters->queued);
  EXPECT_EQ(counters->drained, counters->queued);
  EXPECT_EQ(queue.stats().reinjected, counters->queued);
  EXPECT_GT(counters->queued, 1000u);
  auto policy = network.steering().policy(Direction::ingress);
  ASSERT_TRUE(policy.has_value());
  EXPECT_EQ(policy->state, SteerState::pass);
}
INSTANTIATE_TEST_SUITE_P(Family, HoldAndRelease, testing::Values(AF_INET, AF_INET6));

// Bulk in both directions: segmentation-offload frames and unfinished checksums must survive the tap.
TEST(HoldTcp, KeepsAStreamIntactThroughHolds) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  Fd listener = tcp_listener(bed.a.workload, "192.0.2.10", kPort);
  Fd client = tcp_connect(bed.client, "192.0.2.10", kPort);
  Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(server.valid());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0}, received{0}, sent{0};
  std::thread writer([&] {
    std::vector<uint64_t> block(8192);
    for (uint64_t number = 0; !stop;) {
      for (uint64_t& word : block) word = number++;
      if (write(client.get(), block.data(), block.size() * 8) < 0) break;
      sent = number;
    }
    shutdown(client.get(), SHUT_WR);
  });
  std::thread reader([&] {
    std::vector<uint8_t> buffer(1 << 16);
    size_t have = 0;
    uint64_t next = 0;
    for (ssize_t got; (got = read(server.get(), buffer.data() + have, buffer.size() - have)) > 0;) {
      have += static_cast<size_t>(got);
      for (size_t i = 0; i + 8 <= have; i += 8) {
        uint64_t word = 0;
        memcpy(&word, buffer.data() + i, 8);
        if (word != next++) ++wrong;
      }
      size_t rest = have % 8;
      memmove(buffer.data(), buffer.data() + have - rest, rest);
      have = rest;
      received = next;
    }
  });
  for (int round = 0; round < 5; ++round) {
    sleep_ms(50);
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(50);
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    expect_drained(queue, network);
  }
  stop = true;
  writer.join();
  reader.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(received, sent);
  EXPECT_GT(queue.stats().bytes, queue.stats().reinjected * 3000) << "no segmentation-offload frame was held";
}

TEST(Abort, BringsEverythingBackToTheSource) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 20000);
  sleep_ms(30);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  wait_until_idle(service, 20);  // then the source is frozen and dumped
  EXPECT_OK(network.shut(Direction::egress, false));
  sleep_ms(20);
  EXPECT_OK(network.pass(Direction::egress));
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
  sleep_ms(30);
  client.finish(client.sent() + 1);
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  EXPECT_EQ(client.answers().fault(1, client.sent()), "");
}

TEST(Redirect, WhatIsForNobodyDoesNotKeepBackWhatWaitsBehindIt) {
  Bed bed;
  WorkloadNetwork source = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, source, Direction::ingress);
  EXPECT_OK(source.hold(Direction::ingress, queue.tap_ifindex()));
  Fd client = udp_socket(bed.client, AF_INET, "192.0.2.2", 7001);
  const int on = 1;
  setsockopt(client.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
  for (uint32_t to : {0xc00002ffu, 0xc000020au}) {  // to all, then to the service
    sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = {htonl(to)}};
    ASSERT_EQ(sendto(client.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&address), sizeof address), 1);
  }
  ASSERT_TRUE(eventually([&] { return *source.steering().queued_now(Direction::ingress) >= 2; }));
  EXPECT_OK(source.drain_to_peer({.mac = bed.b.uplink_mac}));
  expect_drained(queue, source);
  auto counters = source.steering().counters(Direction::ingress);
  ASSERT_TRUE(counters);
  EXPECT_EQ(counters->redirected.frames, 1u);
  // The segment's own multicast may wait in the queue as well, or come after it.
  EXPECT_GE(counters->dropped_other.frames + counters->redirected.frames, counters->queued);
  EXPECT_GE(counters->dropped_other.frames, 1u);
}

// One way only: answers of the new place would teach the switch before the old place has drained (see the next test).
TEST(Redirect, BringsHeldAndLaterPacketsToTheOtherNodeInOrder) {
  Bed bed;
  WorkloadNetwork source = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, source, Direction::ingress);
  auto before = std::make_unique<UdpService>(bed.a.workload, AF_INET, false);
  UdpClient client(bed.client, AF_INET, 20000);
  sleep_ms(30);
  WorkloadNetwork destination = bed.create(bed.b, false);
  EXPECT_OK(source.hold(Direction::ingress, queue.tap_ifindex()));
  sleep_ms(20);
  before->stop();
  UdpService after(bed.b.workload, AF_INET, false);
  bed.in(bed.b.netns, [&] { return destination.open_ingress(); });
  EXPECT_OK(source.drain_to_peer({.mac = bed.b.uplink_mac}));
  expect_drained(queue, source);
  sleep_ms(30);
  bed.in(bed.b.netns, [&]() -> Status {  // stragglers still come by the source, then none
    MOSE_TRY(destination.open_egress());
    MOSE_ASSIGN(auto announcer,
                handover::Announcer::open(destination.uplink_ifindex(), destination.steering().config().addresses,
                                          mac_for(service4())));
    return announcer.send_round();
  });
  sleep_ms(30);
  client.stop_sending();
  EXPECT_TRUE(eventually([&] { return before->received().seen.size() + after.count() >= client.sent(); }));
  after.stop();
  client.stop();
  Sequence all = before->received();
  EXPECT_GT(all.seen.size(), 0u);
  all.seen.insert(all.seen.end(), after.received().seen.begin(), after.received().seen.end());
  EXPECT_EQ(all.fault(1, client.sent()), "");
  auto counters = source.steering().counters(Direction::ingress);
  auto taken = destination.steering().counters(Direction::uplink);
  ASSERT_TRUE(counters && taken);
  // What is not for the service (multicast of the new place, ARP) ends at the source.
  EXPECT_EQ(counters->dropped(), counters->dropped_silent.frames + counters->dropped_other.frames);
  EXPECT_GT(counters->redirected.frames, counters->queued);
  EXPECT_EQ(taken->taken.frames, counters->redirected.frames);
  EXPECT_LT(taken->taken.frames, after.count()) << "the announcement brought nothing directly";
}

TEST(HeldEgress, LeavesInOrderWhenTheDestinationOpens) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.b, false);
  HoldQueue queue = hold_queue(bed, bed.b, network, Direction::egress);
  EXPECT_OK(network.hold(Direction::egress, queue.tap_ifindex()));
  Fd inside = udp_socket(bed.b.workload, AF_INET, "192.0.2.10", kPort);
  Fd outside = udp_socket(bed.client, AF_INET, "192.0.2.2", kPort + 1);
  Capture capture(bed.segment, "pb");
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort + 1), .sin_addr = {htonl(0xc0000202)}};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> sent{0};
  std::thread sender([&] {
    for (uint64_t number = 1; !stop; ++number) {
      if (sendto(inside.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) break;
      sent = number;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
  EXPECT_TRUE(eventually([&] { return network.steering().queued_now(Direction::egress).value_or(0) > 200; }));
  EXPECT_TRUE(capture.take().in.empty()) << "the destination was heard before it opened";
  bed.in(bed.b.netns, [&] { return network.open(); });
  expect_drained(queue, network);
  sleep_ms(20);
  stop = true;
  sender.join();
  Sequence got;
  EXPECT_TRUE(eventually([&] {
    uint64_t number = 0;
    while (recv(outside.get(), &number, sizeof number, MSG_DONTWAIT) == sizeof number) got.seen.push_back(number);
    return got.seen.size() >= sent;
  }));
  EXPECT_EQ(got.fault(1, sent), "");
  auto counters = network.steering().counters(Direction::egress);
  ASSERT_TRUE(counters.has_value());
  EXPECT_EQ(counters->reinjected.frames, counters->queued);
  EXPECT_EQ(counters->dropped(), counters->dropped_silent.frames + counters->dropped_shut.frames);
}

TEST(HeldEgress, WhatIsThrownAwayNeverLeavesAndTheNextHoldIsComplete) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.b, false);
  HoldQueue queue = hold_queue(bed, bed.b, network, Direction::egress);
  EXPECT_OK(network.hold(Direction::egress, queue.tap_ifindex()));
  Fd inside = udp_socket(bed.b.workload, AF_INET, "192.0.2.10", kPort);
  Fd outside = udp_socket(bed.client, AF_INET, "192.0.2.2", kPort + 1);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort + 1), .sin_addr = {htonl(0xc0000202)}};
  auto send = [&](uint64_t number) {
    sendto(inside.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&to), sizeof to);
  };
  auto queued = [&] { return network.steering().queued_now(Direction::egress).value_or(0); };
  constexpr uint64_t kDropped = 7, kKept = 5;
  for (uint64_t number = 0; number < kDropped; ++number) send(100 + number);
  EXPECT_TRUE(eventually([&] { return queued() >= kDropped; }));
  EXPECT_FALSE(queue.discard(network.steering()).has_value()) << "while more can come";
  EXPECT_OK(network.shut(Direction::egress, true));
  auto dropped = queue.discard(network.steering());
  ASSERT_TRUE(dropped.has_value()) << dropped.error().what;
  EXPECT_GE(*dropped, kDropped);
  EXPECT_EQ(queued(), 0u);
  EXPECT_EQ(queue.stats().lost, 0u);

  EXPECT_OK(network.hold(Direction::egress, queue.tap_ifindex()));
  for (uint64_t number = 1; number <= kKept; ++number) send(number);
  EXPECT_TRUE(eventually([&] { return queued() >= kKept; }));
  bed.in(bed.b.netns, [&] { return network.open(); });
  expect_drained(queue, network);
  Sequence got;
  EXPECT_TRUE(eventually([&] {
    uint64_t number = 0;
    while (recv(outside.get(), &number, sizeof number, MSG_DONTWAIT) == sizeof number) got.seen.push_back(number);
    return got.seen.size() >= kKept;
  }));
  EXPECT_EQ(got.fault(1, kKept), "");
}

TEST(Silence, ADestinationEmitsNoFrameBeforeItOpens) {
  Bed bed;
  WorkloadNetwork source = bed.create(bed.a);
  sleep_ms(20);
  Capture wire(bed.segment, "pb"), uplink(bed.b.netns, "up");
  WorkloadNetwork destination = bed.create(bed.b, false);
  Fd inside = udp_socket(bed.b.workload, AF_INET, "192.0.2.10", kPort);
  Fd inside6 = udp_socket(bed.b.workload, AF_INET6, "2001:db8::10", kPort);
  sockaddr_in unknown{.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(0xc0000263)}};
  sockaddr_in6 unknown6{.sin6_family = AF_INET6, .sin6_port = htons(9)};
  unknown6.sin6_addr.s6_addr[0] = 0x20, unknown6.sin6_addr.s6_addr[1] = 1, unknown6.sin6_addr.s6_addr[2] = 0x0d;
  unknown6.sin6_addr.s6_addr[3] = 0xb8, unknown6.sin6_addr.s6_addr[15] = 0x63;
  for (int i = 0; i < 5; ++i) {  // needs ARP and neighbour discovery, and multicast reports are due
    sendto(inside.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&unknown), sizeof unknown);
    sendto(inside6.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&unknown6), sizeof unknown6);
    sleep_ms(60);
  }
  // Somebody asks for the service: the source answers, the destination must not.
  auto answers =
      in_netns_get<std::vector<MacAddress>>(bed.client.get(), [] { return handover::probe_address("up", service4()); });
  ASSERT_TRUE(answers.has_value());
  EXPECT_EQ(answers->size(), 1u);
  EXPECT_EQ(wire.take().in.size(), 0u);
  EXPECT_EQ(uplink.take().out.size(), 0u);
  auto counters = destination.steering().counters(Direction::egress);
  ASSERT_TRUE(counters.has_value());
  EXPECT_GT(counters->dropped(), 0u) << "the workload tried nothing: the test shows nothing";
  EXPECT_EQ(counters->passed.frames, 0u);

  bed.in(bed.b.netns, [&] { return destination.open(); });
  sendto(inside.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&unknown), sizeof unknown);
  EXPECT_TRUE(eventually([&] { return !wire.take().in.empty(); }));
}

TEST(HoldQueue, DoesNotDrainWhatIsStillHeld) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  EXPECT_FALSE(queue.drain(network.steering(), kDrainLimit).has_value());
}
TEST(Policy, IsRefusedWhenSomethingItNeedsIsMissing) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto& steering = network.steering();
  EXPECT_FALSE(steering.set(Direction::ingress, {.state = SteerState::hold}));
  EXPECT_FALSE(steering.set(Direction::ingress, {.state = SteerState::drain}));
  EXPECT_FALSE(steering.set(Direction::ingress, {.state = SteerState::redirect}));
  EXPECT_FALSE(steering.set(Direction::ingress, {.state = SteerState::redirect, .peer_ifindex = 1}));
  EXPECT_FALSE(steering.set(Direction::egress,
                            {.state = SteerState::redirect, .peer_ifindex = 1, .peer_mac = {2, 1}, .own_mac = {2, 2}}));
  EXPECT_FALSE(steering.set(Direction::uplink, {.state = SteerState::pass}));
  EXPECT_FALSE(steering.set(Direction::ingress,
                            {.state = SteerState::drain, .after_drain = SteerState::hold, .tap_ifindex = 1}));
  auto policy = steering.policy(Direction::ingress);
  ASSERT_TRUE(policy.has_value());
  EXPECT_EQ(policy->state, SteerState::pass);
}

TEST(Policy, ANewHoldWaitsForTheLastDrain) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, false);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  UdpClient client(bed.client, AF_INET, 1000);
  EXPECT_TRUE(eventually([&] { return network.steering().queued_now(Direction::ingress).value_or(0) > 5; }));
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  EXPECT_FALSE(network.hold(Direction::ingress, queue.tap_ifindex()));
  expect_drained(queue, network);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
}

// The network of a's workload, with other bounds of what is held.
WorkloadNetwork opened_with(const Bed& bed, const handover::WorkloadNetworkConfig& config) {
  auto opened = in_netns_get<WorkloadNetwork>(bed.a.netns.get(), [&] { return WorkloadNetwork::open_existing(config, bed.a.workload.get()); });
  EXPECT_TRUE(opened.has_value()) << opened.error().what;
  return std::move(*opened);
}

TEST(Overflow, IsCountedAndTheRestIsDelivered) {
  Bed bed;
  auto config = bed.config(bed.a);
  config.hold_packets_max = 50;
  config.hold_bytes_max = 1u << 20;
  WorkloadNetwork made = bed.create(bed.a);
  WorkloadNetwork network = opened_with(bed, config);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, false);
  uint64_t held = 0;
  EXPECT_OK(network.hold_new(queue.tap_ifindex()));
  for (auto state : {SteerState::hold_new, SteerState::hold}) {
    auto policy = network.steering().policy(Direction::ingress);
    ASSERT_TRUE(policy.has_value());
    EXPECT_EQ(policy->state, state);
    EXPECT_EQ(policy->hold_packets_max, 50u);
    EXPECT_EQ(policy->hold_bytes_max, 1u << 20);
    if (state == SteerState::hold_new) EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  }
  {
    UdpClient client(bed.client, AF_INET, 20000);
    EXPECT_TRUE(eventually([&] { return client.sent() >= 200; }));
    client.stop();
    auto counters = network.steering().counters(Direction::ingress);
    ASSERT_TRUE(counters.has_value());
    EXPECT_EQ(counters->held.frames, 50u);
    // Of all frames there may be one more: what else goes to all on the segment is held, or dropped, as well.
    auto own = network.steering().service_counters(Direction::ingress);
    ASSERT_TRUE(own.has_value());
    held = own->front().held.frames;
    const uint64_t dropped = own->front().dropped_overflow.frames;
    EXPECT_EQ(held + dropped, client.sent());
    EXPECT_GE(held, 45u);
  }
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
  EXPECT_TRUE(eventually([&] { return service.count() == held; }));
  service.stop();
  EXPECT_EQ(service.received().fault(1, held), "");
}

// The way to the workload takes 2500 of our frames (50 bytes) a second. False: the kernel has no tbf.
bool slow_down(const Bed& bed, const Bed::Node& node) {
  const std::string device = handover::host_device_name("mnet-redis");
  const std::string command = "tc qdisc add dev " + device + " root tbf rate 1mbit burst 2000 limit 2000";
  bool slow = false;
  bed.in(node.netns, [&]() -> Status {
    slow = std::system(command.c_str()) == 0;
    return {};
  });
  return slow;
}

TEST(Drain, EndsWithinItsLimitWhenMoreComesThanGoes) {
  constexpr Nanoseconds kLimit = std::chrono::seconds(2);
  constexpr uint64_t kHeld = 500;
  Bed bed;
  auto config = bed.config(bed.a);
  config.hold_packets_max = kHeld;
  WorkloadNetwork made = bed.create(bed.a);
  WorkloadNetwork network = opened_with(bed, config);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, false);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  UdpClient client(bed.client, AF_INET, 10000);
  wait_for_held(network, kHeld);
  if (!slow_down(bed, bed.a)) GTEST_SKIP() << "this kernel has no tbf";
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  const Timestamp begin = now();
  auto drained = queue.drain(network.steering(), kLimit);
  const Nanoseconds took = now() - begin;
  EXPECT_TRUE(drained && *drained);
  EXPECT_GE(took, kLimit / 2) << "no more came than went: the test shows nothing";
  EXPECT_LT(took, kLimit);
  auto policy = network.steering().policy(Direction::ingress);
  EXPECT_TRUE(policy && policy->state == SteerState::pass);
  client.stop();
  auto counters = network.steering().counters(Direction::ingress);
  ASSERT_TRUE(counters.has_value());
  // Without what else goes to all on the segment, and waits as well.
  auto own = network.steering().service_counters(Direction::ingress);
  ASSERT_TRUE(own && !own->empty());
  const uint64_t held = own->front().held.frames;
  EXPECT_GT(held, kHeld);
  EXPECT_TRUE(eventually([&] { return service.count() >= held; })) << "what waited was not delivered: " << service.count() << " of " << held;
  service.stop();
  EXPECT_GT(counters->dropped_overflow.frames, 0u);
  EXPECT_EQ(queue.stats().reinjected, counters->queued);
  EXPECT_EQ(queue.stats().lost, 0u);
  const std::vector<uint64_t>& seen = service.received().seen;
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end(), std::greater_equal<>()), seen.end()) << "a frame was overtaken";
}

}  // namespace
}  // namespace mose::test
