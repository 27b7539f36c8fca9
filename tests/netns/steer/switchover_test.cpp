// SPDX-License-Identifier: MIT
// A service's network goes back and forth between two nodes under traffic: nothing is lost, doubled, reordered or
// reset.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "handover.h"
#include "handover/quiesce.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"
#include "kernel/procfs.h"
#include "kernel/receive_backlog.h"
#include "support/support.h"
#include "tcp_traffic.h"

namespace mose::test {
namespace {

TEST(Switchover, LosesReordersAndDoublesNothingAt50000PacketsPerSecond) {
  constexpr unsigned kPerSecond = 50000;
  Bed bed;
  MovingNetwork moving(bed);
  auto service = std::make_unique<UdpService>(bed.a.workload, AF_INET, false);
  Sequence all;
  UdpClient client(bed.client, AF_INET, kPerSecond);
  int moves = rounds(5, 50);
  auto begin = now();
  for (int move = 0; move < moves; ++move) {
    moving.prepare();
    sleep_ms(10);
    moving.hold();
    wait_until_idle(*service);
    service->stop();
    auto& seen = service->received().seen;
    all.seen.insert(all.seen.end(), seen.begin(), seen.end());
    service = std::make_unique<UdpService>(moving.there().workload, AF_INET, false);
    moving.switch_over();
    sleep_ms(5);
    moving.leave();
  }
  client.stop_sending();
  double seconds = static_cast<double>((now() - begin).count()) / 1e9;
  EXPECT_TRUE(eventually([&] { return all.seen.size() + service->count() >= client.sent(); }));
  service->stop();
  client.stop();
  auto& seen = service->received().seen;
  all.seen.insert(all.seen.end(), seen.begin(), seen.end());
  EXPECT_EQ(all.fault(1, client.sent()), "");
  RecordProperty("packets", static_cast<int>(client.sent()));
  const double per_second = static_cast<double>(client.sent()) / seconds;
  RecordProperty("packets_per_second", static_cast<int>(per_second));
  if (in_full()) {
    EXPECT_GE(per_second, kPerSecond * 0.95) << "the machine was too slow for the load";
  }
  RecordProperty("held", static_cast<int>(moving.held()));
  EXPECT_GT(moving.held(), static_cast<uint64_t>(moves) * 50) << "hardly anything was held";
}

// Its frames have the MAC of the place that they are drained to: the bridge there has its uplink's.
TEST(Switchover, BringsWhatAClientOnTheNextNodeHasSentIntoTheHold) {
  constexpr uint64_t kDatagrams = 100;
  Bed bed;
  MovingNetwork moving(bed);
  moving.prepare();
  bed.in(bed.b.netns, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    EXPECT_EQ(bridge.mac, bed.b.uplink_mac);
    MOSE_ASSIGN(auto address, parse_service_address("192.0.2.12/24"));
    MOSE_TRY(netlink.add_address(bridge.ifindex, address));
    return netlink.add_neighbour(bridge.ifindex, {service4(), mac_for(service4())});
  });
  moving.hold();
  Fd client = udp_socket(bed.b.netns, AF_INET, "192.0.2.12", kPort + 1);
  sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = {htonl(0xc000020a)}, .sin_zero = {}};
  for (uint64_t number = 1; number <= kDatagrams; ++number) {
    ASSERT_EQ(sendto(client.get(), &number, sizeof number, 0, reinterpret_cast<sockaddr*>(&to), sizeof to),
              static_cast<ssize_t>(sizeof number));
  }
  EXPECT_TRUE(eventually([&] {
    return moving.network().steering().queued_now(handover::Direction::ingress).value_or(0) >= kDatagrams;
  }));
  UdpService service(moving.there().workload, AF_INET, false);
  moving.switch_over();
  EXPECT_TRUE(eventually([&] { return service.count() == kDatagrams; })) << service.count();
  service.stop();
  EXPECT_EQ(service.received().fault(1, kDatagrams), "");
}

// No connection in any state but listening.
bool only_listens(const Fd& netns) {
  std::string text;
  EXPECT_OK(in_netns(netns.get(), [&]() -> Status {
    MOSE_ASSIGN(text, read_file("/proc/thread-self/net/tcp"));
    return {};
  }));
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    if (line.find(" 0A ") == std::string::npos) return false;
  }
  return true;
}

// As the agent does after each hold: what has passed before it is in its socket.
void arrive() {
  auto taken = wait_receive_backlog(std::chrono::seconds(1));
  ASSERT_TRUE(taken.has_value()) << taken.error().what;
  EXPECT_TRUE(*taken);
}

TEST(Switchover, NewConnectionsAreAnsweredByTheNextPlace) {
  constexpr unsigned kPerSecond = 2000;
  Bed bed;
  bed.in(bed.client, []() -> Status {  // thousands of connections to one port: reuse what is closed
    MOSE_TRY(set_net_sysctl("ipv4/ip_local_port_range", "1024 65535"));
    MOSE_TRY(set_net_sysctl("ipv4/tcp_tw_reuse", "1"));
    return {};
  });
  MovingNetwork moving(bed);
  auto service = std::make_unique<EchoService>(bed.a.workload, "192.0.2.10");
  TcpCounters before = tcp_counters(bed.client);
  ConnectionChurn churn(bed.client, "192.0.2.10", kPerSecond);
  const Timestamp begin = now();
  Nanoseconds quiesce_longest{0};
  for (int move = 0; move < rounds(8, 100); ++move) {
    moving.prepare();
    sleep_ms(20);
    auto queues = ListenQueues::open(moving.here().workload.get());
    ASSERT_TRUE(queues.has_value());
    moving.hold_new();
    arrive();
    sleep_ms(4);  // as long as CRIU takes to get ready
    Timestamp from = now();
    auto left = handover::quiesce(*queues);
    ASSERT_TRUE(left.has_value()) << left.error().what;
    quiesce_longest = std::max(quiesce_longest, now() - from);
    EXPECT_TRUE(left->none()) << left->half_open << " half-open, " << left->not_accepted << " not accepted";
    // Established connections move with their processes; here there is nobody to take them, so they end first.
    EXPECT_TRUE(eventually([&] { return only_listens(moving.here().workload); }));
    moving.hold();
    arrive();
    service = std::make_unique<EchoService>(moving.there().workload, "192.0.2.10");
    moving.switch_over();
    moving.leave();
    const TcpCounters& old = moving.old_place();
    EXPECT_EQ(old.resets_sent + old.syn_retries + old.timeouts + old.listen_drops, 0u)
        << "move " << move << ": " << old.text();
  }
  sleep_ms(20);
  const double per_second = static_cast<double>(churn.begun()) * 1e9 / static_cast<double>((now() - begin).count());
  churn.stop();
  if (in_full()) {
    EXPECT_GE(per_second, kPerSecond * 0.95) << "the machine was too slow for the load";
  }
  EXPECT_EQ(churn.failures(), std::vector<std::string>{});
  EXPECT_EQ(churn.answered(), churn.begun());
  TcpCounters counters = tcp_counters(bed.client).since(before), last = tcp_counters(moving.here().workload);
  EXPECT_EQ(counters.resets_received + counters.resets_sent + last.resets_sent, 0u) << counters.text();
  EXPECT_EQ(counters.syn_retries, 0u) << counters.text();
  EXPECT_EQ(counters.timeouts, 0u) << counters.text();
  RecordProperty("connections", static_cast<int>(churn.begun()));
  RecordProperty("connections_per_second", static_cast<int>(per_second));
  RecordProperty("longest_connection_us", static_cast<int>(churn.longest().count() / 1000));
  RecordProperty("quiesce_longest_us", static_cast<int>(quiesce_longest.count() / 1000));
  RecordProperty("client", counters.text());
  EXPECT_GT(moving.held(), 100u) << "hardly a connection came while all were held";
}

// A service that does not accept: the bound ends the wait, and what is left is named.
TEST(Quiesce, NamesTheConnectionsThatNobodyAccepts) {
  Bed bed;
  handover::WorkloadNetwork network = bed.create(bed.a);
  auto queue = hold_queue(bed, bed.a, network, handover::Direction::ingress);
  auto queues = ListenQueues::open(bed.a.workload.get());
  ASSERT_TRUE(queues.has_value());
  auto nothing = queues->read();
  ASSERT_TRUE(nothing.has_value());
  EXPECT_TRUE(nothing->none());
  EXPECT_EQ(nothing->listeners, 0u);

  Fd listener = tcp_listener(bed.a.workload, "192.0.2.10", kPort),
     other = tcp_listener(bed.a.workload, "2001:db8::10", 7001);
  Fd first = tcp_connect(bed.client, "192.0.2.10", kPort), second = tcp_connect(bed.client, "192.0.2.10", kPort);
  Fd third = tcp_connect(bed.client, "2001:db8::10", 7001);
  EXPECT_OK(network.hold_new(queue.tap_ifindex()));
  auto left = handover::quiesce(*queues);
  ASSERT_TRUE(left.has_value()) << left.error().what;
  EXPECT_EQ(left->not_accepted, 3u);
  EXPECT_EQ(left->half_open, 0u);
  EXPECT_EQ(left->port, kPort);
  EXPECT_EQ(left->listeners, 2u);
  Fd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  left = handover::quiesce(*queues);
  ASSERT_TRUE(left.has_value());
  EXPECT_EQ(left->not_accepted, 2u);
  // A server whose share of the processor is used up comes to it later.
  std::thread late([&] {
    ::usleep(200'000);
    Fd rest[] = {Fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)), Fd(accept4(other.get(), nullptr, nullptr, SOCK_CLOEXEC))};
  });
  left = handover::quiesce(*queues);
  late.join();
  ASSERT_TRUE(left.has_value());
  EXPECT_TRUE(left->none()) << left->not_accepted;
}

// A client that never finishes its handshake.
TEST(Quiesce, SeesHalfOpenConnections) {
  Bed bed;
  handover::WorkloadNetwork network = bed.create(bed.a);
  auto queue = hold_queue(bed, bed.a, network, handover::Direction::egress);
  Fd listener = tcp_listener(bed.a.workload, "192.0.2.10", kPort);
  auto queues = ListenQueues::open(bed.a.workload.get());
  ASSERT_TRUE(queues.has_value());
  EXPECT_OK(network.hold(handover::Direction::egress, queue.tap_ifindex()));  // the answer does not arrive
  Fd client = udp_socket(bed.client, AF_INET, "192.0.2.2", 0);
  Fd connecting;
  bed.in(bed.client, [&]() -> Status {
    connecting = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = {htonl(0xc000020a)}};
    (void)connect(connecting.get(), reinterpret_cast<sockaddr*>(&to), sizeof to);
    return {};
  });
  EXPECT_TRUE(eventually([&] {
    auto waiting = queues->read();
    return waiting && waiting->half_open == 1;
  }));
  auto left = handover::quiesce(*queues);
  ASSERT_TRUE(left.has_value());
  EXPECT_EQ(left->half_open, 1u);
  EXPECT_EQ(left->not_accepted, 0u);
}

}  // namespace
}  // namespace mose::test
