// SPDX-License-Identifier: MIT
// How fast pages are found, sent, received and served. Medians of several repetitions on a quiet machine count:
//   memory_bench --benchmark_repetitions=7 --benchmark_report_aggregates_only=true
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "bench.h"
#include "kernel/procfs.h"
#include "kernel/socket.h"
#include "move/page_receiver.h"
#include "move/page_sender.h"
#include "move/page_server.h"
#include "sense/hash_scan.h"

namespace mose {
namespace {

using namespace move;
const StreamId kStream{MigrationId{{1}}, 1};
constexpr uint64_t kMegabytes = 256;

test::WrittenChild& target() {
  static test::WrittenChild target(kMegabytes << 20, test::WrittenChild::Pages::small);
  return target;
}

struct NullSink : PageSink {
  Status send_pages(SpaceId, std::span<const PageRun>, std::span<const std::span<const std::byte>>) override { return {}; }
};

void first_round(benchmark::State& state) {
  for (auto _ : state) {
    sense::HashScan scan;
    NullSink sink;
    benchmark::DoNotOptimize(scan.round(target().processes, sink, {}));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * (kMegabytes << 20)));
}
BENCHMARK(first_round)->Unit(benchmark::kMillisecond)->UseRealTime();

void final_scan(benchmark::State& state) {
  sense::HashScan scan({.round_threads = 1, .final_threads = static_cast<unsigned>(state.range(0))});
  NullSink sink;
  static_cast<void>(scan.round(target().processes, sink, {}));
  for (auto _ : state) benchmark::DoNotOptimize(scan.final_scan(target().processes));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * (kMegabytes << 20)));
}
BENCHMARK(final_scan)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

struct TcpPair {
  TcpPair() {
    Fd listener = tcp_listen("127.0.0.1:0").value();
    static_cast<void>(set_blocking(listener.get(), true));
    client = tcp_connect(local_endpoint(listener.get()).value(), std::chrono::seconds(2)).value();
    server = tcp_accept(listener.get(), false).value().socket;
  }
  Fd client, server;
};

// Everything from the source's memory to the sealed store, over loopback.
void round_to_store(benchmark::State& state) {
  for (auto _ : state) {
    state.PauseTiming();
    TcpPair tcp;
    auto store = PageStore::create(kStream.migration, kStream.epoch, 1ull << 30).value();
    PageReceiverOptions options;
    options.connect = [&](Purpose purpose) -> Result<Channel> {
      if (purpose != Purpose::bulk || !tcp.client) return fail("none");
      return Channel(std::move(tcp.client), kStream);
    };
    std::atomic<bool> complete{false};
    options.on_complete = [&] { complete = true; complete.notify_all(); };
    options.backoff_min = std::chrono::seconds(1);
    PageReceiver receiver(*store, std::move(options));
    receiver.start();
    Channel channel(std::move(tcp.server), kStream);
    sense::HashScan scan;
    PageSender sender(channel, {});
    state.ResumeTiming();
    if (state.range(0) == 1) static_cast<void>(sender.run_round(1, scan, target().processes));
    auto final = scan.final_scan(target().processes).value();
    static_cast<void>(sender.send_map(final));
    static_cast<void>(sender.push(final, target().processes));
    complete.wait(false);
    state.PauseTiming();
    receiver.stop();
    store.reset();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * (kMegabytes << 20)));
}
BENCHMARK(round_to_store)->ArgName("precopy")->Arg(1)->Arg(0)->Unit(benchmark::kMillisecond)->UseRealTime();

// One urgent request and its answer, as the pager sees it.
void urgent_request(benchmark::State& state) {
  TcpPair tcp;
  Channel client(std::move(tcp.client), kStream), served(std::move(tcp.server), kStream);
  PageServer server(target().processes);
  std::jthread serving([&] { static_cast<void>(server.serve(served, {})); });
  uint64_t first = 0;
  const std::vector<Vma> vmas = read_vmas(target().processes[0].pid).value();
  for (const Vma& vma : vmas) {
    if (vma.lazy_eligible() && vma.pages.count > 10000) first = vma.pages.first;
  }
  const auto pages = static_cast<uint64_t>(state.range(0));
  for (auto _ : state) {
    static_cast<void>(client.send(wire::FrameType::request, encode_request({target().processes[0].space, {{first, pages}}})));
    auto frame = client.receive(std::chrono::seconds(1));
    if (!frame) state.SkipWithError(frame.error().what.c_str());
  }
  client.shut_down();
  state.SetBytesProcessed(static_cast<int64_t>(static_cast<uint64_t>(state.iterations()) * pages * kPageSize));
}
BENCHMARK(urgent_request)->Arg(1)->Arg(16)->Arg(512)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace mose

BENCHMARK_MAIN();
