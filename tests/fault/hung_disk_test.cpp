// SPDX-License-Identifier: MIT
// The disk of a node's journal hangs while the workload stands still: a file system of its own, frozen as for a snapshot, so that whoever
// writes to it waits in the kernel. An abort does not wait for it; a commit does, at either end, and is found by whoever looks.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>

#include "agent/wire_messages.h"
#include "faults.h"
#include "move/codec.h"

namespace mose::test {
namespace {

using ::testing::HasSubstr;
using wire::FrameType;

constexpr const char* kJournals = "/var/lib/mose/journal";
constexpr off_t kDiskBytes = 16 << 20;
constexpr const char* kMakeFileSystem = "/usr/sbin/mkfs.ext4";

// Mounted over the journals of a node until it goes; it hangs from freeze() to thaw() at the latest.
class JournalDisk {
 public:
  explicit JournalDisk(FaultBed& bed, std::string node) : bed_(bed), node_(std::move(node)) {}
  ~JournalDisk() {
    thaw();
    if (mounted_) (void)bed_.in_node(node_, [] { return ::umount2(kJournals, MNT_DETACH) == 0 ? Status{} : Status(fail_errno("umount")); });
  }
  JournalDisk(const JournalDisk&) = delete;
  JournalDisk& operator=(const JournalDisk&) = delete;

  Status mount() {
    MOSE_TRY(attach_loop());
    char directory[] = "/tmp/mose-hung-disk-XXXXXX";
    if (::mkdtemp(directory) == nullptr) return fail_errno("mkdtemp");
    Status mounted = mount_over(directory);
    (void)::umount2(directory, MNT_DETACH);  // the descriptor of its root, and the node, keep it
    std::filesystem::remove(directory);
    return mounted;
  }
  void freeze() {
    if (::ioctl(root_.get(), FIFREEZE, 0) == 0) frozen_ = true;
    else ADD_FAILURE() << "FIFREEZE: " << errno;
  }
  [[nodiscard]] bool hangs() const { return frozen_; }
  void thaw() {
    if (frozen_.exchange(false) && ::ioctl(root_.get(), FITHAW, 0) != 0) ADD_FAILURE() << "FITHAW: " << errno;
  }

 private:
  Status attach_loop() {
    Fd file(::memfd_create("journals", MFD_CLOEXEC));
    if (!file || ::ftruncate(file.get(), kDiskBytes) != 0) return fail_errno("make a disk");
    const std::string path = fmt::format("/proc/{}/fd/{}", ::getpid(), file.get());
    if (std::system(fmt::format("{} -q -F {}", kMakeFileSystem, path).c_str()) != 0) return fail("no file system could be made");
    Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    const int number = control ? ::ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (number < 0) return fail_errno("loop device");
    device_ = fmt::format("/dev/loop{}", number);
    loop_ = Fd(::open(device_.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config{};
    config.fd = static_cast<__u32>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (!loop_ || ::ioctl(loop_.get(), LOOP_CONFIGURE, &config) != 0) return fail_errno("set up " + device_);
    return {};
  }
  Status mount_over(const char* directory) {
    if (::mount(device_.c_str(), directory, "ext4", 0, "") != 0) return fail_errno("mount " + device_);
    root_ = Fd(::open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root_ || ::fchmod(root_.get(), 0700) != 0 || ::unlinkat(root_.get(), "lost+found", AT_REMOVEDIR) != 0) return fail_errno("open " + device_);
    Fd tree(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, directory, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
    if (!tree) return fail_errno("open_tree");
    MOSE_TRY(bed_.in_node(node_, [&]() -> Status {
      if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, kJournals, MOVE_MOUNT_F_EMPTY_PATH) != 0) return fail_errno("move_mount");
      return {};
    }));
    mounted_ = true;
    return {};
  }

  FaultBed& bed_;
  std::string node_, device_;
  Fd loop_, root_;
  bool mounted_ = false;
  std::atomic<bool> frozen_ = false;
};

class HungDisk : public Faults {
 protected:
  void SetUp() override {
    Faults::SetUp();
    if (HasFatalFailure()) return;
    if (::access("/dev/loop-control", F_OK) != 0 || ::access(kMakeFileSystem, X_OK) != 0) GTEST_SKIP() << "no loop devices, or no mkfs.ext4";
    disk_ = std::make_unique<JournalDisk>(*bed_, whose_disk());
    auto mounted = disk_->mount();
    ASSERT_TRUE(mounted) << mounted.error().what;
  }
  void TearDown() override {
    disk_.reset();
    Faults::TearDown();
  }
  [[nodiscard]] virtual std::string whose_disk() const { return source_; }
  // Before the frame goes on, or its connection is cut.
  void hang_at(FrameType type, Direction direction, FrameRule::Then then) {
    FrameRule rule = cut_at(type, direction, [this] { disk_->freeze(); });
    rule.then = then;
    hang_by(std::move(rule));
  }
  void hang_by(FrameRule rule) {
    bed_->proxy_of(destination_).set_rule(std::move(rule));
    start();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return disk_->hangs(); }, kReachBound)) << "the moment never came";
  }
  bool stopped(const std::string& node) { return !group_may_run(bed_->cgroup(node)); }
  std::string phase() {
    auto list = bed_->under_way(whose_disk());
    return list && !list->empty() ? list->front() : "";
  }
  std::unique_ptr<JournalDisk> disk_;
};

TEST_F(HungDisk, AnAbortResumesTheWorkloadAllTheSame) {
  hang_at(FrameType::images, Direction::to_target, FrameRule::Then::cut);
  if (HasFatalFailure()) return;
  EXPECT_TRUE(wait_until([&] { return !stopped(source_); }, std::chrono::seconds(2))) << phase();
  EXPECT_TRUE(wait_until([&] { return phase().find("does not answer (record aborted)") != std::string::npos; }, kReachBound)) << phase();
  EXPECT_FALSE(stopped(source_));
  disk_->thaw();
  check_end(Side::source);
  EXPECT_EQ(report_text("/outcome"), "failed");
}

// What has arrived there is thrown away without waiting for this node's disk: the verdict without a commit is certain.
TEST_F(HungDisk, AnAbortIsToldToTheDestinationAllTheSame) {
  // The destination stands with all that has arrived, and its source hears that it has failed.
  FrameRule rule = cut_at(FrameType::ready, Direction::from_target, [this] { disk_->freeze(); });
  rule.then = FrameRule::Then::rewrite;
  rule.rewrite = [](wire::FrameHeader& header, std::string& payload) {
    payload = agent::encode_reason("a word that was changed on its way");
    header.type = static_cast<uint16_t>(FrameType::failed);
    header.length = static_cast<uint32_t>(payload.size());
    header.checksum = move::checksum(move::as_bytes(payload));
  };
  hang_by(std::move(rule));
  if (HasFatalFailure()) return;
  auto left = [&](const std::string& node) { return bed_->under_way(node).value_or(std::vector<std::string>{"not known"}); };
  EXPECT_TRUE(wait_until([&] { return left(destination_).empty(); }, kReachBound / 2)) << left(destination_).front();
  EXPECT_TRUE(wait_until([&] { return !stopped(source_); }, std::chrono::seconds(2))) << phase();
  EXPECT_TRUE(wait_until([&] { return phase().find("does not answer (record aborted)") != std::string::npos; }, kReachBound)) << phase();
  disk_->thaw();
  check_end(Side::source);
  EXPECT_THAT(report_text("/reason"), HasSubstr("changed on its way"));
}

// It may be on the disk: what runs before that is known may run twice.
TEST_F(HungDisk, ACommitIsWaitedForAndSaysWhatStandsStill) {
  hang_at(FrameType::ready, Direction::from_target, FrameRule::Then::nothing);
  if (HasFatalFailure()) return;
  EXPECT_TRUE(wait_until([&] { return phase().find("does not answer (record commit); redis stands still until it does") != std::string::npos; }, kReachBound))
      << phase();
  EXPECT_THAT(said(source_, {"cancel", id_}, 3), HasSubstr("past its commit point"));
  EXPECT_TRUE(stopped(source_) && stopped(destination_));
  disk_->thaw();
  check_end(Side::destination);
}

class HungDestinationDisk : public HungDisk {
 protected:
  [[nodiscard]] std::string whose_disk() const override { return destination_; }
};

TEST_F(HungDestinationDisk, AVerdictIsWaitedForAndSaysWhatStandsStill) {
  hang_at(FrameType::commit, Direction::to_target, FrameRule::Then::nothing);
  if (HasFatalFailure()) return;
  EXPECT_TRUE(wait_until([&] { return phase().find("does not answer (record commit); redis stands still until it does") != std::string::npos; }, kReachBound))
      << phase();
  EXPECT_TRUE(stopped(source_) && stopped(destination_));
  disk_->thaw();
  check_end(Side::destination);
}

}  // namespace
}  // namespace mose::test
