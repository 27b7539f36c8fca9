// SPDX-License-Identifier: MIT
// What a thread waits for a page that is still at the source, against the bare round trip of a fault: a handler that does
// nothing but copy a page that it has. Both ends over loopback; both in one run. Prints a table; asserts nothing.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <thread>
#include <vector>

#include "kernel/procfs.h"
#include "kernel/urgently.h"
#include "kernel/userfaultfd.h"
#include "move/page_sender.h"
#include "netns/move/nodes.h"
#include "netns/move/target.h"
#include "netns/pager/harness.h"
#include "sense/hash_scan.h"

namespace mose::test {
namespace {

constexpr uint64_t kPages = 16384;  // 64 MiB
constexpr size_t kTouches = 2000;
constexpr int kRounds = 5;

using Times = std::array<uint32_t, kTouches>;  // ns

// Each page once, in an order that no fault-around foresees.
void touch(std::byte* at, Times& times) {
  uint64_t page = 1;
  for (uint32_t& time : times) {
    page = (page + 7919) % kPages;
    const Timestamp start = now();
    (void)*reinterpret_cast<volatile char*>(at + page * kPageSize);
    time = static_cast<uint32_t>((now() - start).count());
  }
}

double percentile_us(const Times& times, double part) {
  std::vector<uint32_t> faults;
  constexpr uint32_t kFault = 2000;  // ns; what takes less was there
  std::ranges::copy_if(times, std::back_inserter(faults), [](uint32_t time) { return time > kFault; });
  if (faults.empty()) return 0;
  std::ranges::sort(faults);
  return faults[static_cast<size_t>(static_cast<double>(faults.size() - 1) * part)] / 1000.0;
}

Times bare_round_trips() {
  Times times{};
  void* at = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Fd uffd = uffd_open().value();
  EXPECT_TRUE(uffd_register(uffd.get(), {reinterpret_cast<uint64_t>(at) / kPageSize, kPages}));
  std::jthread handler([&](const std::stop_token& stop) {
    const Urgently urgently;
    std::vector<std::byte> page(kPageSize, std::byte{7});
    UffdMessage message;
    while (!stop.stop_requested()) {
      pollfd ready{uffd.get(), POLLIN, 0};
      if (::poll(&ready, 1, 20) <= 0) continue;
      while (uffd_read(uffd.get(), message).value_or(false)) (void)uffd_copy(uffd.get(), decode(message).page, page);
    }
  });
  touch(static_cast<std::byte*>(at), times);
  handler.request_stop();
  handler.join();
  uffd.reset();  // nobody reads its events any more
  ::munmap(at, kPages * kPageSize);
  return times;
}

Times remote_faults(bool pushed) {
  auto* times = static_cast<Times*>(::mmap(nullptr, sizeof(Times), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  // Its memory lies where the toy's does.
  Target target([](const auto& ready) {
    void* at = ::mmap(toy_page(0), kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (uint64_t i = 0; i < kPages; ++i) static_cast<uint64_t*>(at)[i * kPageSize / 8] = i + 1;
    ready();
    for (;;) ::pause();
  });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  PageSender sender(source.bulk(), {.gate = &source.gate});
  target.freeze();
  const std::vector<SpaceProcess> processes{space_of(target.pid()).value()};
  sense::HashScan scan;
  const FinalPages final = scan.final_scan(processes).value();
  EXPECT_TRUE(sender.send_map(final));
  source.serve(processes);
  EXPECT_TRUE(eventually([&] { return destination.receiver->sealed(); }));
  PagerRig rig(*destination.receiver);
  Toy toy(rig.criu(), static_cast<int32_t>(processes[0].space), kPages, [times] {
    touch(toy_page(0), *times);
    return 0;
  });
  rig.run(toy);
  std::jthread pusher([&] {
    if (!pushed) return;
    EXPECT_TRUE(sender.push(final, processes));
  });
  EXPECT_EQ(toy.wait(), 0);
  pusher.join();
  Times out = *times;
  ::munmap(times, sizeof(Times));
  return out;
}

TEST(RemoteFaultBench, AgainstTheBareRoundTrip) {
  require_userfaultfd();
  std::vector<double> bare, remote, ratios;
  for (int round = 0; round < kRounds; ++round) {
    const Times one = bare_round_trips(), other = remote_faults(false), busy = remote_faults(true);
    bare.push_back(percentile_us(one, 0.5));
    remote.push_back(percentile_us(other, 0.5));
    ratios.push_back(remote.back() / bare.back());
    std::printf("bare p50 %.1f us, p99 %.1f; remote p50 %.1f, p99 %.1f (%.2f); while the rest is pushed p50 %.1f, p99 %.1f\n",
                bare.back(), percentile_us(one, 0.99), remote.back(), percentile_us(other, 0.99), ratios.back(),
                percentile_us(busy, 0.5), percentile_us(busy, 0.99));
  }
  for (auto* list : {&bare, &remote, &ratios}) std::ranges::sort(*list);
  std::printf("medians of %d: bare %.1f us, remote %.1f us, ratio %.2f\n", kRounds, bare[kRounds / 2], remote[kRounds / 2],
              ratios[kRounds / 2]);
}

}  // namespace
}  // namespace mose::test
