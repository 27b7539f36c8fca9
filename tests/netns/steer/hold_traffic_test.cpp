// SPDX-License-Identifier: MIT
// What TCP notices of a hold of 50 ms: nothing. Counted by the kernels of both ends.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "handover.h"
#include "support/support.h"
#include "tcp_traffic.h"

namespace mose::test {
namespace {

using handover::Direction;
using handover::HoldQueue;
using handover::WorkloadNetwork;

constexpr int kHoldMs = 50;
constexpr auto kAnswerAfterHold = std::chrono::milliseconds(10);

const char* service_text(int family) {
  return family == AF_INET ? "192.0.2.10" : "2001:db8::10";
}

template <typename T>
T percentile(std::vector<T> values, size_t percent) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, values.size() * percent / 100)];
}

class Echo : public testing::TestWithParam<int> {};

TEST_P(Echo, IsOnlyLateByTheHold) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EchoService service(bed.a.workload, service_text(GetParam()));
  EchoClient client(bed.client, service_text(GetParam()));
  sleep_ms(100);
  TcpCounters client_before = tcp_counters(bed.client), service_before = tcp_counters(bed.a.workload);
  std::vector<Nanoseconds> beyond;
  for (int round = 0; round < rounds(20, 100); ++round) {
    sleep_ms(20);
    (void)client.take_longest();
    Timestamp held_at = now();
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(kHoldMs);
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    Nanoseconds held = now() - held_at;
    expect_drained(queue, network);
    uint64_t sent = client.sent();
    EXPECT_TRUE(eventually([&] { return client.answered() >= sent; }));
    beyond.push_back(client.take_longest() - held);
  }
  client.stop();
  EXPECT_EQ(client.fault(), "");
  EXPECT_EQ(client.answered(), client.sent());
  for (auto [who, counters] : {std::pair{"client", tcp_counters(bed.client).since(client_before)},
                               {"service", tcp_counters(bed.a.workload).since(service_before)}}) {
    EXPECT_EQ(counters.timeouts, 0u) << who << ": " << counters.text();
    EXPECT_EQ(counters.retransmitted_beside_probes(), 0u) << who << ": " << counters.text();
    EXPECT_EQ(counters.resets_sent + counters.resets_received, 0u) << who;
    RecordProperty(who, counters.text());
  }
  EXPECT_GE(queue.stats().reinjected, beyond.size()) << "nothing was held";
  // Speed is judged only where the machine is ours; the sample shows that nothing waits for a timer of TCP.
  Nanoseconds p95 = percentile(beyond, 95);
  RecordProperty("beyond_hold_p95_us", static_cast<int>(p95.count() / 1000));
  EXPECT_LE(p95, rounds(1, 2) == 2 ? Nanoseconds(kAnswerAfterHold) : Nanoseconds(std::chrono::milliseconds(140)));
}
INSTANTIATE_TEST_SUITE_P(Family, Echo, testing::Values(AF_INET, AF_INET6));

TEST(Bulk, IsHardlyRetransmitted) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  Fd listener = tcp_listener(bed.a.workload, "192.0.2.10", kPort);
  Fd client = tcp_connect(bed.client, "192.0.2.10", kPort);
  Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(server.valid());
  ASSERT_EQ(setsockopt(client.get(), IPPROTO_TCP, TCP_CONGESTION, "cubic", 5), 0);
  // As much under way as a kernel allows by itself (4 MiB), not the bed's 64: what queues for longer than 200 ms behind a
  // busy drain is the queue's doing, not the hold's.
  int buffer_bytes = 2 << 20;
  ASSERT_EQ(setsockopt(client.get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes), 0);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> received{0}, sent{0};
  std::thread writer([&] {
    std::vector<char> block(1 << 16, 'x');
    for (ssize_t went; !stop && (went = write(client.get(), block.data(), block.size())) > 0;) {
      sent += static_cast<uint64_t>(went);
    }
    shutdown(client.get(), SHUT_WR);
  });
  std::thread reader([&] {
    std::vector<char> buffer(1 << 18);
    for (ssize_t got; (got = read(server.get(), buffer.data(), buffer.size())) > 0;)
      received += static_cast<uint64_t>(got);
  });
  sleep_ms(200);
  TcpCounters before = tcp_counters(bed.client);
  // Two CPUs that send for one connection reorder it without any hold, now and then for a whole run: as long again without.
  std::vector<uint64_t> retransmitted, without_hold;
  for (int round = 0; round < rounds(10, 50); ++round) {
    sleep_ms(50);
    TcpCounters at_rest = tcp_counters(bed.client);
    sleep_ms(kHoldMs + 30);
    without_hold.push_back(tcp_counters(bed.client).since(at_rest).retransmitted);
    TcpCounters at_hold = tcp_counters(bed.client);
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(kHoldMs);
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    expect_drained(queue, network);
    sleep_ms(30);
    retransmitted.push_back(tcp_counters(bed.client).since(at_hold).retransmitted);
  }
  stop = true;
  writer.join();
  reader.join();
  TcpCounters counters = tcp_counters(bed.client).since(before);
  RecordProperty("client", counters.text());
  RecordProperty("megabytes", static_cast<int>(received >> 20));
  RecordProperty("retransmitted_median", static_cast<int>(percentile(retransmitted, 50)));
  RecordProperty("without_hold_p95", static_cast<int>(percentile(without_hold, 95)));
  EXPECT_EQ(received, sent);
  EXPECT_EQ(counters.timeouts, 0u) << counters.text();
  EXPECT_LE(percentile(retransmitted, 50), 5 + percentile(without_hold, 95)) << counters.text();
  EXPECT_GT(queue.stats().bytes, queue.stats().reinjected * 3000) << "no segmentation-offload frame was held";
}

// The source was frozen and its egress shut; then it goes on.
TEST(AbortAfterTheHold, LosesNothingAndNoTimerRuns) {
  Bed bed;
  WorkloadNetwork network = bed.create(bed.a);
  HoldQueue queue = hold_queue(bed, bed.a, network, Direction::ingress);
  EchoService service(bed.a.workload, "192.0.2.10");
  EchoClient client(bed.client, "192.0.2.10");
  sleep_ms(50);
  TcpCounters client_before = tcp_counters(bed.client), service_before = tcp_counters(bed.a.workload);
  for (int round = 0; round < rounds(5, 20); ++round) {
    sleep_ms(20);
    EXPECT_OK(network.hold_new(queue.tap_ifindex()));
    EXPECT_OK(network.hold(Direction::ingress, queue.tap_ifindex()));
    sleep_ms(20);
    EXPECT_OK(network.shut(Direction::egress, false));
    sleep_ms(20);
    EXPECT_OK(network.pass(Direction::egress));
    EXPECT_OK(network.drain_to_pass(Direction::ingress));
    expect_drained(queue, network);
  }
  client.stop();
  EXPECT_EQ(client.fault(), "");
  EXPECT_EQ(client.answered(), client.sent());
  TcpCounters at_client = tcp_counters(bed.client).since(client_before);
  TcpCounters at_service = tcp_counters(bed.a.workload).since(service_before);
  RecordProperty("client", at_client.text());
  RecordProperty("service", at_service.text());
  EXPECT_EQ(at_client.timeouts + at_service.timeouts, 0u) << at_client.text() << "; " << at_service.text();
  EXPECT_EQ(at_client.resets_sent + at_service.resets_sent, 0u);
}

}  // namespace
}  // namespace mose::test
