// SPDX-License-Identifier: MIT
// Node.js with a worker thread that keeps a hash chain over all requests (chain.js). Every answer must come, and all of
// them together must be one chain without a gap, a repetition or a step back.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <vector>

#include "program_bed.h"
#include "text_connection.h"

namespace mose::test {
namespace {

constexpr uint16_t kChainPort = 8080;
constexpr unsigned kChainClients = 8;
constexpr uint64_t kChainKept = 2000, kChainStart = 0xcbf29ce484222325, kChainPrime = 0x100000001b3;  // as in chain.js
constexpr Nanoseconds kNodeStartBound = std::chrono::seconds(20);

struct Link {
  uint32_t word;
  uint64_t hash, kept;
};

// One connection, and the links of the chain that it was told.
class ChainClient {
 public:
  ChainClient(unsigned client, TextConnection connection) : random_(client), connection_(std::move(connection)) {}

  Status ask() {
    const auto word = static_cast<uint32_t>(random_());
    MOSE_TRY(connection_.send(fmt::format("{}\n", word)));
    MOSE_ASSIGN(const std::string answer, connection_.line());
    std::istringstream text(answer);
    uint64_t place = 0;
    Link link{.word = word, .hash = 0, .kept = 0};
    if (!(text >> place >> link.hash >> link.kept)) return fail("no link of a chain: " + answer);
    if (!links_.empty() && place <= links_.rbegin()->first)
      return fail(fmt::format("place {} after place {}", place, links_.rbegin()->first));
    links_[place] = link;
    return {};
  }
  [[nodiscard]] const std::map<uint64_t, Link>& links() const { return links_; }

 private:
  std::mt19937 random_;
  TextConnection connection_;
  std::map<uint64_t, Link> links_;
};

// Of all clients together; the first fault ends it.
Status check_chain(const std::map<uint64_t, Link>& chain) {
  uint64_t expected = 0, hash = kChainStart;
  for (const auto& [place, link] : chain) {
    if (place != ++expected)
      return fail(fmt::format("place {} of the chain is followed by place {}", expected - 1, place));
    hash = (hash ^ link.word) * kChainPrime;
    if (link.hash != hash) return fail(fmt::format("hash {} at place {}, not {}", link.hash, place, hash));
    const uint64_t kept = place > kChainKept ? place - kChainKept : 0;
    if (link.kept != kept) return fail(fmt::format("kept of place {} is {}, not {}", place, link.kept, kept));
  }
  return {};
}

TEST_F(ProgramMoves, BreakNoChainOfAWorkerThreadOfNode) {
  prepare({.name = "node",
           .files = {.programs = {"/usr/bin/node"}, .trees = {}},
           .mounts = {},
           .command = {"/usr/bin/node", "/srv/chain.js"}});
  auto script = read_file(MOSE_CHAIN_SCRIPT);
  ASSERT_TRUE(script) << script.error().what;
  ASSERT_NO_FATAL_FAILURE(put_file("/srv/chain.js", *script));
  ASSERT_NO_FATAL_FAILURE(start());
  std::vector<std::unique_ptr<ChainClient>> clients;
  Load load;
  for (unsigned i = 0; i < kChainClients; ++i) {
    auto connection = TextConnection::open(client_netns(), kChainPort, kNodeStartBound);
    ASSERT_TRUE(connection) << connection.error().what << logs();
    clients.push_back(std::make_unique<ChainClient>(i, std::move(*connection)));
  }
  for (unsigned i = 0; i < kChainClients; ++i)
    load.add(fmt::format("connection {}", i), [&own = *clients[i]] { return own.ask(); });
  ASSERT_TRUE(move_all(load, 100));
  judge(load);

  std::map<uint64_t, Link> chain;
  for (const auto& client : clients) chain.insert(client->links().begin(), client->links().end());
  EXPECT_EQ(chain.size(), load.answers()) << "a place was told twice";
  auto whole = check_chain(chain);
  EXPECT_TRUE(whole) << whole.error().what;
}

}  // namespace
}  // namespace mose::test
