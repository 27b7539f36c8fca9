// SPDX-License-Identifier: MIT
// The program of an uplink at XDP: attached, found again, refused, removed, and a service that moves while clients go
// on sending to the old node.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "handover.h"
#include "handover/uplink_steering.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "kernel/offload.h"
#include "kernel/procfs.h"
#include "kernel/xdp_features.h"

namespace mose::test {
namespace {

using handover::UplinkEntry;
using handover::UplinkState;
using handover::UplinkSteering;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kUplink = "up";

// A segment whose nodes can redirect at XDP, and whose client completes its checksums as a network card does.
class XdpBed : public Bed {
 public:
  XdpBed() {
    in(segment, []() -> Status {
      MOSE_ASSIGN(auto netlink, Netlink::open());
      for (const char* port : {"pa", "pb"}) {
        MOSE_ASSIGN(auto link, netlink.link(port));
        MOSE_TRY(bpf::attach_xdp_pass(link.ifindex));
      }
      return {};
    });
    in(client, [] { return set_checksum_offload(kUplink, false); });
  }
  [[nodiscard]] handover::UplinkSteeringConfig uplink(const Node& node, bpf::XdpMode mode = bpf::XdpMode::native,
                                                      uint32_t entries_max = handover::kUplinkEntries) const {
    handover::UplinkSteeringConfig config{
        .device = kUplink, .mac = node.uplink_mac, .mode = mode, .entries_max = entries_max, .bpffs = node.bpffs};
    in(node.netns, [&]() -> Status {
      MOSE_ASSIGN(auto netlink, Netlink::open());
      MOSE_ASSIGN(auto link, netlink.link(kUplink));
      config.ifindex = link.ifindex;
      return {};
    });
    return config;
  }
  [[nodiscard]] Result<UplinkSteering> attach(const Node& node, bpf::XdpMode mode = bpf::XdpMode::native,
                                              uint32_t entries_max = handover::kUplinkEntries) const {
    auto config = uplink(node, mode, entries_max);
    return in_netns_get<UplinkSteering>(node.netns.get(), [&] { return UplinkSteering::attach(config); });
  }
  [[nodiscard]] Result<UplinkSteering> adopt(const Node& node) const {
    return UplinkSteering::adopt(node.bpffs, kUplink);
  }
  [[nodiscard]] static std::vector<std::string> uplink_pins(const Node& node) {
    return UplinkSteering::pinned_devices(node.bpffs);
  }
  // `ip link` shows a program there.
  [[nodiscard]] bool taken(const Node& node) const {
    auto second = bpf_probe(node);
    return !second;
  }

 private:
  // Whether one more program could be attached there.
  [[nodiscard]] Status bpf_probe(const Node& node) const {
    auto config = uplink(node);
    config.bpffs += "/probe";
    std::filesystem::create_directories(config.bpffs);
    return in_netns(node.netns.get(), [&]() -> Status {
      auto attached = UplinkSteering::attach(config);
      if (!attached) return std::unexpected(attached.error());
      return attached->remove();
    });
  }
};

UplinkEntry here(const std::string& workload = "mnet-redis") {
  return {.state = UplinkState::local, .workload = workload, .service_mac = mac_for(service4())};
}
UplinkEntry gone(const Bed::Node& from, const Bed::Node& to, unsigned device) {
  return {.state = UplinkState::redirect,
          .workload = "mnet-redis",
          .service_mac = mac_for(service4()),
          .peer_ifindex = device,
          .peer_mac = to.uplink_mac,
          .own_mac = from.uplink_mac};
}

TEST(Uplink, KeepsItsEntriesThroughTheDeathOfItsAgent) {
  XdpBed bed;
  UplinkEntry away;
  {
    auto uplink = bed.attach(bed.a);
    ASSERT_TRUE(uplink) << uplink.error().what;
    away = gone(bed.a, bed.b, uplink->config().ifindex);
    EXPECT_OK(uplink->put(service4(), away));
    EXPECT_OK(uplink->put(service6(), here()));
  }
  EXPECT_TRUE(bed.taken(bed.a)) << "the program stays when nobody holds it";
  auto found = bed.adopt(bed.a);
  ASSERT_TRUE(found) << found.error().what;
  EXPECT_EQ(found->config(), bed.uplink(bed.a));
  EXPECT_EQ(*found->entry(service4()), away);
  EXPECT_EQ(*found->entry(service6()), here());
  EXPECT_EQ(found->entries()->size(), 2u);
  EXPECT_OK(found->erase(service4()));
  EXPECT_OK(found->erase(service4()));
  EXPECT_EQ(*found->entry(service4()), std::nullopt);
  EXPECT_OK(found->remove());
  EXPECT_FALSE(bed.taken(bed.a));
  EXPECT_THAT(bed.uplink_pins(bed.a), IsEmpty());
  EXPECT_FALSE(bed.adopt(bed.a));
}

TEST(Uplink, EveryModeIsFoundAgainAsItWas) {
  XdpBed bed;
  ASSERT_TRUE(bed.attach(bed.a, bpf::XdpMode::generic));
  auto found = bed.adopt(bed.a);
  ASSERT_TRUE(found) << found.error().what;
  EXPECT_EQ(found->config().mode, bpf::XdpMode::generic);
  EXPECT_OK(found->remove());
}

TEST(Uplink, IsRefusedWhereAnotherProgramIsAndLeavesNothing) {
  XdpBed bed;
  auto first = bed.attach(bed.a);
  ASSERT_TRUE(first) << first.error().what;
  auto pins = bed.attach(bed.a);
  ASSERT_FALSE(pins);
  EXPECT_THAT(pins.error().what, HasSubstr("pins exist already"));
  for (bpf::XdpMode mode : {bpf::XdpMode::native, bpf::XdpMode::generic}) {
    auto config = bed.uplink(bed.a, mode);
    config.bpffs = bed.b.bpffs;  // as an agent that does not know of the first one
    auto second = in_netns_get<UplinkSteering>(bed.a.netns.get(), [&] { return UplinkSteering::attach(config); });
    ASSERT_FALSE(second);
    EXPECT_THAT(second.error().what, HasSubstr("another XDP program is there"));
    EXPECT_THAT(bed.uplink_pins(bed.b), IsEmpty());
  }
  EXPECT_TRUE(first->attached());
}

TEST(Uplink, IsRefusedWhereTheDriverHasNoXdp) {
  XdpBed bed;
  handover::UplinkSteeringConfig config{.device = "br0", .bpffs = bed.a.bpffs};
  Result<UplinkSteering> attached = fail("not tried");
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    config.ifindex = bridge.ifindex;
    attached = UplinkSteering::attach(config);
    return {};
  });
  ASSERT_FALSE(attached);
  EXPECT_THAT(attached.error().what, HasSubstr("its driver has no XDP of this mode"));
  EXPECT_THAT(bed.uplink_pins(bed.a), IsEmpty());
}

TEST(Uplink, OfADeviceThatIsGoneIsNotAdopted) {
  XdpBed bed;
  auto uplink = bed.attach(bed.a);
  ASSERT_TRUE(uplink) << uplink.error().what;
  EXPECT_TRUE(uplink->attached());
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.delete_link(kUplink));
    return {};
  });
  EXPECT_FALSE(uplink->attached());
  auto found = bed.adopt(bed.a);
  ASSERT_FALSE(found);
  EXPECT_THAT(found.error().what, HasSubstr("on no device any more"));
  EXPECT_OK(UplinkSteering::remove_pins(bed.a.bpffs, kUplink));
}

TEST(Uplink, PinsOfADeviceWithADotHaveANameThatABpffsTakes) {
  XdpBed bed;
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link(kUplink));
    return netlink.change_link(link.ifindex, {.name = "up.7"});
  });
  handover::UplinkSteeringConfig config{.device = "up.7", .mac = bed.a.uplink_mac, .bpffs = bed.a.bpffs};
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link("up.7"));
    config.ifindex = link.ifindex;
    MOSE_TRY(UplinkSteering::attach(config));
    return {};
  });
  EXPECT_THAT(bed.uplink_pins(bed.a), testing::ElementsAre("up.7"));
  auto found = UplinkSteering::adopt(bed.a.bpffs, "up.7");
  ASSERT_TRUE(found) << found.error().what;
  EXPECT_OK(found->remove());
}

TEST(Uplink, AWorkloadTakesItsOwnEntriesWithIt) {
  XdpBed bed;
  auto uplink = bed.attach(bed.a);
  ASSERT_TRUE(uplink) << uplink.error().what;
  ServiceAddress other = *parse_service_address("192.0.2.11/24");
  EXPECT_OK(uplink->put(service4(), gone(bed.a, bed.b, uplink->config().ifindex)));
  EXPECT_OK(uplink->put(service6(), here()));
  EXPECT_OK(uplink->put(other, here("mnet-redis-2")));
  bed.in(bed.a.netns, [&] { return handover::WorkloadNetwork::destroy("mnet-redis", bed.a.bpffs); });
  auto left = uplink->entries();
  ASSERT_TRUE(left);
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ(left->front().entry.workload, "mnet-redis-2");
}

ServiceAddress numbered(uint32_t n) {
  ServiceAddress out{.family = AF_INET, .prefix = 32};
  out.bytes = {10, static_cast<uint8_t>(n >> 16), static_cast<uint8_t>(n >> 8), static_cast<uint8_t>(n)};
  return out;
}

TEST(Uplink, TakesNoMoreEntriesThanConfigured) {
  constexpr uint32_t kEntries = 500;
  XdpBed bed;
  auto uplink = bed.attach(bed.a, bpf::XdpMode::native, kEntries);
  ASSERT_TRUE(uplink) << uplink.error().what;
  for (uint32_t n = 0; n < kEntries; ++n) EXPECT_OK(uplink->put(numbered(n), here()));
  auto full = uplink->put(service4(), here());
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().what, HasSubstr("addresses already"));
  EXPECT_OK(uplink->put(numbered(7), here("other")));  // one that is there may change
  EXPECT_OK(uplink->erase(numbered(9)));
  EXPECT_OK(uplink->put(service4(), here()));
}

// Memory that a map takes, as the kernel says.
uint64_t map_memory(const Bed::Node& node, const std::string& pin) {
  auto map = bpf::open_pinned(fmt::format("{}/mose/uplink:{}/{}", node.bpffs, kUplink, pin));
  EXPECT_TRUE(map) << map.error().what;
  auto text = map ? read_file(fmt::format("/proc/self/fdinfo/{}", map->get()), 4096) : Result<std::string>("");
  size_t at = text ? text->find("memlock:") : std::string::npos;
  return at == std::string::npos ? 0 : std::strtoull(text->c_str() + at + 8, nullptr, 10);
}

TEST(Uplink, HoldsAHundredThousandServicesAndTakesMemoryAsTheyCome) {
  constexpr uint32_t kEntries = 100'000;
  XdpBed bed;
  auto uplink = bed.attach(bed.a, bpf::XdpMode::native, kEntries);
  ASSERT_TRUE(uplink) << uplink.error().what;
  const uint64_t empty = map_memory(bed.a, "entries") + map_memory(bed.a, "counts");
  for (uint32_t n = 0; n < kEntries; ++n) ASSERT_TRUE(uplink->put(numbered(n), here())) << n;
  auto all = uplink->entries();
  ASSERT_TRUE(all) << all.error().what;
  EXPECT_EQ(all->size(), kEntries);
  EXPECT_EQ(*uplink->entry(numbered(kEntries - 1)), here());
  const uint64_t full = map_memory(bed.a, "entries") + map_memory(bed.a, "counts");
  RecordProperty("bytes_empty", static_cast<int>(empty));
  RecordProperty("bytes_full", static_cast<int>(full));
  auto cpus = bpf::possible_cpus();
  ASSERT_TRUE(cpus);
  if (full == empty) return;  // Linux before 6.4 says what a map could take, not what it takes
  EXPECT_LT(empty, 10u << 20);
  EXPECT_LT(full, empty + kEntries * (300ull + *cpus * 256));
}

TEST(Uplink, RefusesAnEntryThatCannotWork) {
  XdpBed bed;
  auto uplink = bed.attach(bed.a);
  ASSERT_TRUE(uplink) << uplink.error().what;
  UplinkEntry away = gone(bed.a, bed.b, uplink->config().ifindex);
  auto error = [&](UplinkEntry entry) {
    auto put = uplink->put(service4(), entry);
    return put ? std::string("none") : put.error().what;
  };
  auto with = [&](auto change) {
    UplinkEntry entry = away;
    change(entry);
    return error(entry);
  };
  EXPECT_THAT(with([](UplinkEntry& e) { e.peer_ifindex = 0; }), HasSubstr("no device towards the peer"));
  EXPECT_THAT(with([](UplinkEntry& e) { e.peer_mac = {}; }), HasSubstr("a MAC address is missing"));
  EXPECT_THAT(with([](UplinkEntry& e) { e.own_mac = {}; }), HasSubstr("a MAC address is missing"));
  EXPECT_THAT(with([](UplinkEntry& e) { e.service_mac = {}; }), HasSubstr("the service's MAC address is missing"));
  EXPECT_THAT(with([](UplinkEntry& e) { e.workload.clear(); }), HasSubstr("no name of a workload"));
  EXPECT_EQ(*uplink->entry(service4()), std::nullopt);
  EXPECT_EQ(error(away), "none");
}

TEST(Uplink, DriversSayWhatTheyCan) {
  XdpBed bed;
  bed.in(bed.a.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link(kUplink));
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    EXPECT_FALSE(up.physical);
    auto veth = xdp_features(up.ifindex), none = xdp_features(bridge.ifindex);
    if (!veth && veth.error().code == ENOENT) return {};  // Linux before 6.3
    EXPECT_TRUE(veth) << veth.error().what;
    EXPECT_TRUE(veth && veth->native && veth->redirect);
    EXPECT_TRUE(none && !none->native);
    EXPECT_FALSE(xdp_features(9999));
    return {};
  });
}

// Both nodes have the program. The client sends to the MAC of a's uplink whatever it is told: one with a static entry.
TEST(Uplink, StragglersOfAMovedServiceAreRedirectedAndNoneIsLost) {
  XdpBed bed;
  auto at_a = bed.attach(bed.a), at_b = bed.attach(bed.b);
  ASSERT_TRUE(at_a && at_b);
  MovingNetwork moving(bed);
  send_to_first_place(bed);
  auto service = std::make_unique<UdpService>(bed.a.workload, AF_INET, false);
  UdpClient client(bed.client, AF_INET, 10000);
  EXPECT_TRUE(eventually([&] { return service->count() > 100; }));
  Sequence all = move_udp_service(moving, service);
  // TC redirects here from now on, nothing waits any more: the first line comes before it.
  EXPECT_EQ(at_a->counters(service4())->redirected.frames, 0u);
  auto tc = [&] { return moving.network().steering().counters(handover::Direction::ingress)->redirected.frames; };
  EXPECT_TRUE(eventually([&, before = tc()] { return tc() > before; })) << "stragglers come without XDP as well";
  EXPECT_OK(at_b->put(service4(), here()));
  EXPECT_OK(at_a->put(service4(), gone(bed.a, bed.b, at_a->config().ifindex)));
  EXPECT_TRUE(eventually([&] { return at_a->counters(service4())->redirected.frames > 100; }));
  const uint64_t tc_in_the_end = tc();
  sleep_ms(20);
  EXPECT_EQ(tc(), tc_in_the_end) << "TC sees none of what XDP takes";
  client.stop_sending();
  EXPECT_TRUE(eventually([&] { return all.seen.size() + service->count() >= client.sent(); }));
  service->stop();
  client.stop();
  auto& seen = service->received().seen;
  all.seen.insert(all.seen.end(), seen.begin(), seen.end());
  EXPECT_EQ(all.fault(1, client.sent()), "");
  EXPECT_GT(at_b->counters(service4())->taken.frames, 0u);
  EXPECT_EQ(at_a->counters(service4())->dropped(), 0u);
  RecordProperty("redirected_at_xdp", static_cast<int>(at_a->counters(service4())->redirected.frames));
  // The redirection ends with the old place's network.
  bed.in(bed.a.netns, [&] { return handover::WorkloadNetwork::destroy("mnet-redis", bed.a.bpffs); });
  EXPECT_THAT(*at_a->entries(), IsEmpty());
}

}  // namespace
}  // namespace mose::test
