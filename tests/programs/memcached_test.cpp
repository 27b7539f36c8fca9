// SPDX-License-Identifier: MIT
// memcached with four threads. Each connection has keys of its own and knows what each must hold: the value of the last
// set that was acknowledged.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>

#include "program_bed.h"
#include "text_connection.h"

namespace mose::test {
namespace {

constexpr uint16_t kMemcachedPort = 11211;
constexpr unsigned kMemcachedClients = 8, kKeysEach = 500;
constexpr size_t kValueBytesMax = 8000;
constexpr Nanoseconds kStartBound = std::chrono::seconds(15);

// The keys of one connection, each a number of sets old.
class Keys {
 public:
  Keys(unsigned client, TextConnection connection)
      : client_(client), random_(client), connection_(std::move(connection)) {}

  Status ask() {
    const unsigned key = random_() % kKeysEach;
    return random_() % 2 == 0 ? set(key) : get(connection_, key);
  }
  Status fill() {
    for (unsigned key = 0; key < kKeysEach; ++key) MOSE_TRY(set(key));
    return {};
  }
  Status read_back(TextConnection& connection) const {
    for (unsigned key = 0; key < kKeysEach; ++key) MOSE_TRY(get(connection, key));
    return {};
  }

 private:
  Status set(unsigned key) {
    const std::string value = value_of(key, versions_[key] + 1);
    MOSE_TRY(connection_.send(fmt::format("set {} 0 0 {}\r\n{}\r\n", name_of(key), value.size(), value)));
    MOSE_ASSIGN(const std::string answer, connection_.line());
    if (answer != "STORED") return fail("set " + name_of(key) + ": " + answer);
    ++versions_[key];
    return {};
  }
  Status get(TextConnection& connection, unsigned key) const {
    const std::string value = value_of(key, versions_[key]);
    MOSE_TRY(connection.send("get " + name_of(key) + "\r\n"));
    MOSE_ASSIGN(const std::string head, connection.line());
    if (head != fmt::format("VALUE {} 0 {}", name_of(key), value.size()))
      return fail("get " + name_of(key) + ": " + head);
    MOSE_ASSIGN(const std::string found, connection.bytes(value.size()));
    if (found != value)
      return fail(fmt::format("{} is not as set {} left it: {}", name_of(key), versions_[key], found.substr(0, 64)));
    for (const char* expected : {"", "END"}) {
      MOSE_ASSIGN(const std::string rest, connection.line());
      if (rest != expected) return fail("after the value of " + name_of(key) + ": " + rest);
    }
    return {};
  }
  [[nodiscard]] std::string name_of(unsigned key) const { return fmt::format("c{}-k{}", client_, key); }
  // Of another length and other bytes with each set.
  [[nodiscard]] std::string value_of(unsigned key, uint64_t version) const {
    const std::string word = fmt::format("{}={};", name_of(key), version);
    const size_t size = 16 + (version * 2654435761u + key * 40503u + client_) % kValueBytesMax;
    std::string value;
    while (value.size() < size) value += word;
    value.resize(size);
    return value;
  }

  unsigned client_;
  std::minstd_rand random_;
  TextConnection connection_;
  std::array<uint64_t, kKeysEach> versions_{};
};

TEST_F(ProgramMoves, KeepEveryValueOfMemcached) {
  prepare({.name = "memcached",
           .files = {.programs = {"/usr/bin/memcached"}, .trees = {}},
           .mounts = {},
           .command = {"/usr/bin/memcached", "-u", "root", "-l", "0.0.0.0", "-m", "256", "-t", "4"}});
  ASSERT_NO_FATAL_FAILURE(start());
  std::vector<std::unique_ptr<Keys>> keys;
  Load load;
  for (unsigned client = 0; client < kMemcachedClients; ++client) {
    auto connection = TextConnection::open(client_netns(), kMemcachedPort, kStartBound);
    ASSERT_TRUE(connection) << connection.error().what << logs();
    keys.push_back(std::make_unique<Keys>(client, std::move(*connection)));
    auto filled = keys.back()->fill();
    ASSERT_TRUE(filled) << filled.error().what;
  }
  for (unsigned client = 0; client < kMemcachedClients; ++client)
    load.add(fmt::format("connection {}", client), [&own = *keys[client]] { return own.ask(); });
  ASSERT_TRUE(move_all(load, 100));
  judge(load);

  auto reader = TextConnection::open(client_netns(), kMemcachedPort, {});
  ASSERT_TRUE(reader) << reader.error().what;
  for (const auto& own : keys) {
    auto right = own->read_back(*reader);
    EXPECT_TRUE(right) << right.error().what;
  }
}

}  // namespace
}  // namespace mose::test
