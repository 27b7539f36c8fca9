// SPDX-License-Identifier: MIT
// A standby from an early dump is refreshed from the final one, and clients go on as if nothing had been: a workload
// that checks every kind of its state, and Redis.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "standby_bed.h"
#include "standby_workload.h"
#include "support/support.h"

namespace mose::test {
namespace {

using restore::compare_images;
using restore::ImageSet;
using restore::StandbyMemory;
constexpr unsigned kConnections = 16;
constexpr auto kWork = std::chrono::milliseconds(150);

// The stops of the standby's threads, of which this process is told, interrupt the reads of other threads.
bool receive(int fd, void* to, size_t size) {
  auto* at = static_cast<char*>(to);
  while (size > 0) {
    ssize_t n = ::recv(fd, at, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// Numbers upwards, `depth` of them on their way at a time; every answer must be the next number and the next count.
std::string talk(Family family, uint64_t depth, const std::atomic<bool>& stop, std::atomic<uint64_t>& answers) {
  auto fd = connect_to(family, kPort4, kPort6);
  if (!fd) return fd.error().what;
  uint64_t asked = 0, answered = 0;
  std::vector<char> tail(kTail);
  while (!stop || answered < asked) {
    while (!stop && asked < answered + depth) {
      ++asked;
      if (::send(fd->get(), &asked, sizeof asked, MSG_NOSIGNAL) != sizeof asked)
        return "send: " + std::string(std::strerror(errno));
    }
    if (answered == asked) continue;
    uint64_t answer[2];
    if (!receive(fd->get(), answer, sizeof answer))
      return "no answer to " + std::to_string(answered + 1) + ": " + std::strerror(errno);
    ++answered;
    if (answer[0] != answered || answer[1] != answered)
      return "answer " + std::to_string(answer[0]) + "/" + std::to_string(answer[1]) + " where " +
             std::to_string(answered) + " was due";
    if (answered % 8 == 0 && (!receive(fd->get(), tail.data(), kTail) || tail[0] != 'x' || tail[kTail - 1] != 'x'))
      return "no tail";
    ++answers;
    if (answered % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return "";
}

std::string idle(const std::atomic<bool>& stop, std::atomic<uint64_t>& answers) {
  auto fd = connect_to(Family::ipv4, kPort4, kPort6);
  if (!fd) return fd.error().what;
  while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  uint64_t question = 7, answer[2];
  if (::send(fd->get(), &question, sizeof question, MSG_NOSIGNAL) != sizeof question ||
      !receive(fd->get(), answer, sizeof answer) || answer[0] != 7 || answer[1] != 1)
    return "no answer after being idle";
  ++answers;
  return "";
}

void wait_answers(const std::vector<std::unique_ptr<StandbyClient>>& clients, uint64_t more) {
  std::vector<uint64_t> goals;
  for (const auto& client : clients) goals.push_back(client->answers() + more);
  for (Timestamp deadline = now() + kBound; now() < deadline;
       std::this_thread::sleep_for(std::chrono::milliseconds(2))) {
    bool all = true;
    for (size_t i = 0; i < clients.size(); ++i) all = all && clients[i]->answers() >= goals[i];
    if (all) return;
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(const std::vector<StandbyBed::Move>& moves) {
  auto middle = [&](auto part) {
    std::vector<double> values;
    for (const auto& move : moves) values.push_back(part(move));
    return median(values);
  };
  using Move = StandbyBed::Move;
  std::printf(
      "  medians of %zu: compare %.2f; refresh %.2f = seize %.2f sockets %.2f files %.2f memory %.2f (%.0f pages) "
      "threads %.2f release %.2f ms; %.0f connections\n",
      moves.size(), middle([](const Move& m) { return to_ms(m.compare); }),
      middle([](const Move& m) { return to_ms(m.times.total()); }),
      middle([](const Move& m) { return to_ms(m.times.seize); }),
      middle([](const Move& m) { return to_ms(m.times.sockets); }),
      middle([](const Move& m) { return to_ms(m.times.files); }),
      middle([](const Move& m) { return to_ms(m.times.memory); }),
      middle([](const Move& m) { return double(m.pages); }),
      middle([](const Move& m) { return to_ms(m.times.threads); }),
      middle([](const Move& m) { return to_ms(m.times.release); }),
      middle([](const Move& m) { return double(m.connections); }));
}

void start_workload(StandbyBed& s) {
  ASSERT_TRUE(ok(s.bed.start(s.bed.a, {"/bin/workload"})));
  s.connect(s.bed.a);
  ASSERT_TRUE(ok(s.bed.wait_ticks(s.bed.a, 5)));
}

TEST(Standby, ClientsGoOnOnARefreshedStandby) {
  StandbyBed s;
  ASSERT_NO_FATAL_FAILURE(start_workload(s));
  std::vector<std::unique_ptr<StandbyClient>> clients;
  for (unsigned i = 0; i < kConnections - 2; ++i) {
    auto family = static_cast<Family>(i % 3);
    clients.push_back(std::make_unique<StandbyClient>(
        s.client.get(), [=](const auto& stop, auto& answers) { return talk(family, 1 + i % 5, stop, answers); }));
  }
  StandbyClient quiet[2] = {{s.client.get(), idle}, {s.client.get(), idle}};
  wait_answers(clients, 20);
  CriuBed::Node *from = &s.bed.a, *to = &s.bed.b;
  std::vector<StandbyBed::Move> moves;
  for (int round = 0; round < 20; ++round, std::swap(from, to)) {
    ASSERT_TRUE(ok(s.make_standby(*from, *to, kConnections))) << "round " << round;
    std::this_thread::sleep_for(kWork);
    auto move = s.switch_over(*from, *to);
    ASSERT_TRUE(ok(move)) << "round " << round;
    moves.push_back(*move);
    ASSERT_TRUE(ok(s.bed.wait_ticks(*to, 10))) << "round " << round;
    wait_answers(clients, 10);
  }
  for (auto& client : clients) {
    EXPECT_EQ(client->stop(), "");
    EXPECT_GT(client->answers(), 200u);
  }
  for (StandbyClient& client : quiet) EXPECT_EQ(client.stop(), "");
  ASSERT_TRUE(ok(s.bed.wait_ticks(*from, 2)));
  print(moves);
}

}  // namespace
}  // namespace mose::test
