// SPDX-License-Identifier: MIT
// The memory checker without any move: nothing is wrong while all its writers write, and what is damaged is found.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "checker_client.h"
#include "kernel/process.h"
#include "kernel/spawn.h"
#include "lab/child_process.h"

namespace mose::test {
namespace {

constexpr size_t kPage = 4096;
using Page = std::vector<char>;

class MemoryChecker : public testing::Test {
 protected:
  void SetUp() override {
    auto program = helper_path("memory-checker");
    ASSERT_TRUE(program) << program.error().what;
    lab::ProgramSpec make;
    make.argv = {*program, "--make-data", data_};
    auto made = lab::run_program(make, "", std::chrono::seconds(30));
    ASSERT_TRUE(made && made->exit_code == 0);
    int down[2], up[2];
    ASSERT_TRUE(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0);
    Fd in(down[0]), out(up[1]);
    lab::ProgramSpec spec;
    // Its segments go with a namespace of its own.
    spec.argv = {"unshare", "--ipc", *program, "--data", data_, "--with", "shared"};
    spec.in = in.get();
    spec.out = out.get();
    spec.die_with_us = true;
    auto started = lab::start_program(spec);
    ASSERT_TRUE(started) << started.error().what;
    process_.emplace(std::move(*started));
    client_.emplace(Fd(up[0]), Fd(down[1]));
  }
  ~MemoryChecker() override {
    client_.reset();  // the end of its input ends it
    if (process_) {
      auto exit = process_->reap(std::chrono::seconds(10));
      EXPECT_TRUE(exit && !exit->signalled && exit->value == 0);
    }
    ::unlink(data_.c_str());
  }

  Json ask(const std::string& request) {
    auto answer = client_->ask(request);
    EXPECT_TRUE(answer) << answer.error().what;
    return answer ? *answer : Json{{"kinds", Json::object()}, {"regions", Json::array()}};
  }
  // The first region of that kind.
  Json region(const std::string& kind) {
    const Json answer = ask("regions");
    for (const Json& region : answer["regions"]) {
      if (region["kind"] == kind) return region;
    }
    ADD_FAILURE() << "no region of " << kind;
    return {};
  }
  static void transfer(const Json& region, size_t page, Page& bytes, bool into) {
    iovec here{bytes.data(), kPage};
    iovec there{reinterpret_cast<void*>(region["address"].get<uint64_t>() + page * kPage), kPage};
    auto move = into ? process_vm_writev : process_vm_readv;
    ASSERT_EQ(move(region["pid"].get<int>(), &here, 1, &there, 1, 0), static_cast<ssize_t>(kPage)) << region;
  }
  static Page get(const Json& region, size_t page) {
    Page bytes(kPage);
    transfer(region, page, bytes, false);
    return bytes;
  }
  static void put(const Json& region, size_t page, Page bytes) { transfer(region, page, bytes, true); }

  const std::string data_ = "/var/tmp/mose-memory-" + std::to_string(getpid());
  std::optional<ProcessHandle> process_;
  std::optional<CheckerClient> client_;
};

TEST_F(MemoryChecker, FindsNothingWrongWhileAllWritersWrite) {
  const Json begin = ask("verify");
  EXPECT_EQ(begin["kinds"].size(), 22u) << begin;
  constexpr uint64_t kSteps = 300;  // children have come and gone, regions have been moved, huge pages were advised
  auto stepped = client_->wait_for_steps(begin, kSteps);
  ASSERT_TRUE(stepped) << stepped.error().what;
  const Json end = ask("verify");
  EXPECT_EQ(end["bad"], 0) << bad_pages(end);
  EXPECT_GT(end["kinds"]["fork"]["pages"], end["kinds"]["remap"]["pages"]) << "there are children";
}

TEST_F(MemoryChecker, WritesNothingWhileItRests) {
  const Json before = ask("rest");
  const Json after = ask("verify");
  for (const auto& [kind, counts] : before["kinds"].items())
    EXPECT_EQ(counts["steps"], after["kinds"][kind]["steps"]) << kind;
  const Json still = ask("work store,ring");
  ASSERT_TRUE(client_->wait_for_steps(still, 1,
                                      "atomic,read,heap,stack,huge,file,advise,remap,vm-thread,vm-process,direct,fork,"
                                      "ring-fixed,shared,shared-process,memfd,locked,segment,removed-segment"));
}

TEST_F(MemoryChecker, FindsEveryDamageInEveryKindOfMemory) {
  const Json begin = ask("rest");
  std::map<std::string, Page> early;
  for (const auto& [kind, counts] : begin["kinds"].items()) early[kind] = get(region(kind), 0);
  ask("work");
  constexpr uint64_t kSteps = 700;  // the first page of every region, which is among the hot ones, was written again
  ASSERT_TRUE(client_->wait_for_steps(begin, kSteps));
  ask("rest");
  for (const auto& [kind, counts] : begin["kinds"].items()) {
    const Json at = region(kind);
    auto damaged = [&](const char* verdict, const Page& bytes) {
      SCOPED_TRACE(kind + " " + verdict);
      const Page whole = get(at, 0);
      const Json before = ask("verify");
      put(at, 0, bytes);
      const Json after = ask("verify");
      put(at, 0, whole);
      // Whoever looks all the time may have seen it as well.
      EXPECT_GT(after["kinds"][kind][verdict], before["kinds"][kind][verdict]);
      for (const auto& [other, unhurt] : before["kinds"].items()) {
        if (other == kind) continue;
        EXPECT_EQ(after["kinds"][other][verdict], unhurt[verdict]) << other;
      }
    };
    const Page now = get(at, 0);
    const bool empty = now == Page(kPage);
    if (!empty) damaged("lost", Page(kPage));
    Page torn = now;
    torn[1000] ^= 4;
    damaged("torn", torn);
    damaged("foreign", get(at, 3) == Page(kPage) ? get(at, 5) : get(at, 3));
    if (early[kind] != now && early[kind] != Page(kPage) && kind != "direct" && kind != "ring" &&
        kind != "ring-fixed") {
      damaged("stale", early[kind]);
    } else {
      EXPECT_TRUE(kind == "cold" || kind == "advise" || kind == "direct" || kind == "ring" || kind == "ring-fixed")
          << kind;
    }
  }
}

}  // namespace
}  // namespace mose::test
