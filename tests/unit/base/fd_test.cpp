// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/fd.h"

namespace mose {
namespace {

bool is_open(int fd) {
  return fcntl(fd, F_GETFD) >= 0;
}

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read = Fd(ends[0]);
    write = Fd(ends[1]);
  }
  Fd read, write;
};

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    EXPECT_NE(mkdtemp(path_.data()), nullptr);
    path_.resize(path_.size() - 1);
  }
  ~TemporaryDirectory() {
    unlink((path_ + "/file").c_str());
    rmdir(path_.c_str());
  }
  [[nodiscard]] std::string file() const { return path_ + "/file"; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_ = std::string("/tmp/mose-base-test-XXXXXX") + '\0';
};

TEST(Fd, ClosesWhenItsOwnerGoes) {
  Pipe pipe;
  int raw = pipe.read.get();
  { Fd owner = std::move(pipe.read); }
  EXPECT_FALSE(is_open(raw));
  EXPECT_FALSE(pipe.read.valid());
}

TEST(Fd, AssigningClosesWhatWasHeldBefore) {
  Pipe a, b;
  int old = a.read.get();
  int kept = b.read.get();
  a.read = std::move(b.read);
  EXPECT_FALSE(is_open(old));
  EXPECT_TRUE(is_open(kept));
  EXPECT_EQ(a.read.get(), kept);
}

TEST(Fd, AssigningToItselfKeepsIt) {
  Pipe pipe;
  Fd& same = pipe.read;
  pipe.read = std::move(same);
  EXPECT_TRUE(is_open(pipe.read.get()));
}

TEST(Fd, ReleaseGivesTheDescriptorAway) {
  Pipe pipe;
  int raw = pipe.read.release();
  EXPECT_FALSE(pipe.read);
  EXPECT_TRUE(is_open(raw));
  ::close(raw);
}

TEST(Fd, EveryDescriptorIsClosedOnExec) {
  auto opened = open_file("/dev/null", O_RDONLY);
  ASSERT_TRUE(opened);
  EXPECT_TRUE(fcntl(opened->get(), F_GETFD) & FD_CLOEXEC);
  auto copy = duplicate(opened->get());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(fcntl(copy->get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_NE(copy->get(), opened->get());
}

TEST(Fd, ErrorsNameThePath) {
  auto missing = open_file("/nonexistent/mose", O_RDONLY);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ENOENT);
  EXPECT_NE(missing.error().what.find("/nonexistent/mose"), std::string::npos);
  EXPECT_FALSE(duplicate(-1));
  EXPECT_FALSE(read_file("/nonexistent/mose"));
  EXPECT_NE(read_file("/proc/self").error().what.find("/proc/self"), std::string::npos) << "a directory";
}

TEST(Fd, OpensBelowADirectory) {
  TemporaryDirectory directory;
  auto dir = open_file(directory.path(), O_DIRECTORY | O_RDONLY);
  ASSERT_TRUE(dir);
  EXPECT_TRUE(open_at(dir->get(), "file", O_CREAT | O_WRONLY, 0600));
  struct stat status {};
  ASSERT_EQ(stat(directory.file().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(ReadAll, ReadsToTheEndAndNoFurtherThanTheLimit) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{20000}}) {
    TemporaryDirectory directory;
    auto file = open_file(directory.file(), O_CREAT | O_WRONLY, 0600);
    ASSERT_TRUE(file);
    std::string contents(size, 'x');
    ASSERT_TRUE(write_all(file->get(), contents));
    EXPECT_EQ(read_file(directory.file()).value(), contents);
    EXPECT_EQ(read_file(directory.file(), size).value(), contents) << "exactly the limit";
    if (size == 0) continue;
    auto cut = read_file(directory.file(), size - 1);
    ASSERT_FALSE(cut);
    EXPECT_NE(cut.error().what.find("more than"), std::string::npos);
  }
}

TEST(WriteAll, GoesOnAfterAShortWrite) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  Fd here(ends[0]), there(ends[1]);
  std::string sent(3'000'000, 'y');  // more than the socket holds
  pid_t child = fork();
  if (child == 0) {
    here.reset();
    auto got = read_all(there.get());
    _exit(got && *got == sent ? 0 : 1);
  }
  there.reset();
  EXPECT_TRUE(write_all(here.get(), sent));
  here.reset();
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(WriteAll, FailsWhenNobodyReads) {
  auto before = std::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  pipe.read.reset();
  Status status = write_all(pipe.write.get(), "x");
  std::signal(SIGPIPE, before);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, EPIPE);
}

TEST(WriteControl, WritesOnceAndNamesValueAndPathOnFailure) {
  TemporaryDirectory directory;
  EXPECT_FALSE(write_control(directory.file(), "1")) << "never creates";
  ASSERT_TRUE(open_file(directory.file(), O_CREAT | O_WRONLY, 0600));
  ASSERT_TRUE(write_control(directory.file(), "1"));
  EXPECT_EQ(read_file(directory.file()).value(), "1");
  Status full = write_control("/dev/full", "17");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ENOSPC);
  EXPECT_NE(full.error().what.find("\"17\" to /dev/full"), std::string::npos);
}

TEST(WriteWholeFile, TakesThePlaceOfWhatWasThereAndFollowsNoLink) {
  TemporaryDirectory directory;
  const std::string path = directory.file(), next = path + ".new";
  ASSERT_TRUE(write_whole_file(path, "long before"));
  ASSERT_TRUE(write_whole_file(path, "now"));
  EXPECT_EQ(read_file(path).value(), "now");
  struct stat status{};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0600u);
  EXPECT_NE(access(next.c_str(), F_OK), 0);
  ASSERT_EQ(symlink("/dev/null", next.c_str()), 0);
  EXPECT_FALSE(write_whole_file(path, "elsewhere"));
  EXPECT_EQ(read_file(path).value(), "now");
  ASSERT_EQ(unlink(next.c_str()), 0);
}

}  // namespace
}  // namespace mose
