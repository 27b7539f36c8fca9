// SPDX-License-Identifier: MIT
// Real processes with real ties to the outside: each is found and named with its process and descriptor.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "agent/check.h"
#include "base/fd.h"
#include "kernel/cgroup.h"
#include "kernel/inspect.h"
#include "support/support.h"

namespace mose {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// A child that does `work`, says so and sleeps.
class Child {
 public:
  explicit Child(const std::function<void()>& work) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    Fd reader(ends[0]), writer(ends[1]);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (unshare(CLONE_NEWIPC) != 0) _exit(1);  // what others of this host have left in theirs would be its own
      int null = open("/dev/null", O_RDWR);
      for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
      if (null > 2) close(null);
      work();
      if (::write(writer.get(), "x", 1) != 1) _exit(1);
      close(writer.release());
      close(reader.release());
      for (;;) pause();
    }
    writer.reset();
    char byte;
    EXPECT_EQ(read(reader.get(), &byte, 1), 1);
    // The child's own ends are closed a moment after its byte.
    usleep(20000);
  }
  ~Child() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

  [[nodiscard]] std::vector<std::string> reasons(const std::string& cgroup = "") const {
    auto handle = ProcessHandle::open(pid_);
    EXPECT_TRUE(handle);
    // The mounts of the whole host are none of this test's business.
    InspectRequest request{&*handle, cgroup, {}};
    auto ties = inspect_ties(request);
    EXPECT_TRUE(ties) << ties.error().what;
    std::vector<std::string> out;
    WorkloadSpec spec;
    spec.name = "test";
    for (const std::string& reason : agent::check_workload(spec, *handle, cgroup)) {
      if (reason.find("the mount") == std::string::npos) out.push_back(reason);
    }
    return out;
  }

 private:
  pid_t pid_ = 0;
};

class InspectTest : public testing::Test {
 protected:
  // Descriptors of whoever started the test are real ties of its children: not wanted here.
  static void SetUpTestSuite() { (void)close_range(3, ~0u, 0); }
  void SetUp() override {
    if (geteuid() != 0) test::skip_process("needs root");
  }
};

TEST_F(InspectTest, AProcessWithoutTiesHasNone) {
  Child child([] {
    (void)socket(AF_INET, SOCK_STREAM, 0);
    int pair[2];
    (void)!pipe(pair);
    (void)socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    (void)syscall(SYS_eventfd2, 0, 0);
    (void)syscall(SYS_epoll_create1, 0);
  });
  EXPECT_THAT(child.reasons(), testing::IsEmpty());
}

// Its children come and go while they are looked at, each with a pipe of the tree in its hands.
TEST_F(InspectTest, OneThatForksAllTheTimeHasNoTiesByThat) {
  Child child([] {
    int ends[2];
    if (pipe(ends) != 0 || fork() != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
      if (fork() == 0) {
        usleep(3000);
        _exit(0);
      }
      usleep(300);
    }
  });
  for (int i = 0; i < 30; ++i) ASSERT_THAT(child.reasons(), testing::IsEmpty());
}

// As a web server does: a file's number is a socket's a moment later, and a socket lies on no mount of anybody.
TEST_F(InspectTest, OneWhoseDescriptorsAreFilesAndSocketsInTurnHasNoTiesByThat) {
  Child child([] {
    if (fork() != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
      const int file = open("/etc/passwd", O_RDONLY);
      usleep(300);
      close(file);
      const int taken = socket(AF_INET, SOCK_STREAM, 0);
      usleep(300);
      close(taken);
    }
  });
  for (int i = 0; i < 30; ++i) ASSERT_THAT(child.reasons(), testing::IsEmpty());
}

TEST_F(InspectTest, ATerminalIsNamed) {
  int master = -1, slave = -1;
  ASSERT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  Fd a(master), b(slave);
  Child child([&] {
    dup2(b.get(), 20);
    close(b.get());
    close(a.get());
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("descriptor 20 is the terminal /dev/pts/")));
}

TEST_F(InspectTest, APipeToTheOutsideIsNamedWithWhoHoldsIt) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Fd a(ends[0]), b(ends[1]);
  Child child([&] {
    dup2(b.get(), 21);
    close(a.get());
    close(b.get());
  });
  auto reasons = child.reasons();
  EXPECT_THAT(reasons,
              Contains(HasSubstr("(pid " + std::to_string(child.pid()) + "): descriptor 21 is the pipe pipe:[")));
  EXPECT_THAT(reasons, Contains(HasSubstr("pid " + std::to_string(getpid()) + ": its other end stays here")));
}

TEST_F(InspectTest, AFifoToTheOutsideIsNamed) {
  std::string path = "/tmp/mose-test-inspect-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  Fd ours(open(path.c_str(), O_RDWR | O_CLOEXEC));
  Child child([&] {
    (void)open(path.c_str(), O_RDWR);
    close(ours.get());
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("the pipe " + path)));
  unlink(path.c_str());
}

TEST_F(InspectTest, AUnixSocketToTheOutsideIsNamed) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Fd a(pair[0]), b(pair[1]);
  Child child([&] {
    dup2(b.get(), 22);
    close(a.get());
    close(b.get());
  });
  b.reset();
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("descriptor 22 is the unix socket socket:[")));
}

TEST_F(InspectTest, ASocketOfAnotherNetworkNamespaceIsNamed) {
  Fd ours(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Child child([&] {
    dup2(ours.get(), 23);
    close(ours.get());
    if (unshare(CLONE_NEWNET) != 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("of another network namespace")));
}

TEST_F(InspectTest, APacketSocketIsNamed) {
  Child child([] { (void)socket(AF_PACKET, SOCK_RAW, 0); });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("of address family " + std::to_string(AF_PACKET))));
}

// Found before the workload stands still for a dump that refuses them.
TEST_F(InspectTest, SocketsThatCriuDoesNotDumpAreNamed) {
  Child child([] {
    if (unshare(CLONE_NEWNET) != 0) _exit(1);
    std::ofstream("/proc/sys/net/ipv4/ping_group_range") << "0 0\n";
    dup2(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), 24);
    dup2(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), 25);
    dup2(socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE), 26);
    dup2(socket(AF_INET, SOCK_STREAM, 0), 27);
    dup2(socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), 28);
  });
  auto reasons = child.reasons();
  EXPECT_THAT(reasons, Contains(AllOf(HasSubstr("descriptor 24 "), HasSubstr("of protocol 1, which CRIU does not dump"))));
  for (const char* dumped : {"descriptor 25 ", "descriptor 26 ", "descriptor 27 "}) EXPECT_THAT(reasons, Not(Contains(HasSubstr(dumped))));
  if (std::filesystem::exists("/proc/sys/net/mptcp")) {
    EXPECT_THAT(reasons, Contains(AllOf(HasSubstr("descriptor 28 "), HasSubstr("of Multipath TCP"))));
  }
}

TEST_F(InspectTest, AnIoUringIsNamed) {
  char parameters[256] = {};
  Fd ring(static_cast<int>(syscall(SYS_io_uring_setup, 4, parameters)));
  if (!ring) GTEST_SKIP() << "this kernel gives no io_uring";
  Child child([] {
    char own[256] = {};
    if (syscall(SYS_io_uring_setup, 4, own) < 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("is an io_uring io_uring")));
}

TEST_F(InspectTest, AUserfaultfdIsNamed) {
  Child child([] {
    if (syscall(SYS_userfaultfd, O_CLOEXEC) < 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("is a userfaultfd")));
}

TEST_F(InspectTest, ADeviceIsNamedAndNullIsNot) {
  Child child([] {
    (void)open("/dev/net/tun", O_RDWR);
    (void)open("/dev/zero", O_RDWR);
  });
  auto reasons = child.reasons();
  EXPECT_THAT(reasons, Contains(HasSubstr("the device /dev/net/tun")));
  EXPECT_THAT(reasons, Not(Contains(HasSubstr("/dev/zero"))));
}

TEST_F(InspectTest, MemoryThatTheTreeAloneSharesIsNoTie) {
  Child child([] {
    if (mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) _exit(1);
    (void)memfd_create("mine", 0);
  });
  EXPECT_THAT(child.reasons(), testing::IsEmpty());
}

TEST_F(InspectTest, MemorySharedWithTheOutsideIsNamedWithWhoHasIt) {
  Fd ours(memfd_create("common", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(ours.get(), 8192), 0);
  void* at = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  Child child([&] {
    dup2(ours.get(), 24);
    close(ours.get());
  });
  auto reasons = child.reasons();
  EXPECT_THAT(reasons, Contains(HasSubstr("descriptor 24 is the shared memory /memfd:common, which ")));
  EXPECT_THAT(reasons, Contains(HasSubstr("has the shared memory /dev/zero, which ")));
  EXPECT_THAT(reasons, Contains(HasSubstr(", pid " + std::to_string(getpid()) + ", has too: ")));
  munmap(at, 8192);
}

TEST_F(InspectTest, SealedMemoryIsNamed) {
  Child child([] {
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    if (ftruncate(fd, 4096) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) != 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("is the sealed memory /memfd:sealed: ")));
}

TEST_F(InspectTest, SecretMemoryIsNamed) {
  Fd secret(static_cast<int>(syscall(SYS_memfd_secret, 0)));
  if (!secret) GTEST_SKIP() << "this kernel gives no secret memory";
  Child child([] {
    int fd = static_cast<int>(syscall(SYS_memfd_secret, 0));
    if (ftruncate(fd, 4096) != 0 || mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED)
      _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("has the memory /secretmem")));
}

TEST_F(InspectTest, ARingOfAsynchronousIoIsNamed) {
  unsigned long ring = 0;
  if (syscall(SYS_io_setup, 8, &ring) != 0) GTEST_SKIP() << "this kernel gives no asynchronous I/O";
  syscall(SYS_io_destroy, ring);
  Child child([] {
    unsigned long own = 0;
    if (syscall(SYS_io_setup, 8, &own) != 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("a ring of asynchronous I/O")));
}

TEST_F(InspectTest, MuchLockedMemoryIsNamedAndLittleIsNot) {
  static constexpr size_t kLittle = 16384, kMuch = 65u << 20;
  Child modest([] {
    void* locked = mmap(nullptr, kLittle, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (::syscall(SYS_mlock, locked, kLittle) != 0) _exit(1);
  });
  EXPECT_THAT(modest.reasons(), testing::IsEmpty());
  Child child([] {
    void* locked = mmap(nullptr, kMuch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // The call itself: under AddressSanitizer mlock() does nothing.
    if (::syscall(SYS_mlock, locked, kMuch) != 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("locked memory, 66560 KiB")));
}

TEST_F(InspectTest, SystemVObjectsAreNamedButSegmentsThatSomebodyHasAreNot) {
  Child attached([] {
    const int id = shmget(IPC_PRIVATE, 4096, 0600);
    if (shmat(id, nullptr, 0) == reinterpret_cast<void*>(-1)) _exit(1);
  });
  EXPECT_THAT(attached.reasons(), testing::IsEmpty());
  Child unattached([] {
    if (shmget(IPC_PRIVATE, 4096, 0600) < 0) _exit(1);
  });
  EXPECT_THAT(unattached.reasons(), Contains(HasSubstr("no process of the workload has attached it")));
  Child others([] {
    if (semget(IPC_PRIVATE, 1, 0600) < 0 || semget(IPC_PRIVATE, 1, 0600) < 0 ||
        msgget(IPC_PRIVATE, 0600) < 0)
      _exit(1);
  });
  EXPECT_THAT(others.reasons(), Contains(HasSubstr("2 System V semaphore sets")));
  EXPECT_THAT(others.reasons(), Contains(HasSubstr("1 System V message queue")));
}

TEST_F(InspectTest, AFileFromAnotherMountNamespaceIsNamed) {
  Child child([] {
    // An open file stays on the old namespace's mount.
    (void)open("/etc/passwd", O_RDONLY);
    if (unshare(CLONE_NEWNS) != 0) _exit(1);
  });
  EXPECT_THAT(child.reasons(), Contains(HasSubstr("lies on a mount that the workload does not have")));
}

TEST_F(InspectTest, ProcessesThatDoNotBelongTogetherAreNamed) {
  auto mount = cgroup_mount();
  if (!mount) test::skip_process("needs cgroup version 2");
  std::string path = *mount + "/mose-test-inspect";
  auto group = Cgroup::create(path);
  ASSERT_TRUE(group);
  Child child([] {});
  Child foreign([] {});
  ASSERT_TRUE(group->add(foreign.pid()));
  auto reasons = child.reasons(path);
  EXPECT_THAT(reasons, Contains(HasSubstr("pid " + std::to_string(foreign.pid()))));
  EXPECT_THAT(reasons, Contains(HasSubstr("lies outside of the workload's cgroup")));
  kill(foreign.pid(), SIGKILL);
  EXPECT_TRUE(group->remove(std::chrono::seconds(5)));
}

}  // namespace
}  // namespace mose
