// SPDX-License-Identifier: MIT
#include "neighbour.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace mose::test {
namespace {

constexpr const char* kSet = "SET neighbour unharmed-by-what-is-missing-beside-it\r\n";
constexpr const char* kGet = "GET neighbour\r\n";
constexpr std::string_view kAnswer = "$37\r\nunharmed-by-what-is-missing-beside-it\r\n";
constexpr useconds_t kPauseUs = 10'000;

}  // namespace

Result<std::unique_ptr<Neighbour>> Neighbour::start(FaultBed& bed) {
  MOSE_ASSIGN(Fd socket, bed.connect_client(kNeighbourPort));
  MOSE_TRY(write_all(socket.get(), kSet));
  char ok[16];
  if (::recv(socket.get(), ok, 5, MSG_WAITALL) != 5) return fail_errno("the neighbour does not answer");
  std::unique_ptr<Neighbour> neighbour(new Neighbour(std::move(socket)));
  neighbour->thread_ = std::thread([raw = neighbour.get()] { raw->loop(); });
  return neighbour;
}

Neighbour::~Neighbour() {
  stop_ = true;
  ::shutdown(socket_.get(), SHUT_RDWR);
  thread_.join();
}

void Neighbour::loop() {
  std::string answer;
  while (!stop_) {
    if (!write_all(socket_.get(), kGet)) return;
    answer.clear();
    while (answer.size() < kAnswer.size() && !stop_) {
      pollfd ready{socket_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 100) <= 0) continue;
      char part[64];
      ssize_t n = ::recv(socket_.get(), part, kAnswer.size() - answer.size(), 0);
      if (n <= 0) return;
      answer.append(part, static_cast<size_t>(n));
    }
    if (stop_) return;
    if (answer != kAnswer) ++wrong_;
    {
      std::lock_guard lock(mutex_);
      answered_.push_back(now());
    }
    ::usleep(kPauseUs);
  }
}

size_t Neighbour::answers(Timestamp from, Timestamp to) const {
  std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::ranges::count_if(answered_, [&](Timestamp at) { return at >= from && at < to; }));
}

bool Neighbour::steady(Timestamp from, Timestamp to) const {
  constexpr Nanoseconds kGapMax = std::chrono::milliseconds(60);
  std::lock_guard lock(mutex_);
  Timestamp last = from;
  for (Timestamp at : answered_) {
    if (at < from || at >= to) continue;
    if (at - last > kGapMax) return false;
    last = at;
  }
  return to - last <= kGapMax;
}

}  // namespace mose::test
