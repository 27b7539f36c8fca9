// SPDX-License-Identifier: MIT
// PostgreSQL with eight clients of pgbench, its data on a file system that both nodes have. Every transaction adds one
// number to an account, a teller, a branch and the history: afterwards all four sums must be the same, and the history
// as long as pgbench has counted transactions.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <sstream>
#include <thread>

#include "program_bed.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVersions = "/usr/lib/postgresql";
constexpr const char* kShared = "/var/tmp/mose-test-postgres";  // on this machine
constexpr const char* kSharedInNode = "/srv/postgres";
constexpr unsigned kSecondsForAMove = 5, kTransactionsPerSecond = 400;
constexpr Nanoseconds kPostgresStartBound = std::chrono::seconds(20), kMoreBound = std::chrono::seconds(30);

// The newest that is installed: "/usr/lib/postgresql/15".
std::string installed_version() {
  int newest = 0;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(kVersions, none)) {
    if (::access((entry.path() / "bin/pgbench").c_str(), X_OK) == 0)
      newest = std::max(newest, std::atoi(entry.path().filename().c_str()));
  }
  if (newest == 0) skip_process(std::string("no PostgreSQL in ") + kVersions + "; run tools/get-deps --full");
  return kVersions + std::string("/") + std::to_string(newest);
}

class PostgresMoves : public ProgramMoves {
 protected:
  ~PostgresMoves() override {
    end();  // the server writes to them
    std::error_code ignored;
    fs::remove_all(kShared, ignored);
  }

  // The server's own user, whom it insists on.
  [[nodiscard]] static std::vector<std::string> as_postgres(std::vector<std::string> words) {
    const passwd* user = ::getpwnam("postgres");
    if (user == nullptr) skip_process("no user postgres; run tools/get-deps --full");
    std::vector<std::string> out = {"/usr/bin/setpriv",           "--reuid",
                                    std::to_string(user->pw_uid), "--regid",
                                    std::to_string(user->pw_gid), "--clear-groups"};
    out.insert(out.end(), words.begin(), words.end());
    return out;
  }

  void make_data() {
    fs::remove_all(kShared);
    fs::create_directories(kShared);
    const passwd* user = ::getpwnam("postgres");
    ASSERT_NE(user, nullptr);
    ASSERT_EQ(::chown(kShared, user->pw_uid, user->pw_gid), 0);
    lab::ProgramSpec spec;
    spec.argv = as_postgres({version_ + "/bin/initdb", "-D", kShared, "--auth", "trust", "--no-locale", "--encoding",
                             "UTF8", "--data-checksums"});
    auto made = lab::run_program(spec, "", std::chrono::minutes(1));
    ASSERT_TRUE(made) << made.error().what;
    ASSERT_EQ(made->exit_code, 0) << made->err;
    auto access = open_file(std::string(kShared) + "/pg_hba.conf", O_WRONLY | O_APPEND | O_CLOEXEC);
    ASSERT_TRUE(access && write_all(access->get(), "host all all 0.0.0.0/0 trust\n"));
  }

  // The answer to a query, its lines separated by blanks.
  [[nodiscard]] Result<std::string> query(const std::string& text) const {
    auto asked =
        at_client({version_ + "/bin/psql", "-h", lab::kServiceAddress, "-U", "postgres", "-At", "-F", " ", "-c", text});
    if (asked.exit_code != 0) return fail(text + ": " + asked.err);
    std::replace(asked.out.begin(), asked.out.end(), '\n', ' ');
    return asked.out;
  }
  void wait_until_it_answers() const {
    for (const Timestamp deadline = now() + kPostgresStartBound;; ::usleep(100'000)) {
      auto answer = query("select 1");
      if (answer) return;
      ASSERT_LT(now(), deadline) << answer.error().what << logs();
    }
  }
  // Waits until some transactions more are in the history than there are now.
  [[nodiscard]] Status wait_for_transactions() const {
    MOSE_ASSIGN(const std::string before, query("select count(*) from pgbench_history"));
    for (const Timestamp deadline = now() + kMoreBound;; ::usleep(50'000)) {
      MOSE_ASSIGN(const std::string after, query("select count(*) from pgbench_history"));
      if (std::atoll(after.c_str()) >= std::atoll(before.c_str()) + 100) return {};
      if (now() >= deadline) return fail("no transaction comes to its end any more; there are " + after);
    }
  }

  std::string version_ = installed_version();
};

// What pgbench says of itself, "number of transactions actually processed: 7814": the number behind the words.
uint64_t said_by_pgbench(const std::string& text, const std::string& words) {
  const size_t at = text.find(words);
  EXPECT_NE(at, std::string::npos) << "pgbench says nothing of: " << words << "\n" << text;
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + words.size(), nullptr, 10);
}

TEST_F(PostgresMoves, LoseNoTransactionOfPgbench) {
  prepare({.name = "postgres",
           .files = {.programs = {version_ + "/bin/postgres", "/usr/bin/setpriv"},
                     .trees = {version_ + "/lib", "/usr/share/postgresql/" + fs::path(version_).filename().string(),
                               "/usr/share/zoneinfo"}},
           // Its parallel workers share memory in files there.
           .mounts = {std::string(kSharedInNode) + ":" + kSharedInNode + ":shared", "/srv/shm:/dev/shm:copy"},
           .command = as_postgres({version_ + "/bin/postgres", "-D", kSharedInNode, "-c", "listen_addresses=0.0.0.0",
                                   "-c", "unix_socket_directories="})});
  put_directory("/dev/shm");
  put_directory("/srv/shm", 01777);
  ASSERT_NO_FATAL_FAILURE(make_data());
  ASSERT_NO_FATAL_FAILURE(share_directory(kShared, kSharedInNode));
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_NO_FATAL_FAILURE(wait_until_it_answers());
  const std::vector<std::string> pgbench = {version_ + "/bin/pgbench", "-h", lab::kServiceAddress, "-U", "postgres"};
  auto words = [&](std::vector<std::string> more) {
    more.insert(more.begin(), pgbench.begin(), pgbench.end());
    return more;
  };
  auto filled = at_client(words({"--initialize", "--scale", "10", "--quiet", "postgres"}));
  ASSERT_EQ(filled.exit_code, 0) << filled.err << logs();

  lab::ProgramResult load;
  std::atomic<bool> ended = false;
  std::thread clients([&] {
    load = at_client(words({"--client", "8", "--jobs", "2", "--rate", std::to_string(kTransactionsPerSecond), "--time",
                            std::to_string(kSecondsForAMove * moves_wanted()), "postgres"}));
    ended = true;
  });
  const bool moved = move_all([&] { return wait_for_transactions(); });
  EXPECT_FALSE(ended) << "pgbench came to its end before the last move had";
  clients.join();
  ASSERT_TRUE(moved);
  EXPECT_EQ(load.exit_code, 0) << load.err << load.out << logs();
  const uint64_t transactions = said_by_pgbench(load.out, "number of transactions actually processed: ");
  const uint64_t failed = said_by_pgbench(load.out, "number of failed transactions: ");
  EXPECT_EQ(failed, 0u);

  auto sums = query(
      "select sum(abalance) from pgbench_accounts; select sum(tbalance) from pgbench_tellers; "
      "select sum(bbalance) from pgbench_branches; select sum(delta), count(*) from pgbench_history");
  ASSERT_TRUE(sums) << sums.error().what << logs();
  std::istringstream text(*sums);
  int64_t accounts = 0, tellers = 0, branches = 0, history = 0;
  uint64_t count = 0;
  ASSERT_TRUE(text >> accounts >> tellers >> branches >> history >> count) << *sums;
  EXPECT_EQ(accounts, history) << *sums;
  EXPECT_EQ(tellers, history) << *sums;
  EXPECT_EQ(branches, history) << *sums;
  EXPECT_EQ(count, transactions);
  tell(transactions, std::nullopt, failed);
}

}  // namespace
}  // namespace mose::test
