// SPDX-License-Identifier: MIT
#include "move/page_receiver.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <set>

#include "kernel/procfs.h"
#include "move/page_sender.h"
#include "move/page_server.h"
#include "stream.h"

namespace mose::move {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The source's side of every connection that the receiver makes; tests take them in order of their purpose.
class FakeSource {
 public:
  Connector connector() {
    return [this](Purpose purpose) -> Result<Channel> {
      std::lock_guard lock(mutex_);
      if (refuse_) return fail_errno("connect", ECONNREFUSED);
      int fds[2];
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return fail_errno("socketpair");
      waiting_[purpose].push_back(std::make_unique<Channel>(Fd(fds[0]), kStream, seconds(5)));
      changed_.notify_all();
      return Channel(Fd(fds[1]), kStream, seconds(5));
    };
  }
  std::unique_ptr<Channel> take(Purpose purpose) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, seconds(10), [&] { return !waiting_[purpose].empty(); }));
    if (waiting_[purpose].empty()) return std::make_unique<Channel>();
    auto channel = std::move(waiting_[purpose].front());
    waiting_[purpose].erase(waiting_[purpose].begin());
    return channel;
  }
  void refuse(bool on) {
    std::lock_guard lock(mutex_);
    refuse_ = on;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Purpose, std::vector<std::unique_ptr<Channel>>> waiting_;
  bool refuse_ = false;
};

class Receiver : public testing::Test {
 protected:
  void SetUp() override { make(PageStore::create(kStream.migration, kStream.epoch, 256u << 20)); }
  void TearDown() override {
    if (receiver_) receiver_->stop();
  }
  void make(Result<std::unique_ptr<PageStore>> store) {
    ASSERT_TRUE(store);
    receiver_.reset();
    store_ = std::move(*store);
    PageReceiverOptions options;
    options.connect = source_.connector();
    options.on_failure = [this](Error error) { failure_.set_value(error.what); };
    options.on_sealed = [this] { sealed_.set_value(); };
    options.on_complete = [this] { complete_.set_value(); };
    options.on_trouble = [this](const Error&) { ++troubles_; };
    options.backoff_min = milliseconds(1);
    receiver_ = std::make_unique<PageReceiver>(*store_, std::move(options));
    receiver_->on_local([this](SpaceId, PageRun run) {
      std::lock_guard lock(local_mutex_);
      local_.add(run);
    });
  }
  static bool wait(auto& promise) { return promise.get_future().wait_for(seconds(10)) == std::future_status::ready; }

  static void send_pages(Channel& channel, std::vector<PageRun> runs, int value, unsigned round = 1,
                         SpaceId space = kSpace) {
    std::vector<std::byte> bytes(count_pages(runs) * kPageSize, static_cast<std::byte>(value));
    wire::PagesHeader header{};
    header.space = space;
    header.page_shift = kPageShift;
    header.runs = static_cast<uint32_t>(runs.size());
    header.pages = static_cast<uint32_t>(count_pages(runs));
    header.round = round;
    auto wire_runs = to_wire(runs);
    std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)), std::as_bytes(std::span(wire_runs)), bytes};
    static_cast<void>(channel.send(wire::FrameType::pages, parts));
  }
  static void send_map(Channel& channel, std::vector<PageRun> present, std::vector<PageRun> remote) {
    std::vector<SpacePages> spaces{{kSpace, PageSet::from_runs(std::move(present)), PageSet::from_runs(std::move(remote)), {}}};
    ASSERT_TRUE(channel.send(wire::FrameType::page_map, *encode_page_map(spaces)));
  }
  // Answers requests with pages of `value` until the connection ends or `requests_max` were answered.
  void answer(Channel& channel, int value, int requests_max = 1 << 30) {
    for (int i = 0; i < requests_max; ++i) {
      auto frame = channel.receive(seconds(5));
      if (!frame || frame->type != wire::FrameType::request) return;
      auto request = decode_request(frame->payload);
      ASSERT_TRUE(request);
      {
        std::lock_guard lock(local_mutex_);
        asked_.insert(asked_.end(), request->runs.begin(), request->runs.end());
      }
      send_pages(channel, request->runs, value, 0, request->space);
    }
  }
  int value_at(uint64_t page) {
    auto bytes = receiver_->contents(kSpace, page, 1);
    return bytes.empty() ? -1 : static_cast<int>(bytes[0]);
  }
  bool becomes(auto condition) {
    for (int i = 0; i < 10000; ++i) {
      if (condition()) return true;
      usleep(1000);
    }
    return false;
  }

  FakeSource source_;
  std::unique_ptr<PageStore> store_;
  std::unique_ptr<PageReceiver> receiver_;
  std::promise<std::string> failure_;
  std::promise<void> sealed_, complete_;
  std::atomic<int> troubles_{0};
  std::mutex local_mutex_;
  PageSet local_;
  std::vector<PageRun> asked_;
};

TEST_F(Receiver, TakesRoundsMapAndPush) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  send_pages(*bulk, {{100, 300}, {600, 1}}, 1);
  wire::RoundEnd end{1, 0, 301};
  ASSERT_TRUE(bulk->send(wire::FrameType::round_end, std::as_bytes(std::span(&end, 1))));
  send_pages(*bulk, {{101, 1}}, 2, 2);
  send_map(*bulk, {{100, 300}, {600, 1}}, {{600, 1}});
  ASSERT_TRUE(wait(sealed_));
  EXPECT_EQ(receiver_->place(kSpace, 600, 1).place, PagePlace::remote);
  send_pages(*bulk, {{600, 1}}, 3, 0);
  ASSERT_TRUE(bulk->send(wire::FrameType::bulk_end, std::span<const std::byte>{}));
  ASSERT_TRUE(wait(complete_));
  EXPECT_EQ(value_at(100), 1);
  EXPECT_EQ(value_at(101), 2);
  EXPECT_EQ(value_at(600), 3);
  EXPECT_EQ(receiver_->stats().rounds, 1u);
  EXPECT_EQ(receiver_->stats().pages, 303u);
  EXPECT_EQ(local_, PageSet::from_runs({{600, 1}}));
  EXPECT_EQ(troubles_, 0);
}

TEST_F(Receiver, KnowsWhatTheSourceCalledHotLast) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  send_pages(*bulk, {{100, 10}}, 1);
  PageSender sender(*bulk, {});
  const std::vector<PageSet> levels{PageSet::from_runs({{101, 2}}), PageSet::from_runs({{105, 1}, {9000, 1}})};
  ASSERT_TRUE(sender.send_heat(std::vector<SpaceHeat>{{kSpace, {PageSet::from_runs({{100, 1}})}}, {6, levels}}, 100));
  ASSERT_TRUE(sender.send_heat(std::vector<SpaceHeat>{{kSpace, levels}}, 100));
  ASSERT_TRUE(sender.send_heat({}, 100));
  ASSERT_TRUE(sender.send_heat(std::vector<SpaceHeat>{{kSpace, {levels[1]}}}, 0));
  send_map(*bulk, {{100, 10}}, {});
  ASSERT_TRUE(wait(sealed_));
  EXPECT_EQ(receiver_->hot(kSpace), levels) << "nothing was sent where there was nothing, or no room, for it";
  EXPECT_TRUE(receiver_->hot(6).empty()) << "the last one counts as a whole";
}

TEST_F(Receiver, HeatAfterTheMapEndsTheStream) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  send_pages(*bulk, {{100, 2}}, 1);
  send_map(*bulk, {{100, 2}}, {{101, 1}});
  ASSERT_TRUE(wait(sealed_));
  PageSender sender(*bulk, {});
  ASSERT_TRUE(sender.send_heat(std::vector<SpaceHeat>{{kSpace, {PageSet::from_runs({{100, 1}})}}}, 100));
  EXPECT_TRUE(becomes([&] { return troubles_ > 0; }));
  EXPECT_TRUE(receiver_->hot(kSpace).empty());
}

TEST_F(Receiver, NothingRemoteIsCompleteAtOnce) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  send_pages(*bulk, {{1, 1}}, 1);
  send_map(*bulk, {{1, 1}}, {});
  EXPECT_TRUE(wait(complete_));
}

TEST_F(Receiver, AnUrgentRequestIsAnsweredOnItsOwnConnection) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  auto urgent = source_.take(Purpose::urgent);
  std::jthread answering([&] { answer(*urgent, 9); });
  send_map(*bulk, {{100, 1000}}, {{100, 1000}});
  ASSERT_TRUE(wait(sealed_));
  receiver_->request(kSpace, {150, 16});
  receiver_->request(kSpace, {150, 16});  // harmless
  ASSERT_TRUE(becomes([&] { return receiver_->place(kSpace, 150, 16).place == PagePlace::local; }));
  EXPECT_EQ(receiver_->place(kSpace, 150, 16).count, 16u);
  EXPECT_EQ(value_at(150), 9);
  receiver_->stop();  // which waits for a listener that is being told
  std::lock_guard lock(local_mutex_);
  EXPECT_EQ(asked_, (std::vector<PageRun>{{150, 16}}));
  EXPECT_EQ(local_, PageSet::from_runs({{150, 16}}));
}

TEST_F(Receiver, NothingIsAskedBeforeTheMapIsIn) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  auto urgent = source_.take(Purpose::urgent);
  receiver_->request(kSpace, {150, 1});
  EXPECT_EQ(urgent->receive(milliseconds(100)).error().code, ETIMEDOUT);
  send_map(*bulk, {{150, 1}}, {{150, 1}});
  answer(*urgent, 4, 1);
  EXPECT_TRUE(wait(complete_));
  EXPECT_EQ(value_at(150), 4);
}

TEST_F(Receiver, ALossBeforeTheMapIsAFailure) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  send_pages(*bulk, {{1, 1}}, 1);
  bulk.reset();
  EXPECT_FALSE(failure_.get_future().get().empty());
}

TEST_F(Receiver, ALossAfterTheMapIsMadeGoodByRequests) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  auto urgent = source_.take(Purpose::urgent);
  send_map(*bulk, {{100, 5000}}, {{100, 5000}});
  ASSERT_TRUE(wait(sealed_));
  send_pages(*bulk, {{100, 512}}, 1, 0);
  ASSERT_TRUE(becomes([&] { return store_->missing_pages() == 5000 - 512; }));
  // Everything is cut, and for a while nothing can be reached.
  source_.refuse(true);
  bulk.reset();
  urgent.reset();
  ASSERT_TRUE(becomes([&] { return troubles_ > 4; }));
  receiver_->request(kSpace, {5000, 1});
  source_.refuse(false);
  auto first = source_.take(Purpose::urgent);
  auto second = source_.take(Purpose::urgent);
  std::jthread a([&] { answer(*first, 2); });
  std::jthread b([&] { answer(*second, 2); });
  EXPECT_TRUE(wait(complete_));
  EXPECT_EQ(value_at(100), 1);
  for (uint64_t page = 612; page < 5100; ++page) ASSERT_EQ(value_at(page), 2) << page;
  receiver_->stop();
}

TEST_F(Receiver, AnAdoptedStoreAsksForWhatIsMissing) {
  {
    receiver_->start();
    auto bulk = source_.take(Purpose::bulk);
    auto urgent = source_.take(Purpose::urgent);
    send_pages(*bulk, {{100, 10}}, 1);
    send_map(*bulk, {{100, 20}}, {{110, 10}});
    ASSERT_TRUE(wait(sealed_));
    receiver_->stop();
  }
  auto [data, index, map] = store_->fds();
  make(PageStore::adopt({Fd(dup(data)), Fd(dup(index)), Fd(dup(map))}, kStream.migration, kStream.epoch));
  receiver_->start();
  auto first = source_.take(Purpose::urgent);
  auto second = source_.take(Purpose::urgent);
  std::jthread a([&] { answer(*first, 2); });
  std::jthread b([&] { answer(*second, 2); });
  EXPECT_TRUE(wait(complete_));
  EXPECT_EQ(value_at(105), 1);
  EXPECT_EQ(value_at(115), 2);
  receiver_->stop();
}

TEST_F(Receiver, StopsWhileItWaits) {
  source_.refuse(true);
  receiver_->start();
  EXPECT_FALSE(failure_.get_future().get().empty());
  receiver_->stop();
}

// What a hostile source can do before the map: each ends the stream as a failure, none crashes.
class HostileBulk : public Receiver, public testing::WithParamInterface<int> {};

TEST_P(HostileBulk, IsAFailure) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  wire::PagesHeader header{};
  header.space = kSpace;
  header.page_shift = kPageShift;
  header.runs = 1;
  header.pages = 1;
  std::vector<wire::Run> runs{{100, 1, 0}};
  std::vector<std::byte> bytes(kPageSize);
  auto send = [&](wire::FrameType type) {
    std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)), std::as_bytes(std::span(runs)), bytes};
    static_cast<void>(bulk->send(type, parts));
  };
  switch (GetParam()) {
    case 0: header.runs = 2; send(wire::FrameType::pages); break;
    case 1: header.pages = 2; send(wire::FrameType::pages); break;
    case 2: runs[0].first = UINT64_MAX; send(wire::FrameType::pages); break;
    case 3: runs[0].count = 0; send(wire::FrameType::pages); break;
    case 4: header.codec = 1; bytes.clear(); send(wire::FrameType::pages); break;
    case 5: static_cast<void>(bulk->send(wire::FrameType::pages, as_bytes("x"))); break;
    case 6: static_cast<void>(bulk->send(wire::FrameType::commit, as_bytes("x"))); break;
    case 7: static_cast<void>(bulk->send(wire::FrameType::page_map, as_bytes("garbage"))); break;
    case 8: static_cast<void>(bulk->send(wire::FrameType::bulk_end, std::span<const std::byte>{})); break;
    case 9: send_map(*bulk, {{1, 1}}, {}); break;  // a page that was never sent
    case 10: {
      auto frame = encode_frame(wire::FrameType::bulk_end, {kStream.migration, 99}, {});
      ASSERT_GT(::send(bulk->fd(), frame.data(), frame.size(), 0), 0);
      break;
    }
    case 11: static_cast<void>(bulk->send(wire::FrameType::heat, as_bytes("garbage"))); break;
    default: {  // contents that do not match the checksum
      std::vector<std::byte> payload;
      auto add = [&](std::span<const std::byte> part) { payload.insert(payload.end(), part.begin(), part.end()); };
      add(std::as_bytes(std::span(&header, 1)));
      add(std::as_bytes(std::span(runs)));
      add(bytes);
      auto frame = encode_frame(wire::FrameType::pages, kStream, payload);
      frame.back() ^= std::byte{1};
      ASSERT_GT(::send(bulk->fd(), frame.data(), frame.size(), 0), 0);
    }
  }
  auto failure = failure_.get_future();
  ASSERT_EQ(failure.wait_for(seconds(10)), std::future_status::ready);
  EXPECT_FALSE(failure.get().empty());
}
INSTANTIATE_TEST_SUITE_P(All, HostileBulk, testing::Range(0, 13));

// Answers that were not asked for end the urgent connection, nothing else.
TEST_F(Receiver, PagesNobodyAskedForEndTheUrgentConnection) {
  receiver_->start();
  auto bulk = source_.take(Purpose::bulk);
  auto urgent = source_.take(Purpose::urgent);
  send_map(*bulk, {{100, 10}}, {{100, 10}});
  ASSERT_TRUE(wait(sealed_));
  send_pages(*urgent, {{100, 1}}, 1, 0);
  auto again = source_.take(Purpose::urgent);
  std::jthread answering([&] { answer(*again, 2); });
  receiver_->request(kSpace, {105, 1});
  EXPECT_TRUE(becomes([&] { return value_at(105) == 2; }));
  receiver_->stop();
}

// The real server, on our own memory.
TEST(Server, AnswersWithContentsAndWithZeroWhereNothingIs) {
  constexpr uint64_t kPages = 8;
  auto* at = static_cast<std::byte*>(mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(at, kPages * kPageSize, MADV_NOHUGEPAGE);
  memset(at + kPageSize, 7, kPageSize);
  memset(at + 4 * kPageSize, 8, 2 * kPageSize);
  uint64_t first = reinterpret_cast<uint64_t>(at) / kPageSize;
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  Channel mine(Fd{fds[0]}, kStream), theirs(Fd{fds[1]}, kStream);
  UrgentGate gate;
  PageServer server({{kSpace, getpid(), 0}}, &gate);
  Status served = fail("not yet");
  std::jthread serving([&] { served = server.serve(theirs, {}); });

  ASSERT_TRUE(mine.send(wire::FrameType::request, encode_request({kSpace, {{first, kPages}}})));
  auto contents = mine.receive(seconds(5));
  auto zeros = mine.receive(seconds(5));
  ASSERT_TRUE(contents && zeros);
  wire::PagesHeader header;
  memcpy(&header, contents->payload.data(), sizeof(header));
  EXPECT_EQ(header.pages, 3u);
  EXPECT_EQ(header.runs, 2u);
  EXPECT_EQ(contents->payload.back(), std::byte{8});
  memcpy(&header, zeros->payload.data(), sizeof(header));
  EXPECT_EQ(header.pages, 5u);
  EXPECT_EQ(header.codec, static_cast<uint8_t>(wire::Codec::zero));

  ASSERT_TRUE(mine.send(wire::FrameType::request, encode_request({77, {{1, 1}}})));
  auto error = mine.receive(seconds(5));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->type, wire::FrameType::error);
  serving.join();
  EXPECT_FALSE(served);
  EXPECT_EQ(server.stats().pages, 8u);
  munmap(at, kPages * kPageSize);
}

// A process that dies while it is served has no pages any more, and its number stays until it is reaped. What it had is lost,
// and must not arrive as zeros.
TEST(Server, ADeadProcessHasNoZeroPages) {
  constexpr uint64_t kPages = 4;
  auto* at = static_cast<std::byte*>(mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memset(at, 7, kPages * kPageSize);
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPageSize;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    memset(at, 8, kPages * kPageSize);
    for (;;) pause();
  }
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  Channel mine(Fd{fds[0]}, kStream), theirs(Fd{fds[1]}, kStream);
  PageServer server({{kSpace, child, process_start_time(child).value_or(0)}});
  Status served;
  std::jthread serving([&] { served = server.serve(theirs, {}); });

  ASSERT_TRUE(mine.send(wire::FrameType::request, encode_request({kSpace, {{first, 1}}})));
  auto contents = mine.receive(seconds(5));
  ASSERT_TRUE(contents);
  EXPECT_EQ(contents->type, wire::FrameType::pages);
  ASSERT_EQ(kill(child, SIGKILL), 0);
  siginfo_t ended{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  ASSERT_TRUE(mine.send(wire::FrameType::request, encode_request({kSpace, {{first + 1, 2}}})));
  auto lost = mine.receive(seconds(5));
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->type, wire::FrameType::error);
  serving.join();
  EXPECT_FALSE(served);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  munmap(at, kPages * kPageSize);
}

TEST(Sender, IsHeldToItsBandwidthAndItsStop) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  Channel mine(Fd{fds[0]}, kStream), theirs(Fd{fds[1]}, kStream);
  std::stop_source stop;
  Bandwidth bandwidth(8 * 1000);  // a page takes four seconds
  PageSender sender(mine, {.bandwidth = &bandwidth, .stop = stop.get_token()});
  std::vector<std::byte> page(kPageSize);
  std::vector<PageRun> runs{{1, 1}};
  std::vector<std::span<const std::byte>> pieces{page};
  std::jthread stopper([&] {
    usleep(20000);
    stop.request_stop();
  });
  EXPECT_EQ(sender.send_pages(kSpace, runs, pieces).error().code, ECANCELED);
  EXPECT_LE(mine.bytes_sent(), 2 * Bandwidth::kBurstBytesMin);
}

}  // namespace
}  // namespace mose::move
