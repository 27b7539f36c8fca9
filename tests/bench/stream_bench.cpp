// SPDX-License-Identifier: MIT
// The bulk stream beside what the machine's TCP can do, on one connection, one after the other in the same run:
//   stream_bench [MEGABYTES [REPEATS]]     a pre-copy round of so much idle memory against plain sends of 1 MB
//   stream_bench --tls [MEGABYTES [REPEATS]]   the same round under TLS against plain text, by turns
//   stream_bench --cap RATE [SECONDS]      what arrives in each second under --max-bandwidth RATE
// One JSON object on stdout. As root (pagemap), on a quiet machine.
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/units.h"
#include "bench.h"
#include "kernel/procfs.h"
#include "kernel/socket.h"
#include "move/authority.h"
#include "move/page_receiver.h"
#include "move/page_sender.h"
#include "move/tls.h"
#include "sense/hash_scan.h"

namespace mose {
namespace {

using namespace move;
using test::median;
using test::WrittenChild;
const StreamId kStream{MigrationId{{1}}, 1};
constexpr size_t kPlainBytes = 1'000'000;

double seconds_since(Timestamp start) {
  return std::chrono::duration<double>(now() - start).count();
}

struct TcpPair {
  TcpPair() {
    Fd listener = tcp_listen("127.0.0.1:0").value();
    static_cast<void>(set_blocking(listener.get(), true));
    client = tcp_connect(local_endpoint(listener.get()).value(), std::chrono::seconds(2)).value();
    server = tcp_accept(listener.get(), false).value().socket;
  }
  Fd client, server;
};

// Both ends are threads of this process. Like that of another node the receiving one has a processor to itself, where
// there are two: the scheduler would put both on one, because the one wakes the other.
class OnLastProcessor {
 public:
  OnLastProcessor() {
    sched_getaffinity(0, sizeof(before_), &before_);
    const std::vector<int> processors = test::allowed_processors();
    if (processors.size() >= 2) test::pin_to(0, processors.back());
  }
  ~OnLastProcessor() { sched_setaffinity(0, sizeof(before_), &before_); }
  OnLastProcessor(const OnLastProcessor&) = delete;
  OnLastProcessor& operator=(const OnLastProcessor&) = delete;

 private:
  cpu_set_t before_;
};

// Bytes per second of plain sends.
double plain(uint64_t bytes) {
  TcpPair tcp;
  std::vector<char> from(kPlainBytes, 'x');
  const Timestamp start = now();
  std::jthread receiving([&] {
    OnLastProcessor here;
    std::vector<char> to(kPlainBytes);
    uint64_t got = 0;
    for (ssize_t n; got < bytes && (n = recv(tcp.client.get(), to.data(), to.size(), 0)) > 0;)
      got += static_cast<uint64_t>(n);
  });
  for (uint64_t sent = 0; sent < bytes;) {
    ssize_t n = send(tcp.server.get(), from.data(), std::min<uint64_t>(from.size(), bytes - sent), MSG_NOSIGNAL);
    if (n <= 0) abort();
    sent += static_cast<uint64_t>(n);
  }
  receiving.join();
  return static_cast<double>(bytes) / seconds_since(start);
}

// A destination's pager begins to take memory while the network is made, which takes so long on the machine that this
// was written on.
constexpr auto kPreparing = std::chrono::milliseconds(200);

// Bytes per second of a first round into a page store that takes its memory before and beside it, as the pager's does.
double precopy(WrittenChild& target, uint64_t bytes, StreamStats& stats, Tls* tls = nullptr) {
  TcpPair tcp;
  StreamSocket client = tls ? tls->connect(std::move(tcp.client), "bench").value() : StreamSocket(std::move(tcp.client));
  StreamSocket server = tls ? tls->accept(std::move(tcp.server)).value() : StreamSocket(std::move(tcp.server));
  auto store = PageStore::create(kStream.migration, kStream.epoch, 2 * bytes).value();
  PageReceiverOptions options;
  options.connect = [&](Purpose purpose) -> Result<Channel> {
    if (purpose != Purpose::bulk || !client) return fail("none");
    return Channel(std::move(client), kStream);
  };
  std::atomic<bool> arrived{false};
  options.on_round = [&](unsigned) {
    arrived = true;
    arrived.notify_all();
  };
  options.backoff_min = std::chrono::seconds(1);
  PageReceiver receiver(*store, std::move(options));
  {
    OnLastProcessor there;  // threads inherit it
    receiver.start();
  }
  Channel channel(std::move(server), kStream);
  sense::HashScan scan;
  PageEncoder encoder;
  encoder.set_peer(wire::kFeatures);
  PageSender sender(channel, {.encoder = &encoder});
  std::jthread reserving([&] {
    OnLastProcessor there;
    static_cast<void>(store->reserve(bytes));
  });
  std::this_thread::sleep_for(kPreparing);
  const Timestamp start = now();
  auto sent = sender.run_round(1, scan, target.processes);
  if (!sent) {
    fmt::print(stderr, "round: {}\n", sent.error().what);
    exit(1);
  }
  arrived.wait(false);
  const double took = seconds_since(start);
  reserving.join();
  receiver.stop();
  stats = encoder.stats();
  return static_cast<double>(sent->pages * kPageSize) / took;
}

// Bytes per second at which this machine hands out memory that nobody has used lately; afterwards it lies ready. On a
// virtual machine that gives free memory back to its host, that is the host's rate.
double take_memory(uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) abort();
  madvise(at, bytes, MADV_HUGEPAGE);
  const Timestamp start = now();
  if (madvise(at, bytes, MADV_POPULATE_WRITE) != 0) abort();
  const double rate = static_cast<double>(bytes) / seconds_since(start);
  munmap(at, bytes);
  return rate;
}

// A certificate of this run, by which both ends know each other.
class Identity {
 public:
  Identity() {
    const std::string directory = mkdtemp(directory_);
    const int64_t now_s = std::time(nullptr), ends = now_s + 86400;
    auto authority = Authority::create("bench", now_s - 60, ends).value();
    auto issued = authority.issue({"bench", {}, now_s - 60, ends}).value();
    const TlsFiles files{directory + "/node.crt", directory + "/node.key", directory + "/ca.crt"};
    write(files.certificate, issued.certificate);
    write(files.key, issued.key);
    write(files.authorities, authority.own_pem().value().certificate);
    tls = Tls::load(files).value();
  }
  ~Identity() { std::filesystem::remove_all(directory_); }
  Identity(const Identity&) = delete;
  Identity& operator=(const Identity&) = delete;

  std::shared_ptr<Tls> tls;

 private:
  static void write(const std::string& path, const std::string& text) {
    Fd file = open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600).value();
    if (!write_all(file.get(), text)) abort();
  }
  char directory_[32] = "/tmp/mose-bench-XXXXXX";
};

// The same first round plain and under TLS by turns.
int tls_throughput(uint64_t megabytes, unsigned repeats) {
  const uint64_t bytes = megabytes << 20;
  WrittenChild target(bytes);
  const Identity identity;
  StreamStats stats;
  static_cast<void>(precopy(target, bytes, stats));  // not counted, as below
  std::vector<double> plain_rates, tls_rates, ratios;
  for (unsigned i = 0; i < repeats; ++i) {
    plain_rates.push_back(precopy(target, bytes, stats));
    tls_rates.push_back(precopy(target, bytes, stats, identity.tls.get()));
    ratios.push_back(tls_rates.back() / plain_rates.back());
  }
  fmt::print("{{\"megabytes\":{},\"plain_mb_s\":{:.0f},\"tls_mb_s\":{:.0f},\"ratio_median\":{:.3f},\"ratio_min\":{:.3f},\"ratio_max\":{:.3f}}}\n", megabytes,
             median(plain_rates) / 1e6, median(tls_rates) / 1e6, median(ratios), *std::min_element(ratios.begin(), ratios.end()),
             *std::max_element(ratios.begin(), ratios.end()));
  return 0;
}

int throughput(uint64_t megabytes, unsigned repeats) {
  const uint64_t bytes = megabytes << 20;
  WrittenChild target(bytes);
  std::vector<double> ratios;
  std::string runs;
  // Memory that nobody has looked at yet is read more slowly, once: not counted.
  StreamStats first;
  static_cast<void>(precopy(target, bytes, first));
  for (unsigned i = 0; i < repeats; ++i) {
    StreamStats stats;
    const double one = plain(bytes);
    const double memory = take_memory(bytes);
    const double two = precopy(target, bytes, stats);
    ratios.push_back(two / one);
    runs += fmt::format(
        "{}{{\"plain_mb_s\":{:.0f},\"memory_mb_s\":{:.0f},\"precopy_mb_s\":{:.0f},\"ratio\":{:.3f},\"frames_raw\":{},"
        "\"frames_compressed\":{}}"
        "}",
        i == 0 ? "" : ",", one / 1e6, memory / 1e6, two / 1e6, two / one, stats.frames_raw,
        stats.frames_lz4 + stats.frames_zstd);
  }
  std::sort(ratios.begin(), ratios.end());
  fmt::print("{{\"megabytes\":{},\"ratio_median\":{:.3f},\"ratio_min\":{:.3f},\"runs\":[{}]}}\n", megabytes,
             ratios[ratios.size() / 2], ratios.front(), runs);
  return 0;
}

int cap(uint64_t bits, unsigned seconds) {
  TcpPair tcp;
  std::atomic<uint64_t> received{0};
  std::jthread receiving([&] {
    std::vector<char> to(kPlainBytes);
    for (ssize_t n; (n = recv(tcp.client.get(), to.data(), to.size(), 0)) > 0;) received += static_cast<uint64_t>(n);
  });
  Channel channel(std::move(tcp.server), kStream);
  Bandwidth bandwidth(bits);
  std::stop_source stop;
  std::jthread sending([&] {
    PageSender sender(channel, {.bandwidth = &bandwidth, .stop = stop.get_token()});
    std::vector<std::byte> bytes(256 * kPageSize, std::byte{1});
    const PageRun run{16, 256};
    const std::span<const std::byte> piece(bytes);
    while (sender.send_pages(1, {&run, 1}, {&piece, 1})) {
    }
  });
  std::string windows;
  double worst = 0;
  const double wanted = static_cast<double>(bits) / 8;
  for (unsigned i = 0; i < seconds; ++i) {
    const uint64_t before = received;
    const Timestamp start = now();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    const double off = static_cast<double>(received - before) / seconds_since(start) / wanted - 1;
    worst = std::max(worst, std::abs(off));
    windows += fmt::format("{}{:.4f}", i == 0 ? "" : ",", off);
  }
  stop.request_stop();
  sending.join();
  channel.shut_down();
  fmt::print("{{\"cap_bps\":{},\"error_worst\":{:.4f},\"errors\":[{}]}}\n", bits, worst, windows);
  return 0;
}

}  // namespace
}  // namespace mose

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (!args.empty() && args[0] == "--cap") {
    auto rate = mose::parse_bandwidth(args.size() > 1 ? args[1] : "200mbit");
    if (!rate) {
      fmt::print(stderr, "{}\n", rate.error().what);
      return 2;
    }
    return mose::cap(*rate, args.size() > 2 ? static_cast<unsigned>(std::stoul(args[2])) : 10);
  }
  const bool tls = !args.empty() && args[0] == "--tls";
  if (tls) args.erase(args.begin());
  return (tls ? mose::tls_throughput : mose::throughput)(!args.empty() ? std::stoul(args[0]) : 1024,
                                                         args.size() > 1 ? static_cast<unsigned>(std::stoul(args[1])) : 5);
}
