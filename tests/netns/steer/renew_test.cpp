// SPDX-License-Identifier: MIT
// A newer agent finds the programs and maps of an older one at work: they become its own under traffic, and nothing is
// lost, doubled or reordered, whatever state they are in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "handover.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_replace.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "older.h"
#include "support/support.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::HoldQueue;
using handover::Steering;
using handover::SteerState;
using handover::WorkloadNetwork;

constexpr const char* kWorkload = "mnet-redis";
constexpr unsigned kPerSecond = 20000, kHeldPerSecond = 500;

// As an agent that starts there: true when something was replaced.
bool renew(const Bed& bed, const Bed::Node& node) {
  bool replaced = false;
  bed.in(node.netns, [&]() -> Status {
    auto renewed = Steering::renew(node.bpffs);
    if (renewed.size() != 1 || renewed[0].workload != kWorkload) return fail("not the workload that is pinned there");
    MOSE_ASSIGN(replaced, renewed[0].replaced);
    return {};
  });
  return replaced;
}

void make_older(const Bed& bed, const Bed::Node& node) {
  bed.in(node.netns, [&]() -> Status {
    make_steering_older(node.bpffs, kWorkload);
    return {};
  });
}

// An agent of an older build is gone, the next one starts: older programs, then ours.
std::optional<WorkloadNetwork> upgrade(const Bed& bed, const Bed::Node& node) {
  std::optional<WorkloadNetwork> network;
  make_older(bed, node);
  EXPECT_FALSE(Steering::adopt(node.bpffs, kWorkload).has_value()) << "it is not older";
  EXPECT_TRUE(renew(bed, node));
  bed.in(node.netns, [&]() -> Status {
    MOSE_ASSIGN(network, WorkloadNetwork::open_existing(bed.config(node), node.workload.get()));
    return {};
  });
  EXPECT_THAT(bed.pins(node), testing::Not(testing::Contains(testing::HasSubstr("next_"))));
  return network;
}

TEST(Renewal, LeavesWhatIsOfThisBuildAlone) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto before = bed.pins(bed.a);
  EXPECT_FALSE(renew(bed, bed.a));
  EXPECT_EQ(bed.pins(bed.a), before);
  EXPECT_TRUE(Steering::renew(bed.b.bpffs).empty());
}

TEST(Renewal, LosesNothingOfAServiceAtWork) {
  Bed bed;
  std::optional<WorkloadNetwork> network = bed.create(bed.a);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, kPerSecond);
  EXPECT_TRUE(eventually([&] { return service.count() > 1000; }));
  for (int round = 0; round < rounds(1, 20); ++round) {
    uint64_t counted_before = network->steering().counters(Direction::ingress)->passed.frames;
    network = upgrade(bed, bed.a);
    ASSERT_TRUE(network.has_value());
    // Both changes copy what has been counted and miss what comes until the programs change.
    EXPECT_GE(network->steering().counters(Direction::ingress)->passed.frames, counted_before) << "counters were lost";
    sleep_ms(10);
  }
  client.finish();
  service.stop();
  client.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  EXPECT_EQ(client.answers().fault(1, client.sent()), "");
  RecordProperty("packets", static_cast<int>(client.sent()));
}

TEST(Renewal, KeepsAHoldWithAllThatWaits) {
  Bed bed;
  std::optional<WorkloadNetwork> network = bed.create(bed.a);
  UdpService service(bed.a.workload, AF_INET, false);
  // Loading programs takes the verifier a second on a busy machine, and a hold has its bounds.
  UdpClient client(bed.client, AF_INET, kHeldPerSecond);
  for (int round = 0; round < rounds(1, 20); ++round) {
    HoldQueue queue = hold_queue(bed, bed.a, *network, Direction::ingress);
    sleep_ms(5);
    EXPECT_OK(network->hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(5);
    auto policy_before = network->steering().policy(Direction::ingress);
    network = upgrade(bed, bed.a);
    ASSERT_TRUE(network.has_value());
    auto policy = network->steering().policy(Direction::ingress);
    ASSERT_TRUE(policy && policy_before);
    EXPECT_EQ(*policy, *policy_before);
    EXPECT_OK(network->drain_to_pass(Direction::ingress));
    expect_drained(queue, *network);
  }
  client.stop_sending();
  EXPECT_TRUE(eventually([&] { return service.count() >= client.sent(); }));
  client.stop();
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
}

TEST(Renewal, KeepsADeadline) {
  Bed bed;
  std::optional<WorkloadNetwork> network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, *network, Direction::ingress);
  EXPECT_OK(network->hold_new(queue.tap_ifindex(), now() + std::chrono::minutes(5)));
  auto before = network->steering().policy(Direction::ingress);
  network = upgrade(bed, bed.a);
  ASSERT_TRUE(network.has_value());
  auto after = network->steering().policy(Direction::ingress);
  ASSERT_TRUE(before && after);
  EXPECT_EQ(after->state, SteerState::hold_new);
  EXPECT_TRUE(after->deadline.has_value());
  EXPECT_EQ(*after, *before);
}

TEST(Renewal, KeepsRedirecting) {
  Bed bed;
  MovingNetwork moving(bed);
  send_to_first_place(bed);
  auto service = std::make_unique<UdpService>(bed.a.workload, AF_INET, false);
  UdpClient client(bed.client, AF_INET, kPerSecond);
  EXPECT_TRUE(eventually([&] { return service->count() > 100; }));
  Sequence all = move_udp_service(moving, service);
  for (int round = 0; round < rounds(1, 10); ++round) {
    for (const Bed::Node* node : {&bed.a, &bed.b}) {
      auto network = upgrade(bed, *node);
      ASSERT_TRUE(network.has_value());
      EXPECT_EQ(network->steering().policy(Direction::ingress)->state,
                node == &bed.a ? SteerState::redirect : SteerState::pass);
    }
  }
  client.stop_sending();
  EXPECT_TRUE(eventually([&] { return all.seen.size() + service->count() >= client.sent(); }));
  service->stop();
  client.stop();
  auto& seen = service->received().seen;
  all.seen.insert(all.seen.end(), seen.begin(), seen.end());
  EXPECT_EQ(all.fault(1, client.sent()), "");
}

// The agent dies between two steps of it: the next start completes it.
TEST(Renewal, IsCompletedByTheNextStart) {
  Bed bed;
  std::optional<WorkloadNetwork> network = bed.create(bed.a);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, kPerSecond);
  make_older(bed, bed.a);
  const std::string directory = bed.a.bpffs + "/mose/" + kWorkload;
  Fd older_services = *bpf::open_pinned(directory + "/services"),
     older_config = *bpf::open_pinned(directory + "/config");
  EXPECT_TRUE(renew(bed, bed.a));
  EXPECT_OK(bpf::replace_pin(older_services.get(), directory, "services"));
  EXPECT_TRUE(renew(bed, bed.a)) << "a map that no program uses was taken for ours";
  EXPECT_OK(bpf::replace_pin(older_config.get(), directory, "config"));
  EXPECT_OK(bpf::pin(older_config.get(), directory + "/next_config"));
  EXPECT_TRUE(renew(bed, bed.a)) << "the configuration of an older version was taken for ours";
  EXPECT_FALSE(renew(bed, bed.a));
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(network, WorkloadNetwork::open_existing(bed.config(bed.a), bed.a.workload.get()));
    return {};
  });
  EXPECT_THAT(bed.pins(bed.a), testing::Not(testing::Contains(testing::HasSubstr("next_"))));
  EXPECT_OK(network->pass(Direction::ingress));
  client.finish();
  client.stop();
  service.stop();
  EXPECT_EQ(client.answers().fault(1, client.sent()), "");
}

TEST(Renewal, IsRemovedWholeAfterwards) {
  Bed bed;
  std::optional<WorkloadNetwork> network = bed.create(bed.a);
  network = upgrade(bed, bed.a);
  ASSERT_TRUE(network.has_value());
  bed.in(bed.a.netns, [&] { return WorkloadNetwork::destroy(kWorkload, bed.a.bpffs); });
  EXPECT_THAT(bed.pins(bed.a), testing::IsEmpty());
  WorkloadNetwork again = bed.create(bed.a);
}

// Programs of a build that nobody has followed, at the workload's end: none stays on the uplink, where no pin would tell
// what it is. Links go with their pins, filters (MOSE_TC_ATTACH=clsact) do not.
TEST(Renewal, WhatCannotBeReadIsRemovedWhole) {
  Bed bed;
  { WorkloadNetwork network = bed.create(bed.a); }
  make_older(bed, bed.a);
  EXPECT_FALSE(Steering::adopt(bed.a.bpffs, kWorkload).has_value()) << "it is not older";
  auto filters = [&] {
    size_t count = 0;
    bed.in(bed.a.netns, [&]() -> Status {
      MOSE_ASSIGN(auto netlink, Netlink::open());
      MOSE_ASSIGN(auto list, netlink.bpf_filters());
      count = list.size();
      return {};
    });
    return count;
  };
  const bool by_filters = handover::steering_supported().value_or(handover::TcAttach::tcx) == handover::TcAttach::clsact;
  EXPECT_EQ(filters(), by_filters ? 3u : 0u);
  bed.in(bed.a.netns, [&] { return WorkloadNetwork::destroy(kWorkload, bed.a.bpffs); });
  EXPECT_EQ(filters(), 0u);
  EXPECT_THAT(bed.pins(bed.a), testing::IsEmpty());
  WorkloadNetwork again = bed.create(bed.a);
}

}  // namespace
}  // namespace mose::test
