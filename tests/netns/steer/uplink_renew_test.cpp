// SPDX-License-Identifier: MIT
// A newer agent, or one with another configuration, finds the uplink's program of the one before at work: it becomes
// its own under traffic, and nothing is lost, doubled or reordered.
#include <gtest/gtest.h>

#include <algorithm>

#include "handover.h"
#include "handover/uplink_steering.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "kernel/offload.h"
#include "older.h"
#include "support/support.h"

namespace mose::test {
namespace {

using handover::UplinkSteering;

constexpr const char* kWorkload = "mnet-redis";
constexpr unsigned kPerSecond = 20000;

// At XDP: a's program redirects what the client still sends there, b's takes it.
TEST(UplinkRenewal, LosesNothingAndKeepsEntriesAndCounters) {
  Bed bed;
  bed.in(bed.segment, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    for (const char* port : {"pa", "pb"}) {
      MOSE_ASSIGN(auto link, netlink.link(port));
      MOSE_TRY(bpf::attach_xdp_pass(link.ifindex));
    }
    return {};
  });
  bed.in(bed.client, [] { return set_checksum_offload("up", false); });
  auto config_of = [&](const Bed::Node& node) {
    handover::UplinkSteeringConfig config{
        .device = "up", .mac = node.uplink_mac, .entries_max = 16, .bpffs = node.bpffs};
    bed.in(node.netns, [&]() -> Status {
      MOSE_ASSIGN(auto netlink, Netlink::open());
      MOSE_ASSIGN(auto link, netlink.link("up"));
      config.ifindex = link.ifindex;
      return {};
    });
    return config;
  };
  auto config = config_of(bed.a);
  std::optional<UplinkSteering> at_a, at_b;
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(at_a, UplinkSteering::attach(config));
    return {};
  });
  bed.in(bed.b.netns, [&]() -> Status {
    MOSE_ASSIGN(at_b, UplinkSteering::attach(config_of(bed.b)));
    return {};
  });
  MovingNetwork moving(bed);
  send_to_first_place(bed);
  auto service = std::make_unique<UdpService>(bed.a.workload, AF_INET, false);
  UdpClient client(bed.client, AF_INET, kPerSecond);
  EXPECT_TRUE(eventually([&] { return service->count() > 100; }));
  Sequence all = move_udp_service(moving, service);
  EXPECT_OK(at_b->put(service4(), {.workload = kWorkload, .service_mac = mac_for(service4())}));
  const handover::UplinkEntry away{.state = handover::UplinkState::redirect,
                                   .workload = kWorkload,
                                   .service_mac = mac_for(service4()),
                                   .peer_ifindex = config.ifindex,
                                   .peer_mac = bed.b.uplink_mac,
                                   .own_mac = bed.a.uplink_mac};
  EXPECT_OK(at_a->put(service4(), away));
  EXPECT_TRUE(eventually([&] { return at_a->counters(service4())->redirected.frames > 1000; }));

  auto renewed = [&](const handover::UplinkSteeringConfig& wanted) {
    auto done = UplinkSteering::renew(wanted);
    EXPECT_TRUE(done.has_value()) << done.error().what;
    auto found = UplinkSteering::adopt(bed.a.bpffs, "up");
    EXPECT_TRUE(found.has_value()) << found.error().what;
    if (found) at_a = std::move(*found);
    return done && *done;
  };
  EXPECT_FALSE(renewed(config));
  uint64_t counted = at_a->counters(service4())->redirected.frames;
  for (int round = 0; round < rounds(10, 50); ++round) {
    if (round % 2 == 0) make_uplink_older(bed.a.bpffs, "up");
    if (round % 2 == 1) config.entries_max *= 2;  // another configuration
    EXPECT_TRUE(renewed(config));
    EXPECT_EQ(at_a->config(), config);
    EXPECT_EQ(*at_a->entry(service4()), away);
    EXPECT_TRUE(eventually([&] { return at_a->counters(service4())->redirected.frames > counted; }));
    counted = at_a->counters(service4())->redirected.frames;
    config.entries_max = std::min(config.entries_max, 4096u);
  }
  client.stop_sending();
  EXPECT_TRUE(eventually([&] { return all.seen.size() + service->count() >= client.sent(); }));
  service->stop();
  client.stop();
  auto& seen = service->received().seen;
  all.seen.insert(all.seen.end(), seen.begin(), seen.end());
  EXPECT_EQ(all.fault(1, client.sent()), "");
  EXPECT_EQ(at_a->counters(service4())->dropped(), 0u);
}

}  // namespace
}  // namespace mose::test
