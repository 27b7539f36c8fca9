// SPDX-License-Identifier: MIT
// What is left when a dump or a restore does not go well: the fence, not CRIU, decides who runs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "kernel/tcp_repair.h"
#include "restore/canary.h"
#include "restore/images.h"
#include "steps.h"

namespace mose::test {
namespace {

using restore::Swrk;

class CriuFailure : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(ok(bed.start(bed.a, kWorkloadCommand)));
    ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 10)));
    auto images = restore::make_images_dir(bed.a.images);
    ASSERT_TRUE(ok(images));
    source_images = std::move(*images);
    images = restore::make_images_dir(bed.b.images);
    ASSERT_TRUE(ok(images));
    destination_images = std::move(*images);
  }
  Result<Swrk> dumper() { return Swrk::start_for_dump(bed.criu(), bed.source_place(bed.a)); }
  Result<Swrk> restorer() { return Swrk::start_for_restore(bed.criu(), bed.destination_place(bed.b)); }
  // Freeze, dump, images and files at the destination: all but the restore.
  Status dump_and_carry() {
    MOSE_ASSIGN(Swrk swrk, dumper());
    MOSE_TRY(bed.a.cgroup.freeze(kBound));
    MOSE_TRY(dump(bed.a, swrk, source_images.get()));
    MOSE_TRY(add_pages(bed.a, source_images.get()));
    MOSE_TRY(carry_images(source_images.get(), destination_images.get()));
    MOSE_TRY(copy_tree(bed.a.data, bed.b.data));
    return copy_tree(bed.a.log, bed.b.log);
  }
  // CRIU is killed at `hook`; false: it never came to that.
  static AtHook kill_at(const char* hook, Swrk& swrk) {
    return [hook, &swrk](const Swrk::Hook& present) -> Result<bool> {
      if (present.name != hook) return true;
      swrk.kill();
      return fail("killed as planned");
    };
  }

  CriuBed bed{{}};
  Fd source_images, destination_images;
};

TEST_F(CriuFailure, ADumpNotWantedAnyMoreLetsTheSourceGoOn) {
  ASSERT_TRUE(ok(dump_and_carry()));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, TheTreeIsStillWhileADumpedSourceIsFrozen) {
  ASSERT_TRUE(ok(dump_and_carry()));
  unsigned before = bed.ticks(bed.a);
  ::usleep(100'000);
  EXPECT_EQ(bed.ticks(bed.a), before);
  ASSERT_TRUE(ok(resume(bed.a)));
}

TEST_F(CriuFailure, ADumpMayBeAskedForBeforeTheFreeze) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(dump(bed.a, *swrk, source_images.get(), [&](const Swrk::Hook& hook) -> Result<bool> {
    if (hook.name != "pre-dump") return true;
    MOSE_TRY(bed.wait_ticks(bed.a, 10));  // everything still runs
    MOSE_TRY(bed.a.cgroup.freeze(kBound));
    return true;
  })));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, CriuKilledAtPostDumpLeavesTheSourceFrozen) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
  Status status = dump(bed.a, *swrk, source_images.get(), kill_at("post-dump", *swrk));
  ASSERT_FALSE(status);
  ASSERT_EQ(status.error().what, "killed as planned");
  ASSERT_TRUE(ok(bed.a.cgroup.wait_frozen(kBound)));
  EXPECT_EQ(*status_field(bed.a.first, "TracerPid"), "0");
  unsigned before = bed.ticks(bed.a);
  ::usleep(100'000);
  EXPECT_EQ(bed.ticks(bed.a), before);
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, NoAtPostDumpLeavesTheSourceFrozenAndOutOfRepair) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
  Status status = dump(bed.a, *swrk, source_images.get(),
                       [](const Swrk::Hook& hook) -> Result<bool> { return hook.name != "post-dump"; });
  ASSERT_FALSE(status);
  EXPECT_TRUE(status.error().what.starts_with("dump: ")) << status.error().what;
  ASSERT_TRUE(ok(bed.a.cgroup.wait_frozen(kBound)));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

// No fence is up at this moment: the kernel alone sees to it that the tree never runs.
TEST_F(CriuFailure, CriuKilledAtPreResumeTakesTheTreeWithIt) {
  ASSERT_TRUE(ok(dump_and_carry()));
  unsigned before = bed.ticks(bed.b);
  auto swrk = restorer();
  ASSERT_TRUE(ok(swrk));
  std::vector<pid_t> restored;
  auto done = restore_tree(bed.b, *swrk, destination_images.get(), [&](const Swrk::Hook& hook) -> Result<bool> {
    if (hook.name != "pre-resume") return true;
    MOSE_ASSIGN(restored, bed.b.cgroup.procs());
    MOSE_TRY(bed.b.cgroup.thaw());
    swrk->kill();
    return fail("killed as planned");
  });
  ASSERT_FALSE(done);
  ASSERT_EQ(done.error().what, "killed as planned");
  EXPECT_EQ(restored.size(), 2u);
  ASSERT_TRUE(ok(bed.b.cgroup.wait_empty(kBound)));
  EXPECT_EQ(bed.ticks(bed.b), before);
  ASSERT_TRUE(ok(resume(bed.a)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));

  // The next move to the same place, in the same network namespace, works.
  ASSERT_TRUE(ok(hop(bed, bed.a, bed.b)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.b, 20)));
}

TEST_F(CriuFailure, ARestoreThatFailsSaysWhy) {
  ASSERT_TRUE(ok(dump_and_carry()));
  ASSERT_EQ(::unlinkat(destination_images.get(), "core-2.img", 0), 0);
  auto swrk = restorer();
  ASSERT_TRUE(ok(swrk));
  auto restored = restore_tree(bed.b, *swrk, destination_images.get());
  ASSERT_FALSE(restored);
  EXPECT_TRUE(restored.error().what.starts_with("restore: 1: Error (")) << restored.error().what;
  ASSERT_TRUE(ok(bed.b.cgroup.wait_empty(kBound)));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

// Whenever the line breaks (the agent died, or broke it off), the source is whole: frozen as it was, out of repair
// mode.
class BrokenLine : public CriuFailure, public ::testing::WithParamInterface<int> {};
TEST_P(BrokenLine, LeavesAWholeSource) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
  auto breaker = swrk->breaker();
  ASSERT_TRUE(ok(breaker));
  ASSERT_TRUE(ok(swrk->request_dump(CriuBed::dump_request(bed.a, source_images.get()))));
  auto done = drive(*swrk, [&](const Swrk::Hook& hook) -> Result<bool> {
    if (hook.name == "query-ext-files") {
      // The answer is on its way: the line breaks while CRIU works on the tasks.
      MOSE_TRY(swrk->answer(true));
      ::usleep(static_cast<unsigned>(GetParam()) * 1000);
      breaker->break_off();
      return fail("broken as planned");
    }
    return true;
  });
  ASSERT_FALSE(done);
  ASSERT_EQ(done.error().what, "broken as planned");
  auto event = swrk->next(kBound);
  ASSERT_TRUE(ok(event));
  if (std::holds_alternative<Swrk::Hook>(*event)) {  // it had come to post-dump before
    EXPECT_FALSE(swrk->answer(true));
    event = swrk->next(kBound);
    ASSERT_TRUE(ok(event));
  }
  EXPECT_TRUE(std::holds_alternative<Swrk::Died>(*event));
  auto tree = process_tree(bed.a.first);
  ASSERT_TRUE(ok(tree));
  EXPECT_EQ(tree->size(), 2u);
  EXPECT_TRUE(ok(wait_untraced(*tree, kBound)));
  EXPECT_TRUE(ok(bed.a.cgroup.wait_frozen(kBound)));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}
INSTANTIATE_TEST_SUITE_P(AfterMilliseconds, BrokenLine, ::testing::Values(0, 3, 6, 9, 14, 30),
                         [](const auto& delay) { return std::to_string(delay.param); });

TEST_F(CriuFailure, ADumpThatIsDroppedIsBrokenOffNotKilled) {
  {
    auto swrk = dumper();
    ASSERT_TRUE(ok(swrk));
    ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
    ASSERT_TRUE(ok(swrk->request_dump(CriuBed::dump_request(bed.a, source_images.get()))));
    for (int hooks = 0; hooks < 2; ++hooks) {
      auto event = swrk->next(kBound);
      ASSERT_TRUE(ok(event));
      ASSERT_TRUE(ok(swrk->answer(true)));
    }
    ::usleep(5000);
  }
  ASSERT_TRUE(ok(bed.a.cgroup.wait_frozen(kBound)));
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, ADumpOfAnUndeclaredMountIsRefusedWithItsName) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
  Swrk::DumpRequest request = CriuBed::dump_request(bed.a, source_images.get());
  request.mounts.erase(request.mounts.begin());
  ASSERT_TRUE(ok(swrk->request_dump(request)));
  auto done = drive(*swrk, [](const Swrk::Hook&) -> Result<bool> { return true; });
  ASSERT_TRUE(ok(done));
  EXPECT_FALSE(done->success);
  EXPECT_NE(done->message.find("/data"), std::string::npos) << done->message;
  ASSERT_TRUE(ok(resume(bed.a)));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, AFullDumpNeedsNoPagesFromUs) {
  Swrk::Place place = bed.source_place(bed.a);
  place.skip_memory = false;
  auto swrk = Swrk::start_for_dump(bed.criu(), place);
  ASSERT_TRUE(ok(swrk));
  ASSERT_TRUE(ok(bed.a.cgroup.freeze(kBound)));
  ASSERT_TRUE(ok(dump(bed.a, *swrk, source_images.get())));
  auto sizes = restore::forget_file_sizes(source_images.get(), {"/var/log/mose-workload"});
  ASSERT_TRUE(ok(sizes));
  ASSERT_TRUE(ok(carry_images(source_images.get(), destination_images.get())));
  ASSERT_TRUE(ok(copy_tree(bed.a.data, bed.b.data)));
  ASSERT_TRUE(ok(copy_tree(bed.a.log, bed.b.log)));
  auto restoring = restorer();
  ASSERT_TRUE(ok(restoring));
  auto pid = restore_tree(bed.b, *restoring, destination_images.get());
  ASSERT_TRUE(ok(pid));
  ASSERT_TRUE(ok(bed.b.cgroup.thaw()));
  EXPECT_TRUE(ok(bed.wait_ticks(bed.b, 20)));
}

TEST_F(CriuFailure, CriuDiesWithTheObject) {
  pid_t pid = 0;
  {
    auto swrk = dumper();
    ASSERT_TRUE(ok(swrk));
    pid = swrk->process().pid();
  }
  EXPECT_FALSE(ProcessHandle::open(pid));
}

TEST_F(CriuFailure, ACriuThatWasNeverAskedEndsWithItsLine) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  auto breaker = swrk->breaker();
  ASSERT_TRUE(ok(breaker));
  breaker->break_off();
  EXPECT_TRUE(ok(swrk->wait_exit(kBound)));
}

TEST_F(CriuFailure, MessagesOutOfTurnAreErrors) {
  auto swrk = dumper();
  ASSERT_TRUE(ok(swrk));
  EXPECT_FALSE(swrk->next(Nanoseconds{0}));
  EXPECT_FALSE(swrk->answer(true));
  EXPECT_FALSE(swrk->request_restore({source_images.get(), true}));
  ASSERT_TRUE(ok(swrk->request_dump(CriuBed::dump_request(bed.a, source_images.get()))));
  EXPECT_FALSE(swrk->request_dump(CriuBed::dump_request(bed.a, source_images.get())));
  auto event = swrk->next(kBound);
  ASSERT_TRUE(ok(event));
  ASSERT_TRUE(std::holds_alternative<Swrk::Hook>(*event));
  EXPECT_FALSE(swrk->next(kBound)) << "the hook waits for its answer";
  swrk->kill();
  EXPECT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
}

TEST_F(CriuFailure, TheCanaryProvesDumpsWithoutMemory) {
  auto mount = cgroup_mount();
  ASSERT_TRUE(ok(mount));
  restore::CanaryOptions options{*mount + "/mose-test-mcriu-canary", bed.b.images + "/canary", kBound};
  restore::CanaryResult result = restore::run_canary(bed.criu(), options);
  EXPECT_TRUE(result.works) << result.reason;
  EXPECT_LT(result.image_bytes, 100'000u);
  EXPECT_FALSE(std::filesystem::exists(options.cgroup_path));
  EXPECT_FALSE(std::filesystem::exists(options.scratch));
  std::printf("  canary: CRIU %s, %.1f ms, %llu bytes\n", result.criu_version.c_str(), result.dump_ms,
              static_cast<unsigned long long>(result.image_bytes));
}

// As long as a connection without it lives, nobody else could listen on its port: a service could not be restarted.
TEST(TcpRepair, AConnectionThatLeavesRepairModeHasItsListenersReuseOfAddresses) {
  auto reuse = [](int fd) {
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &length);
    return value;
  };
  Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int one = 1;
  ASSERT_EQ(setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 1), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  Fd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(accepted.valid());
  std::vector<ProcessHandle> self;
  self.push_back(std::move(*ProcessHandle::open(getpid())));
  for (bool on : {true, false}) {
    auto count = set_tcp_repair(self, on);
    ASSERT_TRUE(count) << count.error().what;
    EXPECT_EQ(count->changed, 2u);
  }
  EXPECT_EQ(reuse(accepted.get()), 1);
  EXPECT_EQ(reuse(client.get()), 0);
}

// It has nothing to send; once in the mode it would stay there, or lose what leaving it takes away.
TEST(TcpRepair, ASocketThatIsNotConnectedStaysOutOfIt) {
  Fd unconnected(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int one = 1;
  ASSERT_EQ(setsockopt(unconnected.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
  std::vector<ProcessHandle> self;
  self.push_back(std::move(*ProcessHandle::open(getpid())));
  auto count = set_tcp_repair(self, true);
  ASSERT_TRUE(count) << count.error().what;
  EXPECT_EQ(count->changed, 0u);
  EXPECT_EQ(count->failed, 0u);
  auto option = [&](int level, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    getsockopt(unconnected.get(), level, name, &value, &length);
    return value;
  };
  EXPECT_EQ(option(IPPROTO_TCP, TCP_REPAIR), 0);
  EXPECT_EQ(option(SOL_SOCKET, SO_REUSEADDR), 1);
  // One that somebody else has put there leaves.
  ASSERT_EQ(setsockopt(unconnected.get(), IPPROTO_TCP, TCP_REPAIR, &one, sizeof one), 0);
  ASSERT_TRUE(set_tcp_repair(self, false));
  EXPECT_EQ(option(IPPROTO_TCP, TCP_REPAIR), 0);
}

}  // namespace
}  // namespace mose::test
