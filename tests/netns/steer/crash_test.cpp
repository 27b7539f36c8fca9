// SPDX-License-Identifier: MIT
// Steering whose agent dies: what the programs go on doing, and what the next agent finds of the packets.
#include <gtest/gtest.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handover.h"
#include "handover/hold_queue.h"
#include "handover/tap_holder.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::HoldQueue;
using handover::SteerState;
using handover::WorkloadNetwork;

TEST(Crash, LeavesTheProgramsWorkingAndAdoptable) {
  Bed bed;
  pid_t child = fork();
  if (child == 0) {  // an agent that dies without a word
    WorkloadNetwork network = bed.create(bed.a);
    EXPECT_OK(network.shut(Direction::egress, false));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));

  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 1000);
  EXPECT_TRUE(eventually([&] { return service.count() > 20; })) << "ingress no longer passes";
  std::optional<WorkloadNetwork> network;
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(network, WorkloadNetwork::open_existing(bed.config(bed.a), bed.a.workload.get()));
    return {};
  });
  // The service counts a request before it answers.
  EXPECT_TRUE(eventually([&] {
    auto counters = network->steering().counters(Direction::egress);
    return counters && counters->dropped_shut.frames > 20;
  })) << "egress was not shut";
  EXPECT_EQ(network->uplink_mac(), bed.a.uplink_mac);
  uint64_t from = client.sent() + 1;
  EXPECT_OK(network->pass(Direction::egress));
  HoldQueue queue = hold_queue(bed, bed.a, *network, Direction::ingress);
  EXPECT_OK(network->hold(Direction::ingress, queue.tap_ifindex()));
  sleep_ms(20);
  EXPECT_OK(network->drain_to_pass(Direction::ingress));
  expect_drained(queue, *network);
  sleep_ms(20);
  client.finish(client.sent() - from);
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  EXPECT_FALSE(client.answers().seen.empty());
}

TEST(Crash, FramesThatWereLostWithTheirTapDoNotBlockTheNextHold) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 2000);
  {
    HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(20);
  }
  EXPECT_OK(network.pass(Direction::ingress));
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  sleep_ms(20);
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
  client.stop();
}

// An agent that is killed has a frame in its hands: counted, out of the tap, never put back. The workload's frames keep coming.
TEST(Crash, AFrameThatDiedWithItsAgentDoesNotKeepTheDrainFromEnding) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 3000);
  for (uint64_t round = 1; round <= 2; ++round) {
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    wait_for_held(network, 50);
    std::vector<uint8_t> frame(1 << 16);
    ASSERT_GT(read(queue.poll_fd(), frame.data(), frame.size()), 0);
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    bed.in(bed.a.netns, [&]() -> Status {
      auto drained = queue.drain(network.steering(), std::chrono::seconds(3));
      EXPECT_TRUE(drained && *drained);
      return {};
    });
    EXPECT_EQ(queue.stats().lost, round);
    auto policy = network.steering().policy(Direction::ingress);
    EXPECT_TRUE(policy && policy->state == SteerState::pass);
  }
  uint64_t before = service.count();
  EXPECT_TRUE(eventually([&] { return service.count() > before + 100; }));
  client.stop();
}

// The next agent finds every packet that the dead one held, and the process that kept them ends with its queue.
TEST(Crash, LosesNoHeldPacketWhenAHolderKeepsTheTap) {
  Bed bed;
  std::string file = bed.a.bpffs + "-holder";
  pid_t child = fork();
  if (child == 0) {
    WorkloadNetwork network = bed.create(bed.a);
    std::optional<HoldQueue> queue;
    bed.in(bed.a.netns, [&]() -> Status {
      MOSE_ASSIGN(queue, HoldQueue::create(network.steering(), Direction::ingress, file));
      return {};
    });
    EXPECT_OK(network.hold(Direction::ingress, queue->tap_ifindex()));
    kill(getpid(), testing::Test::HasFailure() ? SIGTERM : SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 5000);
  std::optional<WorkloadNetwork> network;
  std::optional<HoldQueue> queue;
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(network, WorkloadNetwork::open_existing(bed.config(bed.a), bed.a.workload.get()));
    return {};
  });
  wait_for_held(*network, 100);
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(queue, HoldQueue::adopt(network->steering(), Direction::ingress, file));
    return {};
  });
  EXPECT_EQ(service.count(), 0u);
  EXPECT_OK(network->drain_to_pass(Direction::ingress));
  expect_drained(*queue, *network);
  sleep_ms(20);
  client.finish(client.sent() + 1);
  service.stop();
  EXPECT_EQ(service.received().fault(1, client.sent()), "");
  queue.reset();
  EXPECT_NE(access(file.c_str(), F_OK), 0);
  EXPECT_FALSE(handover::TapHolder::take_over(file).has_value());
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(queue, HoldQueue::create(network->steering(), Direction::ingress, file));  // the name is free
    return {};
  });
}

// An agent that dies while CRIU gets ready must not keep new clients out, and one that lives must notice.
TEST(Crash, NewConnectionsAreNotHeldForGood) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  Fd listener = tcp_listener(bed.a.workload, "0.0.0.0", kPort);
  EXPECT_OK(network.hold_new(queue.tap_ifindex(), now() + std::chrono::milliseconds(100)));
  sleep_ms(150);
  Fd connection = tcp_connect(bed.client, "192.0.2.10", kPort);
  EXPECT_TRUE(connection);
  auto policy = network.steering().policy(Direction::ingress);
  ASSERT_TRUE(policy);
  EXPECT_EQ(policy->state, SteerState::pass);
  EXPECT_EQ(policy->expired, SteerState::hold_new);
  auto late = network.hold(Direction::ingress, queue.tap_ifindex());
  ASSERT_FALSE(late);
  EXPECT_NE(late.error().what.find("let through again"), std::string::npos) << late.error().what;
  // The next attempt begins anew.
  EXPECT_OK(network.hold_new(queue.tap_ifindex(), now() + std::chrono::seconds(10)));
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  policy = network.steering().policy(Direction::ingress);
  ASSERT_TRUE(policy);
  EXPECT_FALSE(policy->deadline) << "a hold in front of a dump does not end by itself";
  EXPECT_OK(network.drain_to_pass(Direction::ingress));
  expect_drained(queue, network);
}

TEST(Crash, ADrainWithoutItsTapEndsAtOnce) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 2000);
  for (Direction direction : {Direction::ingress, Direction::egress}) {
    {
      HoldQueue queue = hold_queue(bed, bed.a, network, direction);
      EXPECT_OK(network.hold(direction, queue.tap_ifindex()));
      EXPECT_TRUE(eventually([&] { return network.steering().queued_now(direction).value_or(0) > 5; }));
    }
    bed.in(bed.a.netns,
           [&] { return direction == Direction::ingress ? network.drain_to_pass(direction) : network.open(); });
    uint64_t before = last_passed_ns(network, direction);
    EXPECT_TRUE(eventually([&] { return last_passed_ns(network, direction) > before; })) << to_string(direction);
    EXPECT_EQ(network.steering().queued_now(direction).value_or(1), 0u);
  }
}

// An operator's way out when no migration is left: open at once under traffic, and nothing waits that nobody would put back.
TEST(Crash, AReleaseOpensWhatWasHeldAndEndsWhoeverKeptIt) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  const std::string file = bed.a.bpffs + "-released";
  UdpService service(bed.a.workload, AF_INET, true);
  UdpClient client(bed.client, AF_INET, 5000);
  for (int round = 0; round < 20; ++round) {
    const Direction direction = round % 2 == 0 ? Direction::ingress : Direction::egress;
    bed.in(bed.a.netns, [&]() -> Status {
      MOSE_ASSIGN(HoldQueue queue, HoldQueue::create(network.steering(), direction, file));
      MOSE_TRY(network.hold(direction, queue.tap_ifindex()));
      // Also in the moment in which nothing waits yet, and in a drain that nobody pumps.
      const bool waits = round % 4 < 2 || eventually([&] { return network.steering().queued_now(direction).value_or(0) > 5; });
      EXPECT_TRUE(waits);
      if (round % 3 == 0) MOSE_TRY(network.drain_to_pass(direction));
      queue.leave(network.steering());  // as an agent that dies
      return {};
    });
    bed.in(bed.a.netns, [&]() -> Status {
      MOSE_ASSIGN(uint64_t lost, network.release({file + "-of-nobody", file}));
      EXPECT_GE(lost, round % 4 > 1 ? 6u : 0u);
      EXPECT_EQ(if_nametoindex(handover::tap_device_name(direction, "mnet-redis").c_str()), 0u);
      return {};
    });
    EXPECT_NE(access(file.c_str(), F_OK), 0) << "the holder goes on";
    auto policy = network.steering().policy(direction);
    ASSERT_TRUE(policy);
    EXPECT_EQ(policy->state, SteerState::pass);
    EXPECT_EQ(network.steering().queued_now(direction).value_or(1), 0u);
    const uint64_t before = last_passed_ns(network, direction);
    EXPECT_TRUE(eventually([&] { return last_passed_ns(network, direction) > before; })) << to_string(direction);
  }
}

TEST(Crash, AReleaseLeavesAloneWhoKeepsAnotherTap) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  const std::string file = bed.a.bpffs + "-other";
  std::optional<HoldQueue> other;
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(other, HoldQueue::create(network.steering(), Direction::ingress, file));
    handover::TapHolder::end_left_of("mi00000000", file);
    return {};
  });
  EXPECT_EQ(access(file.c_str(), F_OK), 0);
  EXPECT_TRUE(handover::TapHolder::take_over(file).has_value());  // and ends it
}

}  // namespace
}  // namespace mose::test
