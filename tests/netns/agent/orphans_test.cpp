// SPDX-License-Identifier: MIT
// What no record and no journal of a node names, and `mose cleanup`, which removes it: the real agent, in a node of its own.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fd.h"
#include "bed.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kAddress = "192.0.2.10";
constexpr const char* kMigration = "00112233445566778899aabbccddeeff";

class Orphans : public testing::Test {
 protected:
  static void SetUpTestSuite() { bed = new AgentBed("orphans"); }
  static void TearDownTestSuite() {
    delete bed;
    bed = nullptr;
  }
  void SetUp() override { bed->start_agent(); }
  void TearDown() override { bed->terminate_agent(); }

  static std::string migration_dir() { return bed->directory() + "/run/migrations/" + kMigration; }
  // As an arrival leaves it whose record and journal are lost: its group, and its directory, by which one sees that it is ours.
  static void leave_workload(const std::string& name) {
    fs::create_directories(bed->cgroup() + "/" + name);
    fs::create_directories(bed->directory() + "/run/workloads/" + name);
  }
  static size_t count_in(const std::string& directory) {
    size_t count = 0;
    std::error_code error;
    for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) ++count;
    return count;
  }

  static AgentBed* bed;
};
AgentBed* Orphans::bed = nullptr;

TEST_F(Orphans, ASecondCleanUpLeavesThemToTheFirst) {
  constexpr size_t kFiles = 60'000;  // the better part of a second of work
  leave_workload("lost");
  fs::create_directories(migration_dir() + "/images");
  for (size_t i = 0; i < kFiles; ++i) std::ofstream(migration_dir() + "/images/" + std::to_string(i)).flush();

  Output first;
  std::thread cleaning([&] { first = bed->mose({"cleanup"}); });
  for (int i = 0; i < 2000 && fs::exists(bed->cgroup() + "/lost"); ++i) std::this_thread::sleep_for(1ms);
  const Output second = bed->mose({"cleanup"});
  const Output run = bed->mose({"run", "lost", "--address", "192.0.2.20/24", "--root", bed->root(), "--", "/bin/sh", "-c", "sleep 1000"});
  const bool under_way = fs::exists(migration_dir());
  cleaning.join();

  ASSERT_TRUE(under_way) << "the first had ended: nothing was tried";
  EXPECT_THAT(second.out, HasSubstr("is just being removed by another `mose cleanup`"));
  EXPECT_NE(run.exit_code, 0) << "the second has let go of the first one's name";
  EXPECT_THAT(run.error, HasSubstr("what workload lost has left is just being removed"));
  EXPECT_THAT(first.out, HasSubstr("what was left of lost"));
  EXPECT_THAT(first.out, HasSubstr("what was left of migration"));
  EXPECT_EQ(count_in(bed->directory() + "/run/migrations"), 0u);
  EXPECT_THAT(bed->mose({"cleanup"}).out, HasSubstr("nothing to clean up")) << "the next one may again";
}

// It may run elsewhere by now, with the same connections.
TEST_F(Orphans, AClientHearsNothingOfTheEndOfATree) {
  auto run = bed->mose({"run", "redis", "--address", std::string(kAddress) + "/24", "--root", bed->root(), "--", "redis-server", "--save", "",
                        "--protected-mode", "no"});
  ASSERT_EQ(run.exit_code, 0) << run.error << bed->agent_log();
  ASSERT_TRUE(redis_answers(kAddress));
  Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(6379)};
  ASSERT_EQ(::inet_pton(AF_INET, kAddress, &address.sin_addr), 1);
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  char answer[16];
  ASSERT_EQ(::send(client.get(), "PING\r\n", 6, 0), 6);
  ASSERT_GT(::recv(client.get(), answer, sizeof answer, 0), 0);

  bed->kill_agent();
  ASSERT_TRUE(fs::remove(bed->directory() + "/state/workloads/redis.json"));
  bed->start_agent();
  EXPECT_THAT(bed->mose({"cleanup"}).out, HasSubstr("what was left of redis"));
  EXPECT_FALSE(fs::exists(bed->cgroup() + "/redis"));
  pollfd heard{client.get(), POLLIN | POLLRDHUP, 0};
  EXPECT_EQ(::poll(&heard, 1, 500), 0) << "events " << heard.revents;
}

// Two agents that each have a mount namespace may call their directories the same.
TEST_F(Orphans, APagerOfAnotherAgentsDirectoryIsNotOurs) {
  fs::create_directories(migration_dir());
  const std::string words = " mose-pager -c 'kill -STOP $$' --socket " + migration_dir() + "/pager.sock --cgroup /sys/fs/cgroup/no-such-group";
  auto start = [](const std::string& script) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::execl("/bin/bash", "bash", "-c", script.c_str(), nullptr);
      ::_exit(127);
    }
    return pid;
  };
  auto is_pager = [](pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/cmdline");
    return std::string(std::istreambuf_iterator<char>(file), {}).starts_with("mose-pager");
  };
  const pid_t ours = start("exec -a" + words.substr(0, 11) + " bash" + words.substr(11));
  const pid_t theirs = start("exec unshare -m bash -c \"mount -t tmpfs none " + bed->directory() + "/run; mkdir -p " + migration_dir() + "; exec -a" +
                             words.substr(0, 11) + " bash" + words.substr(11) + "\"");
  for (int i = 0; i < 500 && !(is_pager(ours) && is_pager(theirs)); ++i) std::this_thread::sleep_for(10ms);
  ASSERT_TRUE(is_pager(ours) && is_pager(theirs));

  EXPECT_THAT(bed->mose({"cleanup"}).out, HasSubstr("and 1 processes"));
  int status = 0;
  EXPECT_EQ(::waitpid(ours, &status, 0), ours);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(::waitpid(theirs, &status, WNOHANG), 0) << "it is another agent's";
  ::kill(theirs, SIGKILL);
  ::waitpid(theirs, &status, 0);
}

}  // namespace
}  // namespace mose::test
