// SPDX-License-Identifier: MIT
// A process that is about to write into the memory of another: it has taken hold of the pages, which marks them as written, and waits
// for what it is to put there. What is protected and read meanwhile changes without a trace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "kernel/probe.h"
#include "kernel/remote_writes.h"
#include "kernel/shared_objects.h"
#include "kernel/userfaultfd.h"
#include "netns/sense/sense_bed.h"
#include "sense/settle.h"
#include "sense/write_scan.h"

namespace mose::sense {
namespace {

using test::Actor;
using test::fill;
using test::map_at;
using test::Reserved;
using test::SentPages;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 512;
constexpr size_t kBytes = kPages * kPage;
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;  // PROC_PID_INIT_INO of the kernel

// Stands in process_vm_writev() with a page of `process` in its hands, until it is let go.
class HeldWrite {
 public:
  HeldWrite(pid_t process, char* to) : page_(map_at(nullptr, kPage)) {
    uffd_ = uffd_open().value();
    EXPECT_TRUE(uffd_register(uffd_.get(), own()));
    thread_ = std::thread([this, process, to] {
      tid_ = gettid();
      iovec local{page_, kPage}, remote{to, kPage};
      written_ = process_vm_writev(process, &local, 1, &remote, 1, 0);
    });
    UffdMessage message;
    pollfd ready{uffd_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ready, 1, 10'000), 1) << "it does not wait for its memory";
    EXPECT_TRUE(uffd_read(uffd_.get(), message).value());
    EXPECT_EQ(decode(message).kind, UffdEvent::Kind::fault);
  }
  ~HeldWrite() {
    finish();
    uffd_ = Fd();  // or it would have to hear of the next step
    munmap(page_, kPage);
  }
  HeldWrite(const HeldWrite&) = delete;
  HeldWrite& operator=(const HeldWrite&) = delete;

  [[nodiscard]] pid_t tid() const { return tid_; }
  // It writes this now, and has done so.
  void finish() {
    if (!thread_.joinable()) return;
    const std::vector<std::byte> bytes(kPage, std::byte{0x5a});
    EXPECT_EQ(uffd_copy(uffd_.get(), own().first, bytes).end, UffdInstall::End::done);
    thread_.join();
    EXPECT_EQ(written_, static_cast<ssize_t>(kPage));
  }

 private:
  [[nodiscard]] PageRun own() const { return {reinterpret_cast<uint64_t>(page_) / kPage, 1}; }

  char* page_;
  Fd uffd_;
  std::thread thread_;
  pid_t tid_ = 0;
  ssize_t written_ = 0;
};

class RemoteWriting : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const ProbeResult can = probe("bpf-task-iterator");
    if (can.state != ProbeState::yes && ::access("/sys/kernel/btf/vmlinux", R_OK) != 0) GTEST_SKIP() << can.detail;
    ASSERT_EQ(can.state, ProbeState::yes) << can.detail;
    malloc_trim(0);
  }
  ~RemoteWriting() override { unforce_probes(); }
  Fd own_pids_{open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC)};
  Reserved region_{kBytes};
  char* const at_ = region_.at;
  Actor actor_{{[this] {
                  if (GetParam()) {
                    mmap(at_, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                  } else {
                    map_at(at_, kBytes);
                  }
                  fill(at_, kBytes, 1);
                },
                [this] { at_[3 * kPage] ^= 1; }}};
  [[nodiscard]] std::vector<SpaceProcess> tree() const { return with_shared_objects(actor_.spaces()).value(); }
};
INSTANTIATE_TEST_SUITE_P(Of, RemoteWriting, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& shared) { return shared.param ? "SharedMemory" : "PrivateMemory"; });

TEST_P(RemoteWriting, IsSeenWhileItLasts) {
  struct stat own{};
  ASSERT_EQ(stat("/proc/self/ns/pid", &own), 0);
  if (own.st_ino != kFirstPidNamespace) GTEST_SKIP() << "threads are known by other numbers here";
  actor_.step();
  auto writes = RemoteWrites::prepare().value();
  HeldWrite held(actor_.pid(), at_ + 7 * kPage);
  EXPECT_THAT(writes.under_way().value(), Contains(held.tid()));
  std::jthread([&] { EXPECT_THAT(writes.under_way().value(), Contains(held.tid())) << "by another thread than the first"; }).join();
  held.finish();
  EXPECT_THAT(writes.under_way().value(), Not(Contains(held.tid())));
}

// As an agent in a container would be that looks after another one's service.
TEST_P(RemoteWriting, IsSeenFromAPidNamespaceThatTheWriterIsNotIn) {
  actor_.step();
  int go[2];
  ASSERT_EQ(pipe2(go, O_CLOEXEC), 0);
  ASSERT_EQ(unshare(CLONE_NEWPID), 0);
  const pid_t looker = fork();
  if (looker == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(go[1]);
    auto writes = RemoteWrites::prepare();
    char byte = 0;
    if (!writes || read(go[0], &byte, 1) != 1) _exit(3);
    auto found = writes->under_way();
    _exit(found && !found->empty() ? 0 : found ? 1 : 2);
  }
  ASSERT_GT(looker, 0);
  EXPECT_EQ(setns(own_pids_.get(), CLONE_NEWPID), 0);
  HeldWrite held(actor_.pid(), at_ + 7 * kPage);
  EXPECT_EQ(write(go[1], "", 1), 1);
  close(go[0]);
  close(go[1]);
  int status = 0;
  ASSERT_EQ(waitpid(looker, &status, 0), looker);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

TEST_P(RemoteWriting, ThatCannotBeSeenIsAReasonToHash) {
  actor_.step();
  force_probe("bpf-task-iterator", ProbeState::no);
  WriteScan source({.late = false});
  SentPages sent;
  auto round = source.round(tree(), sent, {});
  ASSERT_TRUE(round) << round.error().what;
  EXPECT_THAT(source.reason(), HasSubstr("forced for a test"));
}

TEST_P(RemoteWriting, ThatIsUnderWayLeavesNoPageStale) {
  actor_.step();
  WriteScan source({.late = false});
  SentPages sent;
  HeldWrite held(actor_.pid(), at_ + 7 * kPage);
  auto armed = source.round(tree(), sent, {});
  ASSERT_TRUE(armed) << armed.error().what;
  EXPECT_THAT(source.reason(), HasSubstr("process_vm_writev"));
  held.finish();
  actor_.freeze();
  source.tree_stopped(actor_.spaces());
  auto final = source.final_scan(tree());
  ASSERT_TRUE(final) << final.error().what;
  EXPECT_THAT(sent.wrong_pages(*final, tree()), IsEmpty());
  actor_.thaw();
}

TEST_P(RemoteWriting, IsWaitedForAsLongAsMayBe) {
  actor_.step();
  const pid_t process = actor_.pid();
  HeldWrite held(process, at_ + 7 * kPage);
  EXPECT_THAT(Settle(std::chrono::milliseconds(5))({&process, 1}).value_or(""), HasSubstr("process_vm_writev"));
  std::atomic<bool> let_go = false;
  std::jthread ends([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    let_go = true;
    held.finish();
  });
  EXPECT_EQ(Settle(std::chrono::seconds(20))({&process, 1}), std::nullopt);
  EXPECT_TRUE(let_go);
}

}  // namespace
}  // namespace mose::sense
