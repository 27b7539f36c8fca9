// SPDX-License-Identifier: MIT
#include "load.h"

#include <unistd.h>

#include <algorithm>

namespace mose::test {
namespace {

constexpr Nanoseconds kAnswersBound = std::chrono::seconds(60);
constexpr useconds_t kLookUs = 10'000;
constexpr useconds_t kMomentUs = 1000;

}  // namespace

void Load::add(std::string name, Ask ask) {
  auto client = std::make_unique<Client>();
  client->name = std::move(name);
  client->ask = std::move(ask);
  clients_.push_back(std::move(client));
  clients_.back()->thread = std::thread([this, &client = *clients_.back()] { run(client); });
}

void Load::run(Client& client) {
  while (!stop_) {
    const Timestamp asked = now();
    if (auto judged = client.ask(); !judged) {
      client.problem = client.name + ", answer " + std::to_string(client.answers + 1) + ": " + judged.error().what;
      client.failed = true;
      return;
    }
    const int64_t took = (now() - asked).count();
    client.longest_ns = std::max<int64_t>(client.longest_ns, took);
    client.longest_of_late_ns = std::max<int64_t>(client.longest_of_late_ns, took);
    ++client.answers;
    ::usleep(kMomentUs);
  }
}

Status Load::wait_for_answers(uint64_t more) {
  std::vector<uint64_t> wanted;
  for (const auto& client : clients_) wanted.push_back(client->answers + more);
  const Timestamp deadline = now() + kAnswersBound;
  for (size_t i = 0; i < clients_.size();) {
    const Client& client = *clients_[i];
    if (client.failed) return fail(client.problem);
    if (client.answers >= wanted[i]) {
      ++i;
    } else if (now() >= deadline) {
      return fail(client.name + " waits for its next answers");
    } else {
      ::usleep(kLookUs);
    }
  }
  return {};
}

void Load::stop() {
  stop_ = true;
  for (const auto& client : clients_) {
    if (client->thread.joinable()) client->thread.join();
  }
}

uint64_t Load::answers() const {
  uint64_t sum = 0;
  for (const auto& client : clients_) sum += client->answers;
  return sum;
}

double Load::longest_ms() const {
  int64_t longest = 0;
  for (const auto& client : clients_) longest = std::max<int64_t>(longest, client->longest_ns);
  return static_cast<double>(longest) / 1e6;
}

std::string Load::longest_of_late() {
  int64_t longest = 0;
  std::string who = "nobody";
  for (const auto& client : clients_) {
    const int64_t own = client->longest_of_late_ns.exchange(0);
    if (own <= longest) continue;
    longest = own;
    who = client->name;
  }
  return std::to_string(longest / 1'000'000) + " ms, " + who;
}

std::vector<std::string> Load::problems() const {
  std::vector<std::string> out;
  for (const auto& client : clients_) {
    if (client->failed) out.push_back(client->problem);
  }
  return out;
}

}  // namespace mose::test
