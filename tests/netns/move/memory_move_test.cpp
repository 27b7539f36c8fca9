// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <thread>

#include "base/check.h"
#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "kernel/socket.h"
#include "move/page_receiver.h"
#include "move/page_sender.h"
#include "move/page_server.h"
#include "netns/move/nodes.h"
#include "netns/move/target.h"
#include "sense/hash_scan.h"

namespace mose {
namespace {

using namespace move;
using test::DestinationNode;
using test::kStream;
using test::kToken;
using test::SourceNode;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Target;

std::vector<SpaceProcess> spaces_of(const Target& target) {
  std::vector<SpaceProcess> processes;
  for (pid_t pid : target.tree()) {
    if (auto process = space_of(pid)) processes.push_back(*process);
  }
  return processes;
}

// Every page of every lazy-eligible region of the frozen process, read independently of the code under test (through
// /proc/PID/mem, without the page map), against what the destination would install.
uint64_t count_wrong_pages(const SpaceProcess& process, const PageProvider& pages) {
  Fd mem = open_file("/proc/" + std::to_string(process.pid) + "/mem", O_RDONLY).value();
  static const std::vector<std::byte> kZeros(kPageSize);
  std::vector<std::byte> actual(kPageSize);
  uint64_t wrong = 0;
  const std::vector<Vma> vmas = read_vmas(process.pid).value();
  // The sanitizers reserve terabytes that are not worth a look page by page.
  constexpr uint64_t kLookedAtMax = 1 << 20;
  uint64_t looked_at = 0;
  for (const Vma& vma : vmas) {
    if (!vma.lazy_eligible() || vma.pages.count > kLookedAtMax) continue;
    for (uint64_t page = vma.pages.first; page < vma.pages.end(); ++page) {
      if (pread(mem.get(), actual.data(), kPageSize, static_cast<off_t>(page * kPageSize)) != static_cast<ssize_t>(kPageSize)) continue;
      ++looked_at;
      const std::byte* installed = nullptr;
      auto place = pages.place(process.space, page, 1).place;
      if (place == PagePlace::zero) installed = kZeros.data();
      if (place == PagePlace::local) installed = pages.contents(process.space, page, 1).data();
      if (installed == nullptr || memcmp(installed, actual.data(), kPageSize) != 0) ++wrong;
    }
  }
  EXPECT_GT(looked_at, 100u);
  return wrong;
}

struct Moved {
  std::vector<SendStats> rounds;
  FinalPages final;
  std::vector<SpaceProcess> processes;
};

// Rounds while the target runs, freeze, final scan, page map. The remote pages are not pushed yet.
Moved move_until_sealed(const Target& target, unsigned rounds, DirtySource& scan, PageSender& sender, SourceNode& source) {
  Moved moved;
  for (unsigned round = 1; round <= rounds; ++round) {
    auto stats = sender.run_round(round, scan, spaces_of(target));
    EXPECT_TRUE(stats) << stats.error().what;
    if (stats) moved.rounds.push_back(*stats);
    usleep(30000);
  }
  target.freeze();
  moved.processes = spaces_of(target);
  auto final = scan.final_scan(moved.processes);
  EXPECT_TRUE(final) << final.error().what;
  if (final) moved.final = std::move(*final);
  EXPECT_TRUE(sender.send_map(moved.final));
  source.serve(moved.processes);
  return moved;
}

TEST(MemoryMove, ABusyWriterOf256MiBArrivesBitExact) {
  Target target([](const auto& ready) { test::write_for_ever(256, ready); });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  PageSender sender(source.bulk(), {.gate = &source.gate});
  Moved moved = move_until_sealed(target, 3, scan, sender, source);
  auto pushed = sender.push(moved.final, moved.processes);
  ASSERT_TRUE(pushed) << pushed.error().what;
  ASSERT_TRUE(destination.wait_complete()) << destination.failure;
  EXPECT_EQ(moved.rounds.size(), 3u);
  EXPECT_GT(moved.rounds[0].pages, 65536u);
  EXPECT_GT(pushed->pages, 0u);
  EXPECT_LT(pushed->pages, moved.final.stats.pages_present);
  EXPECT_EQ(count_wrong_pages(moved.processes.front(), *destination.receiver), 0u);
  RecordProperty("final_scan_us", static_cast<int>(moved.final.stats.duration.count() / 1000));
}

TEST(MemoryMove, PurePostCopyOnRequestsAlone) {
  Target target([](const auto& ready) { test::write_for_ever(64, ready); });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  PageSender sender(source.bulk(), {});
  Moved moved = move_until_sealed(target, 0, scan, sender, source);
  source.cut();  // right after the map
  ASSERT_TRUE(destination.wait_complete()) << destination.failure;
  EXPECT_EQ(count_wrong_pages(moved.processes.front(), *destination.receiver), 0u);
  EXPECT_GE(source.served().pages, 64u * 256);
}

TEST(MemoryMove, ALinkThatIsCutDuringThePushIsMadeGood) {
  Target target([](const auto& ready) { test::write_for_ever(128, ready); });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  uint64_t pushed_pages = 0;
  PageSenderOptions options;
  options.progress = [&](uint64_t pages, uint64_t) {
    pushed_pages = pages;
    if (pages > 10000) source.cut();
  };
  PageSender sender(source.bulk(), options);
  Moved moved = move_until_sealed(target, 0, scan, sender, source);
  EXPECT_FALSE(sender.push(moved.final, moved.processes));
  ASSERT_TRUE(destination.wait_complete()) << destination.failure;
  for (const SpaceProcess& process : moved.processes) EXPECT_EQ(count_wrong_pages(process, *destination.receiver), 0u);
  EXPECT_LT(pushed_pages, 20000u);
}

TEST(MemoryMove, UrgentRequestsOvertakeAThrottledPush) {
  Target target([](const auto& ready) { test::write_for_ever(64, ready); });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  std::stop_source stop;
  PageSenderOptions options;
  Bandwidth bandwidth(8'000'000);  // the push would take a minute
  options.bandwidth = &bandwidth;
  options.stop = stop.get_token();
  options.gate = &source.gate;
  PageSender sender(source.bulk(), options);
  Moved moved = move_until_sealed(target, 0, scan, sender, source);
  std::jthread pushing([&] { static_cast<void>(sender.push(moved.final, moved.processes)); });
  SpaceId space = moved.processes.front().space;
  while (!destination.receiver->sealed()) usleep(1000);
  uint64_t last = destination.receiver->present(space).runs().back().first;
  for (int i = 0; i < 200; ++i) {
    const PageSet& present = destination.receiver->present(space);
    uint64_t page = present.runs()[static_cast<size_t>(i) % present.runs().size()].first;
    destination.receiver->request(space, {page, 1});
  }
  destination.receiver->request(space, {last, 1});
  while (destination.receiver->place(space, last, 1).place != PagePlace::local) usleep(100);
  EXPECT_GT(destination.store->missing_pages(), 1000u);
  // Noted by the sender after its bytes have left.
  while (source.gate.unanswered(space, {last, 1}) != PageSet{}) usleep(100);
  stop.request_stop();
  pushing.join();
  source.cut();
  ASSERT_TRUE(destination.wait_complete());
  EXPECT_EQ(count_wrong_pages(moved.processes.front(), *destination.receiver), 0u);
}

// What goes through a slow link compressed arrives as it was, in rounds and in the push.
TEST(MemoryMove, PagesThatTravelCompressedArriveAsTheyWere) {
  Target target([](const auto& ready) {
    std::vector<uint64_t> numbers(8u << 20);
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = i / 64;
    ready();
    for (test::Random random{1};; usleep(100)) {
      for (int i = 0; i < 100; ++i) numbers[random() % numbers.size()] = random() % 1000;
    }
  });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  Bandwidth bandwidth(200'000'000);
  PageEncoder encoder(&bandwidth);
  encoder.set_peer(wire::kFeatures);
  PageSender sender(source.bulk(), {.bandwidth = &bandwidth, .encoder = &encoder});
  Moved moved = move_until_sealed(target, 1, scan, sender, source);
  ASSERT_TRUE(sender.push(moved.final, moved.processes));
  ASSERT_TRUE(destination.wait_complete()) << destination.failure;
  for (const SpaceProcess& process : moved.processes) EXPECT_EQ(count_wrong_pages(process, *destination.receiver), 0u);
  const StreamStats stats = encoder.stats();
  EXPECT_GT(stats.frames_lz4 + stats.frames_zstd, 0u);
  EXPECT_LT(stats.wire, stats.contents);
}

// The first child ends between rounds, a new one appears, the parent unmaps and maps again.
TEST(MemoryMove, ProcessesThatComeAndGoBetweenRounds) {
  Target target([](const auto& ready) {
    auto child = [](uint64_t seed, int lifetime_ms) {
      if (fork() != 0) return;
      std::vector<uint64_t> numbers(400000);
      test::Random random{seed};
      for (int i = 0; lifetime_ms == 0 || i < lifetime_ms; ++i) {
        for (int n = 0; n < 1000; ++n) numbers[random() % numbers.size()] = random();
        usleep(1000);
      }
      _exit(0);
    };
    child(1, 40);
    child(2, 0);
    ready();
    for (uint64_t turn = 0;; ++turn) {
      void* at = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      memset(at, static_cast<int>(turn), 1 << 20);
      usleep(3000);
      if (turn % 3 != 0) munmap(at, 1 << 20);
      if (turn == 25) child(turn, 0);
      if (turn > 100) usleep(1000000);
    }
  });
  SourceNode source;
  DestinationNode destination(source.endpoint());
  sense::HashScan scan;
  PageSender sender(source.bulk(), {});
  Moved moved = move_until_sealed(target, 5, scan, sender, source);
  ASSERT_TRUE(sender.push(moved.final, moved.processes));
  ASSERT_TRUE(destination.wait_complete()) << destination.failure;
  EXPECT_GE(moved.processes.size(), 3u);
  for (const SpaceProcess& process : moved.processes) {
    if (is_zombie(process.pid)) continue;
    EXPECT_EQ(count_wrong_pages(process, *destination.receiver), 0u) << process.space;
  }
}

// What stays behind goes out once each: stacks first, then the sets of hot pages as given, then the rest.
TEST(MemoryMove, ThePushSendsHotPagesBeforeTheRest) {
  constexpr uint64_t kPages = 1200;
  auto* at = mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uint64_t first = reinterpret_cast<uintptr_t>(at) >> kPageShift;
  memset(at, 1, kPages * kPageSize);
  auto set = [&](std::initializer_list<PageRun> runs) {
    PageSet out;
    for (PageRun run : runs) out.add({first + run.first, run.count});
    return out;
  };
  SpacePages pages{.space = 7, .present = set({{0, kPages}}), .remote = set({{0, kPages}}), .first = set({{3, 1}})};
  // Page 3 has gone already, page 2000 is not part of the map.
  pages.hot = {set({{900, 2}, {1000, 4}}), set({{3, 3}, {2000, 1}})};
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Channel near(Fd{ends[0]}, kStream), far(Fd{ends[1]}, kStream);
  std::vector<uint64_t> order;
  std::jthread reading([&] {
    for (;;) {
      auto frame = far.receive(seconds(10));
      if (!frame || frame->type != wire::FrameType::pages) return;
      wire::PagesHeader header;
      memcpy(&header, frame->payload.data(), sizeof header);
      for (uint32_t i = 0; i < header.runs; ++i) {
        wire::Run run;
        memcpy(&run, frame->payload.data() + sizeof header + i * sizeof run, sizeof run);
        for (uint64_t page = 0; page < run.count; ++page) order.push_back(run.first + page - first);
      }
    }
  });
  PageSender sender(near, {});
  std::vector<SpaceProcess> processes{{.space = 7, .pid = getpid()}};
  auto pushed = sender.push({.spaces = {pages}, .stats = {}}, processes);
  ASSERT_TRUE(pushed) << pushed.error().what;
  reading.join();
  std::vector<uint64_t> expected{3, 900, 901, 1000, 1001, 1002, 1003, 4, 5};
  for (uint64_t page = 0; page < kPages; ++page) {
    if (std::find(expected.begin(), expected.begin() + 9, page) == expected.begin() + 9) expected.push_back(page);
  }
  EXPECT_EQ(order, expected);
  munmap(at, kPages * kPageSize);
}

TEST(MemoryMove, AStrangerIsTurnedAway) {
  SourceNode source;
  Hello hello = local_hello("b", Purpose::unspecified);
  hello.token = "guessed";
  auto channel = connect_to_source(source.endpoint(), kStream, hello, seconds(2))(Purpose::urgent);
  ASSERT_FALSE(channel);
  EXPECT_NE(channel.error().what.find("unknown token"), std::string::npos) << channel.error().what;
}

}  // namespace
}  // namespace mose
