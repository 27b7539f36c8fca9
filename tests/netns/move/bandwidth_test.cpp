// SPDX-License-Identifier: MIT
// The cap on the stream of pages, seen from the other end of a TCP connection. Tolerances are those of a busy machine.
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "kernel/socket.h"
#include "move/page_sender.h"
#include "support/support.h"

namespace mose::move {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const StreamId kStream{MigrationId{{7}}, 1};
constexpr uint64_t kRate = 80'000'000;  // bits per second
constexpr double kBytesPerSecond = kRate / 8.0;

void enter_own_network() {
  if (unshare(CLONE_NEWNET) != 0) test::skip_process("no network namespace of its own");
  int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  ASSERT_EQ(ioctl(socket, SIOCGIFFLAGS, &request), 0);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  ASSERT_EQ(ioctl(socket, SIOCSIFFLAGS, &request), 0);
  close(socket);
}

// A connection whose receiving end counts.
class Line {
 public:
  Line() {
    Fd listener = tcp_listen("127.0.0.1:0").value();
    static_cast<void>(set_blocking(listener.get(), true));
    channel = Channel(tcp_connect(local_endpoint(listener.get()).value(), seconds(2)).value(), kStream);
    peer_ = tcp_accept(listener.get(), false).value().socket;
    counting_ = std::jthread([this] {
      std::vector<char> buffer(1u << 20);
      for (ssize_t got; (got = recv(peer_.get(), buffer.data(), buffer.size(), 0)) > 0;) {
        received += static_cast<uint64_t>(got);
      }
    });
  }
  ~Line() { channel.shut_down(); }

  Channel channel;
  std::atomic<uint64_t> received{0};

 private:
  Fd peer_;
  std::jthread counting_;
};

// Sends frames of 1 MiB until it is stopped.
class Bulk {
 public:
  Bulk(Line& line, Bandwidth& bandwidth)
      : sender_(line.channel, {.bandwidth = &bandwidth, .stop = stop_.get_token()}), sending_([this] {
          std::vector<std::byte> bytes(256 * kPageSize, std::byte{1});
          const PageRun run{16, 256};
          const std::span<const std::byte> piece(bytes);
          while (sender_.send_pages(1, {&run, 1}, {&piece, 1})) {
          }
        }) {}
  ~Bulk() { stop_.request_stop(); }

 private:
  std::stop_source stop_;
  PageSender sender_;
  std::jthread sending_;
};

// Bytes per second over `duration`, once the start is over.
double rate_of(const std::function<uint64_t()>& bytes, Nanoseconds duration) {
  std::this_thread::sleep_for(milliseconds(200));
  const uint64_t before = bytes();
  const Timestamp start = now();
  std::this_thread::sleep_for(duration);
  return static_cast<double>(bytes() - before) / std::chrono::duration<double>(now() - start).count();
}

class BandwidthOnASocket : public testing::Test {
 protected:
  static void SetUpTestSuite() { enter_own_network(); }
};

TEST_F(BandwidthOnASocket, HoldsOneStreamToItsRate) {
  Line line;
  Bandwidth bandwidth(kRate);
  Bulk bulk(line, bandwidth);
  const double rate = rate_of([&] { return line.received.load(); }, seconds(2));
  EXPECT_LT(rate, kBytesPerSecond * 1.05);
  EXPECT_GT(rate, kBytesPerSecond * 0.7);
  EXPECT_GT(bandwidth.waited(), milliseconds(500));
}

TEST_F(BandwidthOnASocket, IsSharedByTwoStreams) {
  Line first, second;
  Bandwidth bandwidth(kRate);
  Bulk one(first, bandwidth), two(second, bandwidth);
  const double rate = rate_of([&] { return first.received + second.received; }, seconds(2));
  EXPECT_LT(rate, kBytesPerSecond * 1.05);
  EXPECT_GT(rate, kBytesPerSecond * 0.7);
  EXPECT_GT(first.received, 0u);
  EXPECT_GT(second.received, 0u);
}

// Half of the rate leaves without waiting: bulk has the other half, and is not stopped by a flood.
TEST_F(BandwidthOnASocket, BulkYieldsToWhatDoesNotWait) {
  Line line;
  Bandwidth bandwidth(kRate);
  Bulk bulk(line, bandwidth);
  std::jthread urgent([&](const std::stop_token& stop) {
    const Timestamp start = now();
    for (double booked = 0; !stop.stop_requested(); std::this_thread::sleep_for(milliseconds(2))) {
      const double due = kBytesPerSecond / 2 * std::chrono::duration<double>(now() - start).count();
      bandwidth.book(static_cast<size_t>(due - booked));
      booked = due;
    }
  });
  const double rate = rate_of([&] { return line.received.load(); }, seconds(2));
  EXPECT_LT(rate, kBytesPerSecond * 0.65);
  EXPECT_GT(rate, kBytesPerSecond * 0.3);
  bandwidth.book(10ull * kRate);
  const uint64_t before = line.received;
  std::this_thread::sleep_for(seconds(1));
  EXPECT_GT(line.received, before);
}

TEST_F(BandwidthOnASocket, UnlimitedDoesNotWait) {
  Bandwidth unlimited;
  EXPECT_EQ(unlimited.take(5u << 20, {}), 5u << 20);
  unlimited.book(1u << 30);
  EXPECT_EQ(unlimited.take(1, {}), 1u);
  EXPECT_EQ(unlimited.waited(), Nanoseconds(0));
}

}  // namespace
}  // namespace mose::move
