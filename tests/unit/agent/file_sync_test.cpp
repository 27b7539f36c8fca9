// SPDX-License-Identifier: MIT
#include "agent/file_sync.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

class FileSync : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/mose-file-sync-XXXXXX";
    dir_ = mkdtemp(name);
    for (const char* sub : {"a", "b", "log-a", "log-b", "outside"}) fs::create_directory(dir_ + "/" + sub);
    here_.name = there_.name = "redis";
    here_.mounts = {{dir_ + "/a", "/data", MountMode::copy, false}};
    there_.mounts = {{dir_ + "/b", "/data", MountMode::copy, false}};
  }
  void TearDown() override { fs::remove_all(dir_); }

  void write(const std::string& path, const std::string& text) { std::ofstream(dir_ + "/" + path) << text; }
  std::string read(const std::string& path) { return read_file(dir_ + "/" + path).value_or("(missing)"); }

  std::string dir_;
  WorkloadSpec here_, there_;
};

TEST_F(FileSync, CopiesFilesDirectoriesAndModes) {
  fs::create_directory(dir_ + "/a/sub");
  write("a/sub/state", "hello");
  write("a/empty", "");
  write("log-a/stdout.log", "started\n");
  chmod((dir_ + "/a/sub/state").c_str(), 0640);
  auto files = read_copied(here_, dir_ + "/log-a");
  ASSERT_TRUE(files) << files.error().what;
  ASSERT_TRUE(write_copied(there_, dir_ + "/log-b", *files));
  EXPECT_EQ(read("b/sub/state"), "hello");
  EXPECT_EQ(read("b/empty"), "");
  EXPECT_EQ(read("log-b/stdout.log"), "started\n");
  struct stat info {};
  ASSERT_EQ(stat((dir_ + "/b/sub/state").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640u);
}

TEST_F(FileSync, RemovesWhatTheSourceDoesNotHave) {
  write("b/stale", "old");
  fs::create_directories(dir_ + "/b/old/deep");
  write("b/old/deep/file", "old");
  ASSERT_TRUE(write_copied(there_, "", {}));
  EXPECT_TRUE(fs::is_empty(dir_ + "/b"));
}

TEST_F(FileSync, LongerFilesAreCutToTheSourcesLength) {
  write("a/file", "short");
  write("b/file", "a longer text than that");
  auto files = read_copied(here_, "");
  ASSERT_TRUE(files);
  ASSERT_TRUE(write_copied(there_, "", *files));
  EXPECT_EQ(read("b/file"), "short");
}

// A private mapping of the copy, written on its second page.
class FileSyncMapped : public FileSync {
 protected:
  void SetUp() override {
    FileSync::SetUp();
    write("b/file", std::string(kBytes, 'F'));
    auto file = open_file(dir_ + "/b/file", O_RDONLY);
    ASSERT_TRUE(file);
    void* m = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file->get(), 0);
    ASSERT_NE(m, MAP_FAILED);
    mapped_ = static_cast<char*>(m);
    mapped_[kPage] = 'P';
  }
  void TearDown() override {
    munmap(mapped_, kBytes);
    FileSync::TearDown();
  }
  Status carry(const std::string& contents, CopyTarget target) {
    write("a/file", contents);
    auto files = read_copied(here_, "");
    if (!files) return std::unexpected(files.error());
    return write_copied(there_, "", *files, target);
  }
  static constexpr size_t kPage = 4096, kBytes = 4 * kPage;
  char* mapped_ = nullptr;
};

TEST_F(FileSyncMapped, PrivatePagesStayWhenTheFileIsTheSame) {
  struct stat before {}, after {};
  ASSERT_EQ(stat((dir_ + "/b/file").c_str(), &before), 0);
  ASSERT_TRUE(carry(std::string(kBytes, 'F'), CopyTarget::standby));
  ASSERT_EQ(stat((dir_ + "/b/file").c_str(), &after), 0);
  EXPECT_EQ(mapped_[kPage], 'P');
  EXPECT_EQ(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
  EXPECT_EQ(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec) << "it was written";
}

TEST_F(FileSyncMapped, PrivatePagesStayWhenTheFileChangesAndGrows) {
  std::string contents(kBytes + 100, 'F');
  contents[2 * kPage] = contents[kPage] = 'x';
  ASSERT_TRUE(carry(contents, CopyTarget::standby));
  EXPECT_EQ(read("b/file"), contents);
  EXPECT_EQ(mapped_[kPage], 'P');
  EXPECT_EQ(mapped_[2 * kPage], 'x');
}

TEST_F(FileSyncMapped, AFileThatHasBecomeShorterIsRefusedUnderAStandby) {
  auto written = carry("short", CopyTarget::standby);
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().what.find("file has become shorter since the standby was made"), std::string::npos) << written.error().what;
  EXPECT_EQ(mapped_[kPage], 'P');
  EXPECT_EQ(read("b/file").size(), kBytes);
  ASSERT_TRUE(carry("short", CopyTarget::nobody));
  EXPECT_EQ(read("b/file"), "short");
}

// The kernel lets nobody open it for writing.
TEST_F(FileSync, AProgramThatRunsAndIsTheSameIsLeftAlone) {
  for (const char* side : {"/a/program", "/b/program"}) fs::copy_file("/bin/sleep", dir_ + side);
  pid_t child = fork();
  if (child == 0) {
    execl((dir_ + "/b/program").c_str(), "sleep", "60", nullptr);
    _exit(1);
  }
  ASSERT_GT(child, 0);
  auto runs = [&] {
    std::error_code error;
    return fs::read_symlink("/proc/" + std::to_string(child) + "/exe", error) == dir_ + "/b/program";
  };
  for (int i = 0; i < 500 && !runs(); ++i) usleep(10'000);
  EXPECT_TRUE(runs());
  auto files = read_copied(here_, "");
  ASSERT_TRUE(files);
  auto written = write_copied(there_, "", *files, CopyTarget::standby);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(written) << written.error().what;
}

// A file system of its own, and what would be left of it if its node lost power now: the blocks that have been written.
class FileSyncOnADisk : public FileSync {
 protected:
  void SetUp() override {
    FileSync::SetUp();
    if (!run("truncate -s 24M {}/disk && mkfs.ext4 -q -F {}/disk && mount -o loop {}/disk {}/b")) GTEST_SKIP() << "no loop device or mkfs.ext4 here";
    mounted_ = true;
  }
  void TearDown() override {
    if (mounted_) {
      EXPECT_TRUE(run("umount {}/b"));
    }
    FileSync::TearDown();
  }
  bool run(std::string command) {
    for (size_t at; (at = command.find("{}")) != std::string::npos;) command.replace(at, 2, dir_);
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
  }
  void arrive() {
    auto files = read_copied(here_, "");
    ASSERT_TRUE(files) << files.error().what;
    auto synced = sync_copied(there_);
    ASSERT_TRUE(synced) << synced.error().what;
    auto written = write_copied(there_, "", *files);
    ASSERT_TRUE(written) << written.error().what;
  }
  // The names below, and what is in the files, after the cut.
  std::map<std::string, std::string> after_power_loss() {
    EXPECT_TRUE(run("cp {}/disk {}/copy && mkdir -p {}/after && mount -o loop {}/copy {}/after"));
    std::map<std::string, std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(dir_ + "/after")) {
      const std::string name = fs::relative(entry.path(), dir_ + "/after");
      if (name != "lost+found") found[name] = entry.is_directory() ? "a directory" : read("after/" + name);
    }
    EXPECT_TRUE(run("umount {}/after && rm {}/copy"));
    return found;
  }
  bool mounted_ = false;
};

TEST_F(FileSyncOnADisk, WhatHasArrivedOutlivesAPowerLoss) {
  using Files = std::map<std::string, std::string>;
  fs::create_directories(dir_ + "/a/sub");
  write("a/sub/state", "first");
  write("a/log", "1");
  arrive();
  EXPECT_EQ(after_power_loss(), (Files{{"sub", "a directory"}, {"sub/state", "first"}, {"log", "1"}}));
  // In place, a new one, and one less.
  write("a/sub/state", "other");
  write("a/sub/new", "n");
  fs::remove(dir_ + "/a/log");
  arrive();
  EXPECT_EQ(after_power_loss(), (Files{{"sub", "a directory"}, {"sub/state", "other"}, {"sub/new", "n"}}));
  for (int i = 0; i < 200; ++i) write("a/many-" + std::to_string(i), std::to_string(i));
  arrive();
  const Files all = after_power_loss();
  EXPECT_EQ(all.size(), 203u);
  EXPECT_EQ(all.at("many-199"), "199");
}

TEST_F(FileSyncOnADisk, ManyThatAreTheSameOutliveAPowerLossAsWell) {
  for (const char* side : {"a", "b"}) {
    for (int i = 0; i < 200; ++i) write(std::string(side) + "/many-" + std::to_string(i), std::to_string(i));
  }
  ASSERT_TRUE(after_power_loss().empty()) << "nothing of it is on the disk yet";
  arrive();
  const auto all = after_power_loss();
  EXPECT_EQ(all.size(), 200u);
  EXPECT_EQ(all.at("many-199"), "199");
}

// A link in the copy, or nothing there yet, is nothing that a sync stumbles over.
TEST_F(FileSync, WhatCannotBeSyncedIsPassedBy) {
  fs::create_symlink("nowhere", dir_ + "/b/link");
  EXPECT_TRUE(sync_copied(there_));
  fs::remove_all(dir_ + "/b");
  EXPECT_TRUE(sync_copied(there_));
}

// By an agent that died before it had synced it, or by the workload when it was here.
TEST_F(FileSyncOnADisk, WhatIsTheSameAlreadyOutlivesAPowerLossAsWell) {
  using Files = std::map<std::string, std::string>;
  write("b/gone", "removed by who has died");
  ASSERT_TRUE(run("sync -f {}/b"));
  for (const char* side : {"/a", "/b"}) {
    fs::create_directories(dir_ + side + "/sub/below");
    write(std::string(side).substr(1) + "/sub/state", "written by who has died");
  }
  fs::remove(dir_ + "/b/gone");
  ASSERT_EQ(after_power_loss(), (Files{{"gone", "removed by who has died"}})) << "nothing of it is on the disk yet";
  arrive();
  EXPECT_EQ(after_power_loss(), (Files{{"sub", "a directory"}, {"sub/below", "a directory"}, {"sub/state", "written by who has died"}}));
}

TEST_F(FileSync, RefusesPathsThatLeaveTheMount) {
  for (const char* path : {"../outside/x", "/etc/x", "sub/../../outside/x", "", ".", "a/./b"}) {
    CopiedFile file;
    file.path = path;
    file.contents = "evil";
    EXPECT_FALSE(write_copied(there_, "", {file})) << path;
  }
  EXPECT_TRUE(fs::is_empty(dir_ + "/outside"));
}

TEST_F(FileSync, RefusesAnUnknownMount) {
  CopiedFile file;
  file.path = "x";
  for (uint32_t mount : {1u, 7u, kLogMount}) {
    file.mount = mount;
    EXPECT_FALSE(write_copied(there_, "", {file})) << mount;
  }
}

TEST_F(FileSync, FollowsNoSymbolicLink) {
  // Left at the destination before: neither a parent nor the file itself may lead out.
  fs::create_directory_symlink(dir_ + "/outside", dir_ + "/b/sub");
  CopiedFile file;
  file.path = "sub/x";
  file.contents = "evil";
  CopiedFile parent;
  parent.path = "sub";
  parent.directory = true;
  EXPECT_FALSE(write_copied(there_, "", {parent, file}));
  EXPECT_TRUE(fs::is_empty(dir_ + "/outside"));
}

TEST_F(FileSync, NamesWhatCannotBeCopied) {
  ASSERT_EQ(mkfifo((dir_ + "/a/pipe").c_str(), 0600), 0);
  auto files = read_copied(here_, "");
  ASSERT_FALSE(files);
  EXPECT_NE(files.error().what.find("/a/pipe"), std::string::npos) << files.error().what;
}

// This process may open so many files more, until the object ends.
class DescriptorsLeft {
 public:
  explicit DescriptorsLeft(rlim_t count) {
    int lowest = dup(STDIN_FILENO);
    close(lowest);
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    const rlimit less{static_cast<rlim_t>(lowest) + count, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &less), 0);
  }
  ~DescriptorsLeft() { EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

TEST_F(FileSync, ADirectoryThatCannotBeReadToItsEndIsNoShorterList) {
  fs::create_directories(dir_ + "/a/1/2/3/4/5/6");  // a descriptor for each that is being read
  auto all = read_copied(here_, "");
  ASSERT_TRUE(all) << all.error().what;
  EXPECT_EQ(all->size(), 6u);
  auto cut_off = [&] {
    DescriptorsLeft few(3);
    return read_copied(here_, "");
  }();
  ASSERT_FALSE(cut_off) << "of 6 directories it lists " << cut_off->size();
  EXPECT_EQ(cut_off.error().code, EMFILE);
  EXPECT_NE(cut_off.error().what.find("read directory " + dir_ + "/a"), std::string::npos) << cut_off.error().what;
}

TEST_F(FileSync, IdenticalFilesAreComparedByContents) {
  auto self = ProcessHandle::open(getpid());
  ASSERT_TRUE(self);
  WorkloadSpec spec;
  spec.root = "/";
  auto identities = identify_files(spec, *self);
  ASSERT_TRUE(identities) << identities.error().what;
  ASSERT_FALSE(identities->empty());
  EXPECT_TRUE(compare_files(spec, *identities).empty());
  (*identities)[0].digest[0] ^= 1;
  (*identities).push_back({"/no/such/library.so", 1, std::string(16, 'x')});
  auto reasons = compare_files(spec, *identities);
  ASSERT_EQ(reasons.size(), 2u);
  EXPECT_NE(reasons[0].find("differs"), std::string::npos);
  EXPECT_NE(reasons[1].find("/no/such/library.so"), std::string::npos);
}

TEST_F(FileSync, ACopyIsKnownByItsMark) {
  std::string state = dir_ + "/state";
  EXPECT_FALSE(copied_here(state, dir_ + "/a"));
  ASSERT_TRUE(mark_copied(state, here_));
  ASSERT_TRUE(mark_copied(state, here_));
  EXPECT_TRUE(copied_here(state, dir_ + "/a"));
  EXPECT_FALSE(copied_here(state, dir_ + "/b"));
  EXPECT_EQ(read_file(state + "/copied").value_or(""), dir_ + "/a\n");
}

TEST_F(FileSync, AMarkThatIsForgottenIsGoneAndTheFilesStay) {
  std::string state = dir_ + "/state";
  EXPECT_TRUE(forget_copied(state)) << "there was none";
  write("a/file", "kept");
  ASSERT_TRUE(mark_copied(state, here_));
  ASSERT_TRUE(forget_copied(state));
  EXPECT_FALSE(copied_here(state, dir_ + "/a"));
  EXPECT_EQ(read("a/file"), "kept");
  EXPECT_TRUE(forget_copied(state)) << "once more";
  ASSERT_TRUE(mark_copied(state, here_));
  EXPECT_TRUE(copied_here(state, dir_ + "/a"));
}

}  // namespace
}  // namespace mose::agent
