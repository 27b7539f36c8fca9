// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "restore/fill_order.h"
#include "restore/guardian_file.h"
#include "restore/last_word.h"
#include "restore/latency.h"
#include "restore/lazy_socket.h"
#include "restore/pager_frames.h"
#include "restore/pager_client.h"
#include "restore/pager_state.h"

namespace mose::restore {
namespace {

PageSet set_of(std::vector<PageRun> runs) { return PageSet::from_runs(std::move(runs)); }

TEST(FillOrder, HotRunsThenSmallOnesFromAboveThenTheRestInPieces) {
  PageSet pages = set_of({{0, 1500}, {5000, 3}, {9000, 64}, {20000, 65}});
  auto order = fill_order(pages, std::vector<PageSet>{set_of({{1000, 10}}), set_of({{1005, 5}, {19990, 12}})}, 512);
  std::vector<PageRun> expected = {{1000, 10}, {20000, 2}, {20002, 63}, {9000, 64}, {5000, 3},
                                   {0, 512},   {512, 488}, {1010, 14},  {1024, 476}};
  EXPECT_EQ(order, expected);
}

TEST(FillOrder, EveryPageOnceAndNoPieceCrossesItsMultiple) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    PageSet pages;
    for (int i = 0; i < 40; ++i) pages.add({random() % 20000, 1 + random() % 700});
    std::vector<PageSet> hot;
    for (int i = 0; i < 5; ++i) hot.push_back(set_of({{random() % 20000, 1 + random() % 100}, {random() % 20000, 3}}));
    PageSet seen;
    uint64_t sum = 0;
    for (const PageRun& piece : fill_order(pages, hot, 256)) {
      EXPECT_EQ(piece.first / 256, (piece.end() - 1) / 256);
      seen.add(piece);
      sum += piece.count;
    }
    EXPECT_EQ(seen, pages);
    EXPECT_EQ(sum, pages.pages());
  }
}

TEST(LatencyHistogram, PercentilesAreRightToOneEighth) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.percentile_us(50), 0u);
  for (int us = 1; us <= 1000; ++us) histogram.add(std::chrono::microseconds(us));
  EXPECT_NEAR(static_cast<double>(histogram.percentile_us(50)), 500, 64);
  EXPECT_NEAR(static_cast<double>(histogram.percentile_us(99)), 990, 128);
  EXPECT_EQ(histogram.max_us(), 1000u);
}

class State : public testing::Test {
 protected:
  MigrationId id = MigrationId::random();
  std::unique_ptr<PagerState> state = std::move(*PagerState::create(id));
  uint32_t space = 0;
  void with(std::vector<PageRun> runs) {
    space = *state->add_space(5, 300);
    ASSERT_TRUE(state->set_pages(space, set_of(std::move(runs))));
  }
  std::unique_ptr<PagerState> adopted() {
    auto second = PagerState::adopt(std::move(*duplicate(state->fd())), id);
    return second ? std::move(*second) : nullptr;
  }
};

TEST_F(State, MarksAreCountedOnceAndEndMissingRuns) {
  with({{100, 200}, {1000, 5}});
  EXPECT_EQ(state->missing_count(space), 205u);
  EXPECT_EQ(state->mark(space, {150, 100}), 100u);
  EXPECT_EQ(state->mark(space, {140, 20}), 10u);
  EXPECT_EQ(state->mark(space, {0, 50}), 0u);
  EXPECT_EQ(state->mark(space, {290, 800}), 15u);
  EXPECT_FALSE(state->missing_at(space, 145, 16));
  EXPECT_FALSE(state->missing_at(space, 99, 16));
  auto run = state->missing_at(space, 130, 16);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->now, (PageRun{130, 10}));
  EXPECT_EQ(run->source, 130u);
  EXPECT_EQ(state->missing_sources(space), set_of({{100, 40}, {250, 40}}));
}

TEST_F(State, RemapMovesWhatIsMissingAndASecondTimeChangesNothing) {
  with({{100, 100}, {500, 50}});
  state->mark(space, {120, 5});
  // 110..139 to 510: what lay there is lost.
  ASSERT_TRUE(state->remap(space, 7, {110, 30}, 510));
  EXPECT_EQ(state->missing_count(space), 70u + 25u + 20u);
  EXPECT_FALSE(state->missing_at(space, 115, 1));
  EXPECT_EQ(state->missing_at(space, 511, 1)->source, 111u);
  EXPECT_FALSE(state->missing_at(space, 522, 1));
  EXPECT_EQ(state->missing_at(space, 540, 99)->source, 540u);
  ASSERT_TRUE(state->remap(space, 7, {110, 30}, 510));
  EXPECT_EQ(state->missing_count(space), 115u);
  std::vector<PagerState::Missing> found;
  state->missing_of_source(space, {111, 1}, 10, found);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].now, (PageRun{511, 1}));
}

TEST_F(State, AForkHasBitsOfItsOwnAndIsMadeOncePerMessage) {
  with({{100, 100}});
  state->mark(space, {100, 10});
  uint32_t child = *state->add_fork(space, 3, 301);
  EXPECT_EQ(*state->add_fork(space, 3, 302), child);
  EXPECT_EQ(state->uffd(child), 301);
  state->mark(child, {110, 10});
  state->mark(space, {150, 50});
  EXPECT_EQ(state->missing_count(child), 80u);
  EXPECT_EQ(state->missing_count(space), 40u);
}

TEST_F(State, ASecondProcessSeesTheSameAndTheMessageInTheSlot) {
  with({{100, 100}});
  state->mark(space, {100, 10});
  state->begin_read(space).bytes[0] = std::byte{0x15};
  auto second = adopted();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->missing_count(space), 90u);
  EXPECT_EQ(second->uffd(space), 300);
  EXPECT_EQ(second->source(space), 5u);
  EXPECT_EQ(decode(second->slot(space)).kind, UffdEvent::Kind::remove);
  second->end_read(space);
  EXPECT_EQ(decode(state->slot(space)).kind, UffdEvent::Kind::none);
}

TEST_F(State, DamagedOrForeignContentsAreRefused) {
  with({{100, 100}});
  EXPECT_FALSE(PagerState::adopt(std::move(*duplicate(state->fd())), MigrationId::random()));
  state->header().spaces = kStateSpacesMax + 1;
  EXPECT_FALSE(adopted());
  state->header().spaces = 1;
  EXPECT_TRUE(adopted());
  state->header().next_free = 8192;
  EXPECT_FALSE(adopted());
  state->header().magic = 1;
  EXPECT_FALSE(adopted());
}

TEST_F(State, RandomStepsAgreeWithASimpleModel) {
  std::mt19937_64 random(11);
  with({{0, 300}, {400, 100}, {1000, 77}});
  std::vector<int64_t> model(4000, -1);  // source page that is missing at each page
  for (PageRun run : {PageRun{0, 300}, {400, 100}, {1000, 77}})
    for (uint64_t p = run.first; p < run.end(); ++p) model[p] = static_cast<int64_t>(p);
  for (uint64_t step = 1; step < 400; ++step) {
    uint64_t from = random() % 1900;
    uint64_t count = 1 + random() % 40;
    if (step % 3 == 0) {
      uint64_t to = 1950 + random() % 1900;
      if (random() % 2) std::swap(from, to);
      ASSERT_TRUE(state->remap(space, step, {from, count}, to));
      std::vector<int64_t> moved(model.begin() + static_cast<long>(from), model.begin() + static_cast<long>(from + count));
      std::fill_n(model.begin() + static_cast<long>(from), count, -1);
      std::copy(moved.begin(), moved.end(), model.begin() + static_cast<long>(to));
    } else {
      uint64_t expected = 0;
      for (uint64_t p = from; p < from + count; ++p) expected += model[p] >= 0;
      EXPECT_EQ(state->mark(space, {from, count}), expected);
      std::fill_n(model.begin() + static_cast<long>(from), count, -1);
    }
  }
  for (uint64_t p = 0; p < model.size(); ++p) {
    auto missing = state->missing_at(space, p, 1);
    ASSERT_EQ(missing.has_value(), model[p] >= 0) << p;
    if (missing) {
      EXPECT_EQ(static_cast<int64_t>(missing->source), model[p]);
    }
  }
}

TEST_F(State, WhatAStandbyTouchedOutlivesThePagerAndIsForgottenWithIt) {
  space = *state->add_space(5, 300);
  PageSet expected;
  // More than a part of the list holds, some of them behind one another.
  for (uint64_t i = 0; i < 1000; ++i) {
    PageRun run{1000 + i * 10 + (i % 2 == 0 ? 8 : 0), 2};
    ASSERT_TRUE(state->touch(space, run));
    expected.add(run);
  }
  state->header().standby = 1;
  auto second = adopted();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->touched(space), expected);
  EXPECT_EQ(second->header().standby, 1u);
  second->header().restore_ended = 1;
  second->header().faults = 7;
  second->forget_standby();
  EXPECT_EQ(state->state(space), SpaceState::forgotten);
  EXPECT_EQ(state->header().standby, 0u);
  EXPECT_EQ(state->header().restore_ended, 0u);
  EXPECT_EQ(state->header().faults, 0u);
  uint32_t next = *state->add_space(5, 301);
  EXPECT_TRUE(state->touched(next).empty());
}

// A lazy socket and CRIU's end of it.
class Lazy : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mpager-XXXXXX";
    // Longer than a socket address.
    root = ::mkdtemp(name);
    directory = root + "/" + std::string(100, 'd');
    std::filesystem::create_directory(directory);
    lazy = std::make_unique<LazySocket>(std::move(*LazySocket::listen(directory)));
    criu = std::move(*unix_connect(directory + "/lazy-pages.socket"));
    EXPECT_TRUE(lazy->receive().empty());
    EXPECT_TRUE(lazy->connected());
  }
  void TearDown() override { std::filesystem::remove_all(root); }
  void send(const void* data, size_t size) { ASSERT_EQ(::send(criu.get(), data, size, 0), static_cast<ssize_t>(size)); }
  void word(int32_t value) { send(&value, 4); }
  void byte_with(std::vector<int> fds) {
    char byte = 0;
    iovec part{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
    ASSERT_EQ(::sendmsg(criu.get(), &header, 0), 1);
  }
  std::string root, directory;
  std::unique_ptr<LazySocket> lazy;
  Fd criu;
};

TEST_F(Lazy, TasksZombiesTheWordAndTheEnd) {
  word(17);
  byte_with({0});
  word(-18);
  word(19);
  byte_with({0});
  word(0x52535446);
  criu.reset();
  auto messages = lazy->receive();
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(std::get<LazySocket::Task>(messages[0]).space, 17u);
  EXPECT_TRUE(std::get<LazySocket::Task>(messages[0]).uffd.valid());
  EXPECT_EQ(std::get<LazySocket::Zombie>(messages[1]).space, 18u);
  EXPECT_EQ(std::get<LazySocket::Task>(messages[2]).space, 19u);
  EXPECT_TRUE(std::holds_alternative<LazySocket::Finished>(messages[3]));
  EXPECT_EQ(std::get<LazySocket::Ended>(messages[4]).reason, "");
  EXPECT_EQ(lazy->fd(), -1);
  EXPECT_FALSE(std::filesystem::exists(directory + "/lazy-pages.socket"));
}

TEST_F(Lazy, AWordInPiecesIsPutTogether) {
  int32_t pid = 21;
  send(&pid, 3);
  EXPECT_TRUE(lazy->receive().empty());
  send(reinterpret_cast<char*>(&pid) + 3, 1);
  EXPECT_TRUE(lazy->receive().empty());
  byte_with({0});
  EXPECT_EQ(lazy->receive().size(), 1u);
}

TEST_F(Lazy, WhatNoCriuWritesEndsTheStream) {
  auto reason = [&] {
    auto messages = lazy->receive();
    auto* end = messages.empty() ? nullptr : std::get_if<LazySocket::Ended>(&messages.back());
    return end == nullptr ? std::string("none") : end->reason;
  };
  word(5);
  word(6);  // its first byte comes where a descriptor should
  EXPECT_EQ(reason(), "a task came with 0 descriptors instead of one");
}

TEST_F(Lazy, TwoDescriptorsAreTooMany) {
  word(5);
  byte_with({0, 1});
  auto messages = lazy->receive();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_NE(std::get<LazySocket::Ended>(messages[0]).reason, "");
}

TEST_F(Lazy, AnEndInsideAMessageIsNoPlainEnd) {
  word(5);
  criu.reset();
  auto messages = lazy->receive();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(std::get<LazySocket::Ended>(messages[0]).reason, "the stream ends inside a message");
}

TEST(PagerFrames, AFrameIsTakenWhenItIsWholeAndALongOneIsRefused) {
  std::string buffer;
  EXPECT_FALSE(take_pager_frame(buffer)->has_value());
  std::string frame = pager_frame("hello") + pager_frame("");
  for (char c : frame) {
    auto before = take_pager_frame(buffer);
    ASSERT_TRUE(before);
    if (*before) {
      EXPECT_EQ(**before, "hello");
    }
    buffer.push_back(c);
  }
  EXPECT_EQ(**take_pager_frame(buffer), "");
  std::string too_long = pager_frame(std::string(kPagerFrameMax + 1, 'x'));
  EXPECT_FALSE(take_pager_frame(too_long));
}

TEST(GuardianFile, IsReadAsWrittenAndDamageIsAnError) {
  char name[] = "/tmp/mpager-XXXXXX";
  std::string socket = std::string(::mkdtemp(name)) + "/s";
  EXPECT_EQ(read_guardians(socket).error().code, ENOENT);
  GuardianList list{.current = {5, 77}, .stale = {{6, 78}, {7, 79}}};
  ASSERT_TRUE(write_guardians(socket, list));
  auto read = read_guardians(socket);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->current, list.current);
  EXPECT_EQ(read->stale, list.stale);
  for (const char* text : {"", "5\n", "5 x\n", "0 7\n", "5 7", "5 7\n6\n", "-5 7\n"}) {
    std::filesystem::remove(guardian_path(socket));
    auto fd = open_file(guardian_path(socket), O_WRONLY | O_CREAT, 0600);
    ASSERT_TRUE(write_all(fd->get(), text));
    EXPECT_FALSE(read_guardians(socket)) << text;
  }
  remove_guardians(socket);
  std::filesystem::remove_all(name);
}

TEST(LastWord, IsReadAsWrittenAndOnlyOfAPagerThatWasDone) {
  char name[] = "/tmp/mpager-XXXXXX";
  const std::string socket = std::string(::mkdtemp(name)) + "/s";
  EXPECT_EQ(read_last_word(socket).error().code, ENOENT);
  PagerStatus status;
  status.phase = PagerPhase::complete;
  status.sealed = true;
  status.progress.faults = 17;
  ASSERT_TRUE(write_last_word(socket, status));
  auto read = read_last_word(socket);
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_EQ(read->progress.faults, 17u);
  status.phase = PagerPhase::running;
  ASSERT_TRUE(write_last_word(socket, status));
  EXPECT_FALSE(read_last_word(socket)) << "pages are missing";
  for (const char* text : {"", "\xff\xff"}) {
    auto fd = open_file(last_word_path(socket), O_WRONLY | O_TRUNC);
    ASSERT_TRUE(write_all(fd->get(), text));
    EXPECT_FALSE(read_last_word(socket)) << text;
  }
  remove_last_word(socket);
  EXPECT_EQ(read_last_word(socket).error().code, ENOENT);
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace mose::restore
