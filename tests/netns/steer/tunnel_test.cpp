// SPDX-License-Identifier: MIT
// A peer behind a router: which way is found, what does not fit, and a connection whose packets go on coming to the old
// place for good.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>

#include "handover.h"
#include "handover/uplink_steering.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "kernel/offload.h"
#include "routed_bed.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::PeerPath;
using handover::Tunnel;
using handover::WorkloadNetwork;
using testing::HasSubstr;

Result<PeerPath> find(const RoutedBed& bed, const handover::PathQuestion& question) {
  return in_netns_get<PeerPath>(bed.a.netns.get(), [&] { return handover::find_peer_path(question); });
}

Tunnel there(int family) {
  const char* const* text = family == AF_INET ? kNodeText4 : kNodeText6;
  const char* bits = family == AF_INET ? "/32" : "/128";
  auto address = [&](const char* with_prefix) {
    return *parse_service_address(format_address(*parse_service_address(with_prefix)) + bits);
  };
  return {.local = address(text[0]), .remote = address(text[1])};
}
Tunnel back(const Tunnel& tunnel) {
  return {.local = tunnel.remote, .remote = tunnel.local, .port = tunnel.port};
}

TEST(PeerPath, LeadsThroughATunnelByTheGateway) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  for (int family : {AF_INET, AF_INET6}) {
    auto path = find(bed, bed.question(family));
    ASSERT_TRUE(path) << path.error().what;
    EXPECT_EQ(path->mac, bed.gateway_mac(bed.a));
    ASSERT_TRUE(path->tunnel);
    EXPECT_EQ(format_tunnel(*path->tunnel), format_tunnel(there(family)));
  }
}

TEST(PeerPath, OnTheSegmentIsNoTunnel) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto question = bed.question(AF_INET);
  question.peer = *parse_service_address("192.0.2.77/24");
  auto path = find(bed, question);
  ASSERT_TRUE(path) << path.error().what;
  EXPECT_EQ(*path, PeerPath{});
}

TEST(PeerPath, ByAnotherDeviceSaysNothingOfTheUplinkUnlessItMust) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  bed.in(bed.a.netns, [&]() -> Status {  // a network for control alone
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.create_bridge("ctl0"));
    MOSE_ASSIGN(auto link, netlink.link("ctl0"));
    MOSE_TRY(netlink.change_link(link.ifindex, {.up = true}));
    return netlink.add_address(link.ifindex, *parse_service_address("198.51.100.200/28"));
  });
  auto question = bed.question(AF_INET);
  question.peer = *parse_service_address("198.51.100.201/32");
  auto refused = find(bed, question);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("leads by ctl0, not by uplink up"));
  question.by_uplink = false;
  auto path = find(bed, question);
  ASSERT_TRUE(path) << path.error().what;
  EXPECT_EQ(*path, PeerPath{});
}

TEST(PeerPath, OnOneSegmentTheUplinkMustTakeTheLargestPacket) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto question = bed.question(AF_INET);
  question.peer = *parse_service_address("192.0.2.12/32");
  auto path = find(bed, question);
  ASSERT_TRUE(path) << path.error().what;
  EXPECT_EQ(*path, PeerPath{});
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    return netlink.change_link(up.ifindex, {.mtu = 1499});
  });
  auto refused = find(bed, question);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("up to 1500 bytes"));
  EXPECT_THAT(refused.error().what, HasSubstr("and uplink up, by which the late ones are sent on, takes 1499"));
}

TEST(PeerPath, AGatewayThatDoesNotAnswerIsNamed) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    return netlink.add_default_route(bridge.ifindex, *parse_service_address("192.0.2.250/32"));
  });
  auto path = find(bed, bed.question(AF_INET));
  ASSERT_FALSE(path);
  EXPECT_THAT(path.error().what, HasSubstr("neighbour 192.0.2.250 does not answer"));
}

// To the byte: 1500 and 50 for IPv4, 70 for IPv6.
TEST(PeerPath, IsRefusedWhereTheLargestPacketWouldNotFit) {
  RoutedBed bed(1569);
  WorkloadNetwork network = bed.create(bed.a);
  EXPECT_TRUE(find(bed, bed.question(AF_INET)));
  auto refused = find(bed, bed.question(AF_INET6));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("have up to 1500 bytes"));
  EXPECT_THAT(refused.error().what, HasSubstr("1570 in the VXLAN tunnel to 2001:db8:b::12, and uplink up takes 1569"));
  EXPECT_THAT(refused.error().what,
              HasSubstr("raise that MTU to 1570 on the whole way, or lower the bridge's to 1499"));
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    return netlink.change_link(up.ifindex, {.mtu = 1550});
  });
  EXPECT_TRUE(find(bed, bed.question(AF_INET)));
  bed.in(bed.a.netns, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    return netlink.change_link(up.ifindex, {.mtu = 1549});
  });
  EXPECT_FALSE(find(bed, bed.question(AF_INET)));
}

TEST(Tunnel, IsRefusedWhenItCannotWork) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  Tunnel mixed{.local = there(AF_INET).local, .remote = there(AF_INET6).remote};
  auto taken = network.steering().take_from(mixed);
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().what, HasSubstr("two addresses of one family"));
  EXPECT_OK(network.steering().take_from(there(AF_INET6)));
  EXPECT_EQ(*network.steering().taken_from(), there(AF_INET6));
  auto again = handover::Steering::adopt(bed.a.bpffs, "mnet-redis");
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_EQ(*again->taken_from(), there(AF_INET6));
}

TEST(Tunnel, BackToWhereItCameFromTakesNothingFromThere) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.a);
  auto queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
  EXPECT_OK(network.steering().take_from(there(AF_INET)));
  EXPECT_OK(network.drain_to_peer({.mac = bed.gateway_mac(bed.a), .tunnel = there(AF_INET)}));
  EXPECT_EQ(*network.steering().taken_from(), std::nullopt);
}

// One direction of a connection, as fast as it goes: numbers without a gap.
class Upload {
 public:
  Upload(const Fd& client, const char* service) : socket_(tcp_connect(client, service, kPort)) {
    thread_ = std::thread([this] {
      std::vector<uint64_t> block(8192);
      for (uint64_t number = 0; !stop_;) {
        for (uint64_t& value : block) value = number++;
        const auto* at = reinterpret_cast<const char*>(block.data());
        for (size_t left = block.size() * sizeof(uint64_t); left > 0;) {
          ssize_t went = send(socket_.get(), at, left, MSG_NOSIGNAL);
          if (went <= 0) return;
          at += went;
          left -= static_cast<size_t>(went);
        }
        sent_ = number;
      }
    });
  }
  ~Upload() {
    shutdown(socket_.get(), SHUT_RDWR);  // a connection that stands still must not keep the test
    stop();
  }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] uint64_t sent() const { return sent_; }  // numbers

 private:
  Fd socket_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> sent_{0};
  std::thread thread_;
};

// The service's end. pause() is its freeze: the queue has been read, the socket can be moved.
class Reader {
 public:
  explicit Reader(Fd socket) { go_on(std::move(socket)); }
  ~Reader() { (void)pause(); }
  void go_on(Fd socket) {
    socket_ = std::move(socket);
    stop_ = false;
    thread_ = std::thread([this] {
      std::vector<char> buffer(1 << 20);
      for (;;) {
        pollfd wait{.fd = socket_.get(), .events = POLLIN};
        if (poll(&wait, 1, 2) <= 0) {
          if (stop_) return;
          continue;
        }
        ssize_t got = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got <= 0) return;
        take(std::span(buffer).first(static_cast<size_t>(got)));
      }
    });
  }
  [[nodiscard]] Fd pause() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return std::move(socket_);
  }
  [[nodiscard]] uint64_t read() const { return bytes_ / 8; }
  [[nodiscard]] bool wrong() const { return wrong_; }

 private:
  // The bytes of the numbers that are due, the last of which may have come in part.
  void take(std::span<const char> bytes) {
    const uint64_t at = bytes_;
    std::vector<uint64_t> due(bytes.size() / 8 + 2);
    for (size_t i = 0; i < due.size(); ++i) due[i] = at / 8 + i;
    if (std::memcmp(reinterpret_cast<const char*>(due.data()) + at % 8, bytes.data(), bytes.size()) != 0) wrong_ = true;
    bytes_ = at + bytes.size();
  }
  Fd socket_;
  std::atomic<bool> stop_{false}, wrong_{false};
  std::atomic<uint64_t> bytes_{0};
  std::thread thread_;
};

// A connection that moves from a to b while its client goes on sending to a.
struct Move {
  Move(RoutedBed& bed, int family);
  void to_b(int family, int outer);
  // Until so many numbers more have been read; then all that has been sent.
  void go_on(uint64_t numbers);

  RoutedBed& bed;
  WorkloadNetwork source, destination;
  std::optional<Upload> upload;
  std::optional<Reader> reader;
  TcpCounters before;
};

PeerPath must_find(const RoutedBed& bed, int outer) {
  auto path = find(bed, bed.question(outer));
  EXPECT_TRUE(path) << path.error().what;
  return path ? *path : PeerPath{};
}

RoutedBed& with_gateway(RoutedBed& bed, int family) {
  if (family == AF_INET6) bed.gateway = "2001:db8::1";
  return bed;
}

Move::Move(RoutedBed& routed, int family)
    : bed(with_gateway(routed, family)), source(bed.create(bed.a)), destination(bed.create(bed.b, false)) {}

void Move::to_b(int family, int outer) {
  constexpr int kReceiveBuffer = 2 << 20;  // what waits there is read while everything is held
  const char* service = family == AF_INET ? "192.0.2.10" : "2001:db8::10";
  const PeerPath path = must_find(bed, outer);
  ASSERT_TRUE(path.tunnel);
  EXPECT_OK(destination.steering().take_from(back(*path.tunnel)));
  auto egress = hold_queue(bed, bed.b, destination, Direction::egress);
  auto ingress = hold_queue(bed, bed.a, source, Direction::ingress);
  bed.in(bed.b.netns, [&] { return destination.hold(Direction::egress, egress.tap_ifindex()); });
  Fd listener = tcp_listener(bed.a.workload, service, kPort);
  setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBuffer, sizeof kReceiveBuffer);
  upload.emplace(bed.client, service);
  Fd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted);
  reader.emplace(std::move(accepted));
  ASSERT_TRUE(eventually([&] { return reader->read() > 100000; }));

  before = tcp_counters(bed.client);
  bed.in(bed.a.netns, [&] { return source.hold(Direction::ingress, ingress.tap_ifindex()); });
  for (uint64_t last = 0; last != reader->read(); sleep_ms(5)) last = reader->read();
  bed.in(bed.a.netns, [&] { return source.shut(Direction::egress, false); });
  Fd moved = move_connection(reader->pause(), bed.b.workload);
  listener = Fd();
  bed.in(bed.b.netns, [&] { return destination.open_ingress(); });
  bed.in(bed.a.netns, [&] { return source.drain_to_peer(path); });
  reader->go_on(std::move(moved));
  expect_drained(ingress, source);
  bed.in(bed.b.netns, [&] { return destination.open_egress(); });
  expect_drained(egress, destination);
}

void Move::go_on(uint64_t numbers) {
  const uint64_t from = reader->read();
  ASSERT_TRUE(eventually([&] { return reader->read() > from + numbers; }));
  upload->stop();
  for (uint64_t last = 0; reader->read() != upload->sent() && reader->read() != last; sleep_ms(500))
    last = reader->read();
  EXPECT_EQ(reader->read(), upload->sent());
  EXPECT_FALSE(reader->wrong());
}

class TunnelTraffic : public testing::TestWithParam<std::pair<int, int>> {
};  // families of the service and of the tunnel

TEST_P(TunnelTraffic, AConnectionGoesOnAndNothingOfItIsLost) {
  auto [family, outer] = GetParam();
  RoutedBed bed;
  Move move(bed, family);
  move.to_b(family, outer);
  move.go_on(4'000'000);
  const TcpCounters counters = tcp_counters(bed.client).since(move.before);
  EXPECT_EQ(counters.timeouts, 0u) << counters.text();
  EXPECT_EQ(counters.resets_received, 0u) << counters.text();
  auto out = move.source.steering().counters(Direction::ingress);
  auto in = move.destination.steering().counters(Direction::uplink);
  ASSERT_TRUE(out && in);
  EXPECT_GT(out->redirected.bytes, out->redirected.frames * 3000) << "no segmentation-offload frame was redirected";
  EXPECT_EQ(in->taken.frames, out->redirected.frames) << "what was put into the tunnel comes out of it";
  EXPECT_EQ(in->taken.bytes, out->redirected.bytes + out->redirected.frames * handover::tunnel_room(outer));
  EXPECT_EQ(out->dropped_rewrite.frames + out->dropped_mtu.frames + out->dropped_overflow.frames, 0u);
  EXPECT_EQ(in->dropped() + in->foreign.frames, 0u);
  RecordProperty("frames", static_cast<int>(out->redirected.frames));
  RecordProperty("bytes_each", static_cast<int>(out->redirected.bytes / out->redirected.frames));
  RecordProperty("client", counters.text());
}
INSTANTIATE_TEST_SUITE_P(Families, TunnelTraffic,
                         testing::Values(std::pair{AF_INET, AF_INET}, std::pair{AF_INET6, AF_INET},
                                         std::pair{AF_INET, AF_INET6}, std::pair{AF_INET6, AF_INET6}),
                         [](const auto& row) {
                           return std::string("IPv") + (row.param.first == AF_INET ? "4" : "6") + "In" +
                                  (row.param.second == AF_INET ? "IPv4" : "IPv6");
                         });

// As on a card that cannot cut what is in a tunnel: the kernel does, each piece with headers of its own.
TEST(Tunnel, PiecesOfLargeFramesAreEachInTheTunnel) {
  for (int outer : {AF_INET, AF_INET6}) {
    RoutedBed bed;
    bed.segment_in_software(bed.a);
    Move move(bed, AF_INET);
    move.to_b(AF_INET, outer);
    move.go_on(200'000);
    auto out = move.source.steering().counters(Direction::ingress);
    auto in = move.destination.steering().counters(Direction::uplink);
    ASSERT_TRUE(out && in);
    EXPECT_GT(out->redirected.bytes, out->redirected.frames * 3000) << "no segmentation-offload frame was redirected";
    EXPECT_GT(in->taken.frames, out->redirected.frames);
    EXPECT_LE(in->taken.bytes, in->taken.frames * (14 + kWorkloadMtu + handover::tunnel_room(outer)));
    EXPECT_EQ(in->dropped(), 0u);
  }
}

// The router's entry for the service grows old: it must go on finding it at the old place, where nothing runs any more.
TEST(Tunnel, TheOldPlaceGoesOnAnsweringForTheAddress) {
  RoutedBed bed;
  Move move(bed, AF_INET);
  move.to_b(AF_INET, AF_INET);
  bed.in(bed.segment, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link("ra"));
    MOSE_ASSIGN(bool known, netlink.delete_neighbour(link.ifindex, service4()));
    EXPECT_TRUE(known);
    return {};
  });
  move.go_on(200'000);
}

// The first line, where the uplink has one: TC sees none of what it takes, and takes all of it out at the other end.
TEST(Tunnel, StragglersAreSentOnAtXdp) {
  constexpr uint64_t kDatagrams = 500;
  for (int outer : {AF_INET, AF_INET6}) {
    RoutedBed bed;
    bed.in(bed.segment, []() -> Status {
      MOSE_ASSIGN(auto netlink, Netlink::open());
      MOSE_ASSIGN(auto link, netlink.link("ra"));
      return bpf::attach_xdp_pass(link.ifindex);
    });
    bed.in(bed.client, [] { return set_checksum_offload("up", false); });
    WorkloadNetwork source = bed.create(bed.a), destination = bed.create(bed.b);
    const PeerPath path = must_find(bed, outer);
    ASSERT_TRUE(path.tunnel);
    EXPECT_OK(destination.steering().take_from(back(*path.tunnel)));
    auto uplink = in_netns_get<handover::UplinkSteering>(bed.a.netns.get(), [&] {
      return handover::UplinkSteering::attach(
          {.device = "up", .ifindex = source.uplink_ifindex(), .mac = bed.a.uplink_mac, .bpffs = bed.a.bpffs});
    });
    ASSERT_TRUE(uplink) << uplink.error().what;
    EXPECT_OK(uplink->put(service4(), {.state = handover::UplinkState::redirect,
                                       .workload = "mnet-redis",
                                       .service_mac = mac_for(service4()),
                                       .peer_ifindex = source.uplink_ifindex(),
                                       .peer_mac = path.mac,
                                       .own_mac = bed.a.uplink_mac,
                                       .tunnel = path.tunnel}));
    EXPECT_EQ((*uplink->entry(service4()))->tunnel, path.tunnel);
    UdpService service(bed.b.workload, AF_INET, false);
    Fd client = udp_socket(bed.client, AF_INET, "198.51.100.2", 7001);
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = {htonl(0xc000020a)}};
    for (uint64_t number = 1; number <= kDatagrams; ++number) {
      ASSERT_EQ(sendto(client.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
                static_cast<ssize_t>(sizeof number));
    }
    EXPECT_TRUE(eventually([&] { return service.count() == kDatagrams; })) << service.count();
    service.stop();
    EXPECT_EQ(service.received().fault(1, kDatagrams), "");
    EXPECT_EQ(uplink->counters(service4())->redirected.frames, kDatagrams);
    EXPECT_EQ(destination.steering().counters(Direction::uplink)->taken.frames, kDatagrams);
    EXPECT_EQ(uplink->counters(service4())->dropped(), 0u);
  }
}

// To the tunnel's address come also those that are none of our business, and those that should be.
TEST(Tunnel, WhatOthersSendIsCountedAndLeftToTheKernel) {
  RoutedBed bed;
  WorkloadNetwork network = bed.create(bed.b);
  EXPECT_OK(network.steering().take_from(back(there(AF_INET))));
  Fd kernel = udp_socket(bed.b.netns, AF_INET, "203.0.113.12", handover::kTunnelPort);
  Fd stranger = udp_socket(bed.client, AF_INET, "198.51.100.2", 50000);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(handover::kTunnelPort), .sin_addr = {htonl(0xcb00710c)}};
  // Ethernet and IPv4 inside; the first for the service, the second for 192.0.2.99, which is somebody else's.
  uint8_t vxlan[64] = {8, 0, 0, 0, 0x4d, 0x4f, 0x53};
  vxlan[8 + 12] = 0x08;
  vxlan[8 + 14] = 0x45;
  for (uint8_t last : {uint8_t{10}, uint8_t{99}}) {
    const uint8_t destination[] = {192, 0, 2, last};
    std::copy(std::begin(destination), std::end(destination), vxlan + 8 + 14 + 16);
    ASSERT_EQ(sendto(stranger.get(), vxlan, sizeof vxlan, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(sizeof vxlan));
    uint8_t got[128];
    pollfd wait{.fd = kernel.get(), .events = POLLIN};
    ASSERT_EQ(poll(&wait, 1, 2000), 1);
    EXPECT_EQ(recv(kernel.get(), got, sizeof got, 0), static_cast<ssize_t>(sizeof vxlan));
  }
  auto in = network.steering().counters(Direction::uplink);
  ASSERT_TRUE(in);
  EXPECT_EQ(in->foreign.frames, 1u);
  EXPECT_EQ(in->taken.frames + in->dropped(), 0u);
}

}  // namespace
}  // namespace mose::test
