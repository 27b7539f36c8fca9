// SPDX-License-Identifier: MIT
#include "handover.h"

#include "handover/announce.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::test {

using handover::Direction;
using handover::HoldQueue;
using handover::WorkloadNetwork;

HoldQueue hold_queue(const Bed& bed, const Bed::Node& node, WorkloadNetwork& network, Direction direction) {
  std::optional<HoldQueue> queue;
  bed.in(node.netns, [&]() -> Status {
    MOSE_ASSIGN(queue, HoldQueue::create(network.steering(), direction));
    return {};
  });
  return std::move(*queue);
}

void expect_drained(HoldQueue& queue, WorkloadNetwork& network) {
  auto drained = queue.drain(network.steering(), kDrainLimit);
  ASSERT_TRUE(drained.has_value()) << drained.error().what;
  EXPECT_TRUE(*drained);
  EXPECT_EQ(queue.stats().lost, 0u);
}

uint64_t last_passed_ns(WorkloadNetwork& network, Direction direction) {
  auto counters = network.steering().counters(direction);
  EXPECT_TRUE(counters.has_value());
  return counters ? counters->stamps[static_cast<size_t>(handover::SteerState::pass)].last_ns : 0;
}

void wait_for_held(WorkloadNetwork& network, uint64_t frames) {
  EXPECT_TRUE(eventually([&] { return network.steering().queued_now(Direction::ingress).value_or(0) >= frames; }));
}

void wait_until_idle(const UdpService& service, int quiet_ms) {
  EXPECT_TRUE(eventually([&] {
    uint64_t before = service.count();
    sleep_ms(quiet_ms);
    return service.count() == before;
  }));
}

void MovingNetwork::prepare() {
  next_.emplace(bed_.create(*there_, false));
  queue_.emplace(hold_queue(bed_, *here_, *network_, Direction::ingress));
  next_egress_queue_.emplace(hold_queue(bed_, *there_, *next_, Direction::egress));
  EXPECT_OK(next_->hold(Direction::egress, next_egress_queue_->tap_ifindex()));
  // While it was not open yet, what the segment floods was dropped.
  auto counters = network_->steering().counters(Direction::ingress);
  ASSERT_TRUE(counters.has_value());
  dropped_before_ = counters->dropped_shut.frames;
}

void MovingNetwork::switch_over() {
  // Nothing leaves the new place before the old one's queue is empty: the first frame from there, a report of a multicast
  // listener is enough, shows the switches the new way, and what comes by it would overtake what still waits.
  bed_.in(there_->netns, [&] { return next_->open_ingress(); });
  EXPECT_OK(network_->drain_to_peer({.mac = there_->uplink_mac}));
  expect_drained(*queue_, *network_);
  EXPECT_OK(network_->steering().settle_peer());
  bed_.in(there_->netns, [&]() -> Status {
    MOSE_TRY(next_->open_egress());
    MOSE_ASSIGN(auto announcer, handover::Announcer::open(next_->uplink_ifindex(), next_->steering().config().addresses,
                                                          mac_for(service4())));
    return announcer.send_round();
  });
  expect_drained(*next_egress_queue_, *next_);
  next_egress_queue_.reset();
}

void MovingNetwork::leave() {
  auto redirected = [&] {
    auto counters = network_->steering().counters(Direction::ingress);
    return counters ? counters->redirected.frames : 0;
  };
  for (uint64_t last = redirected(), quiet = 0; quiet < 5; ++quiet) {
    sleep_ms(1);
    if (redirected() != last) quiet = 0;
    last = redirected();
  }
  auto counters = network_->steering().counters(Direction::ingress);
  ASSERT_TRUE(counters.has_value());
  held_ += counters->queued;
  EXPECT_EQ(counters->dropped_overflow.frames, 0u);
  EXPECT_EQ(counters->dropped_shut.frames, dropped_before_);
  old_place_ = tcp_counters(here_->workload);
  queue_.reset();
  network_ = std::move(next_);
  next_.reset();
  bed_.in(here_->netns, [&] { return WorkloadNetwork::destroy("mnet-redis", here_->bpffs); });
  bed_.renew_workload(*here_);
  std::swap(here_, there_);
}

void send_to_first_place(Bed& bed) {
  bed.in(bed.client, [&]() -> Status {
    MOSE_TRY(set_net_sysctl("ipv4/conf/up/drop_gratuitous_arp", "1"));
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    return netlink.add_neighbour(up.ifindex, {service4(), bed.a.uplink_mac});
  });
}

Sequence move_udp_service(MovingNetwork& moving, std::unique_ptr<UdpService>& service) {
  moving.prepare();
  moving.hold();
  wait_until_idle(*service);
  service->stop();
  Sequence received = service->received();
  service = std::make_unique<UdpService>(moving.there().workload, AF_INET, false);
  moving.switch_over();
  return received;
}

}  // namespace mose::test
