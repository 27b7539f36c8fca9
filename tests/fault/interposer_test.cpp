// SPDX-License-Identifier: MIT
// The interposer against the real CRIU, without agents: unnoticed when nothing is planned, and each kind of harm done
// where it was planned.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/fd.h"
#include "kernel/procfs.h"
#include "restore/images.h"
#include "steps.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

// A prefix whose CRIU is the interposer; the bed finds it by MOSE_PREFIX.
class Interposer : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* prefix = std::getenv("MOSE_PREFIX");
    std::string real = std::string(prefix ? prefix : "/opt/mose") + "/criu/bin/criu";
    if (::access(real.c_str(), X_OK) != 0) skip_process("CRIU is not installed (" + real + ")");
    base_ = fs::temp_directory_path() / ("mose-test-interposer-" + std::to_string(::getpid()));
    fs::create_directories(base_ / "criu/bin");
    fs::create_directories(base_ / "fault");
    fs::copy_file(fs::read_symlink("/proc/self/exe").parent_path() / "criu-interposer", base_ / "criu/bin/criu");
    fs::create_symlink(real, base_ / "criu/bin/criu.real");
    ::setenv("MOSE_PREFIX", base_.c_str(), 1);
    ::setenv("MOSE_FAULT_DIR", (base_ / "fault").c_str(), 1);
    old_prefix_ = prefix ? std::optional<std::string>(prefix) : std::nullopt;
  }
  void TearDown() override {
    old_prefix_ ? ::setenv("MOSE_PREFIX", old_prefix_->c_str(), 1) : ::unsetenv("MOSE_PREFIX");
    ::unsetenv("MOSE_FAULT_DIR");
    std::error_code ignored;
    fs::remove_all(base_, ignored);
  }

  void plan(const std::string& line) { std::ofstream(base_ / "fault/plan") << line << "\n"; }
  std::string deeds() { return read_file(base_ / "fault/done").value_or(""); }
  bool plan_is_left() { return fs::exists(base_ / "fault/plan"); }

  fs::path base_;
  std::optional<std::string> old_prefix_;
};

// Frozen, ready to be dumped, CRIU asked. The caller drives the hooks.
Result<restore::Swrk> ask_dump(CriuBed& bed) {
  MOSE_TRY(bed.start(bed.a, kWorkloadCommand));
  MOSE_TRY(bed.wait_ticks(bed.a, 10));
  MOSE_ASSIGN(Fd images, restore::make_images_dir(bed.a.images));
  MOSE_ASSIGN(auto swrk, restore::Swrk::start_for_dump(bed.criu(), bed.source_place(bed.a)));
  MOSE_TRY(bed.a.cgroup.freeze(std::chrono::seconds(2)));
  MOSE_TRY(swrk.request_dump(CriuBed::dump_request(bed.a, images.get())));
  return swrk;
}

// Answers hooks until something else comes within `bound`; returns it, and counts the hooks.
restore::Swrk::Event answer_all(restore::Swrk& swrk, Nanoseconds bound, std::vector<std::string>& hooks) {
  for (;;) {
    auto event = swrk.next(bound);
    if (!event) return restore::Swrk::Died{event.error().what};
    auto* hook = std::get_if<restore::Swrk::Hook>(&*event);
    if (!hook) return *event;
    hooks.push_back(hook->name);
    if (auto answered = swrk.answer(true); !answered) return restore::Swrk::Died{answered.error().what};
  }
}

TEST_F(Interposer, IsUnnoticedWhenNothingIsPlanned) {
  CriuBed bed({});
  ASSERT_TRUE(ok(bed.start(bed.a, kWorkloadCommand)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 10)));
  CriuBed::Node* from = &bed.a;
  CriuBed::Node* to = &bed.b;
  // The fence of the second half of each hop freezes everything in the group: a CRIU left in it would hang.
  for (int move = 0; move < 2; ++move) {
    auto times = hop(bed, *from, *to);
    ASSERT_TRUE(ok(times)) << "move " << move;
    ASSERT_TRUE(ok(bed.wait_ticks(*to, 10))) << "move " << move;
    std::swap(from, to);
  }
  EXPECT_EQ(deeds(), "");
}

TEST_F(Interposer, KillsCriuAtTheHookAndMoment) {
  CriuBed bed({});
  plan("dump post-dump answered kill-criu");
  auto swrk = ask_dump(bed);
  ASSERT_TRUE(ok(swrk));
  std::vector<std::string> hooks;
  auto event = answer_all(*swrk, std::chrono::seconds(10), hooks);
  ASSERT_TRUE(std::holds_alternative<restore::Swrk::Died>(event));
  EXPECT_NE(std::get<restore::Swrk::Died>(event).how.find("signal 9"), std::string::npos);
  EXPECT_EQ(hooks.back(), "post-dump");
  EXPECT_EQ(deeds(), "dump post-dump answered kill-criu\n");
  EXPECT_FALSE(plan_is_left());
}

TEST_F(Interposer, AHookThatIsKeptBackIsNotSeen) {
  CriuBed bed({});
  plan("dump post-dump before kill-criu");
  auto swrk = ask_dump(bed);
  ASSERT_TRUE(ok(swrk));
  std::vector<std::string> hooks;
  auto event = answer_all(*swrk, std::chrono::seconds(10), hooks);
  ASSERT_TRUE(std::holds_alternative<restore::Swrk::Died>(event));
  EXPECT_EQ(std::count(hooks.begin(), hooks.end(), "post-dump"), 0);
}

TEST_F(Interposer, AStoppedCriuLetsTheCallerWait) {
  CriuBed bed({});
  plan("dump request before stop-criu");
  auto swrk = ask_dump(bed);
  ASSERT_TRUE(ok(swrk));
  std::vector<std::string> hooks;
  auto event = answer_all(*swrk, std::chrono::milliseconds(300), hooks);
  EXPECT_TRUE(std::holds_alternative<restore::Swrk::TimedOut>(event));
  pid_t interposer = swrk->process().pid();
  std::string own = "/proc/" + std::to_string(interposer);
  std::string children = read_file(own + "/task/" + std::to_string(interposer) + "/children").value_or("");
  auto real = ProcessHandle::open(std::atoi(children.c_str()));
  ASSERT_TRUE(real) << "the real CRIU is the interposer's only child: " << children;
  swrk->kill();
  // The real one, stopped as it is, dies with the interposer.
  bool gone = false;
  for (int i = 0; i < 200 && !gone; ++i) {
    gone = ::access(own.c_str(), F_OK) != 0 && !real->alive();
    ::usleep(5000);
  }
  EXPECT_TRUE(gone);
}

TEST_F(Interposer, OtherRolesAndHooksAreLeftAlone) {
  CriuBed bed({});
  plan("restore post-dump before kill-criu");
  auto swrk = ask_dump(bed);
  ASSERT_TRUE(ok(swrk));
  std::vector<std::string> hooks;
  auto event = answer_all(*swrk, std::chrono::seconds(10), hooks);
  ASSERT_TRUE(std::holds_alternative<restore::Swrk::Done>(event));
  EXPECT_TRUE(std::get<restore::Swrk::Done>(event).success) << std::get<restore::Swrk::Done>(event).message;
  EXPECT_TRUE(plan_is_left());
}

}  // namespace
}  // namespace mose::test
