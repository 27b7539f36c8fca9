// SPDX-License-Identifier: MIT
// What is made of each way in which memory that processes share can be written between the armed round and the freeze. Every
// row is checked against the truth: no page that counts as sent may differ from what was sent. And where the page tables can
// tell, they are asked: the object is not read again.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <thread>

#include "kernel/address_space.h"
#include "kernel/shared_objects.h"
#include "netns/sense/sense_bed.h"
#include "sense/write_scan.h"
#include "support/support.h"

namespace mose::sense {
namespace {

using test::Actor;
using test::fill;
using test::Reserved;
using test::SentPages;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 512;
constexpr size_t kBytes = kPages * kPage;

enum class Kind { anonymous, memfd, memfd_open, segment };

struct Row {
  const char* name;
  bool tracked;  // by the page tables; else the object is read as a whole
  std::function<void(char*)> before, change;
  uint64_t remote = 0;  // pages of the object
  Kind kind = Kind::anonymous;
  const char* why = "";  // not tracked, in words
};

int object_fd = -1;

// The region of the actor, by each kind of object.
void map_object(Kind kind, char* at) {
  constexpr int kProtection = PROT_READ | PROT_WRITE;
  if (kind == Kind::segment) {
    const int id = shmget(IPC_PRIVATE, kBytes, 0600);
    const bool attached = shmat(id, at, SHM_REMAP) == at;
    shmctl(id, IPC_RMID, nullptr);  // with its last mapping
    if (!attached) _exit(2);
    return;
  }
  if (kind == Kind::anonymous) {
    if (mmap(at, kBytes, kProtection, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) _exit(2);
    return;
  }
  object_fd = memfd_create("mose-test", MFD_CLOEXEC);
  if (ftruncate(object_fd, kBytes) != 0 || mmap(at, kBytes, kProtection, MAP_SHARED | MAP_FIXED, object_fd, 0) != at) _exit(2);
  if (kind == Kind::memfd) close(object_fd);
}

// A process that has the object as well and does something when it is told to.
int to_other[2], from_other[2];
void fork_other(const std::function<void()>& work) {
  if (pipe(to_other) != 0 || pipe(from_other) != 0) _exit(3);
  if (fork() != 0) return;
  for (char byte; read(to_other[0], &byte, 1) == 1;) {
    work();
    static_cast<void>(!write(from_other[1], &byte, 1));
  }
  for (;;) pause();
}
void let_other_work() {
  char byte = 'w';
  static_cast<void>(!write(to_other[1], &byte, 1));
  static_cast<void>(!read(from_other[0], &byte, 1));
}

void in_child(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

void send_to_itself(int fd) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0 || !test::send_descriptor(pair[0], fd)) _exit(3);
  close(fd);
}

void nothing(char*) {}

constexpr const char* kChanged = "have changed their mappings";

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"nothing", true, nothing, nothing, 0},
      {"store", true, nothing, [](char* r) { r[5 * kPage] ^= 1; }, 1},
      {"store by another thread, which was there", true,
       [](char* r) {
         if (pipe(to_other) != 0 || pipe(from_other) != 0) _exit(3);
         std::thread([r] {
           char byte;
           static_cast<void>(!read(to_other[0], &byte, 1));
           r[6 * kPage] ^= 1;
           static_cast<void>(!write(from_other[1], &byte, 1));
           for (;;) pause();
         }).detach();
       },
       [](char*) { let_other_work(); }, 1},
      {"store by another process", true, [](char* r) { fork_other([r] { r[7 * kPage] ^= 1; }); }, [](char*) { let_other_work(); }, 1},
      {"stores by both", true, [](char* r) { fork_other([r] { r[7 * kPage] ^= 1; }); },
       [](char* r) {
         r[9 * kPage] ^= 1;
         let_other_work();
       },
       2},
      {"read(2)", true, nothing,
       [](char* r) {
         const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
         if (read(fd, r + 20 * kPage, kPage) <= 0) _exit(4);
       },
       1},
      {"process_vm_writev by another process", true,
       [](char* r) {
         const pid_t parent = getpid();
         fork_other([r, parent] {
           char bytes[64] = "from outside";
           iovec local{bytes, sizeof bytes}, remote{r + 30 * kPage, sizeof bytes};
           if (process_vm_writev(parent, &local, 1, &remote, 1, 0) != sizeof bytes) _exit(5);
         });
       },
       [](char*) { let_other_work(); }, 1},
      // Out of the page tables that would have told: it was written, and does not show as that.
      {"written and given back by its writer", true, nothing,
       [](char* r) {
         r[40 * kPage] ^= 1;
         madvise(r + 40 * kPage, kPage, MADV_DONTNEED);
       },
       1},
      {"given back and not written", true, nothing, [](char* r) { madvise(r + 40 * kPage, 8 * kPage, MADV_DONTNEED); }, 0},
      {"given back before, written by a process that had not touched it", true,
       [](char* r) { fork_other([r] { r[50 * kPage] ^= 1; }); },
       [](char* r) {
         madvise(r, kBytes, MADV_DONTNEED);
         let_other_work();
       },
       1},
      {"a hole that is filled", true, [](char* r) { madvise(r + 60 * kPage, 8 * kPage, MADV_REMOVE); },
       [](char* r) { fill(r + 60 * kPage, 2 * kPage, 7); }, 2},
      {"a hole that is made", true, nothing, [](char* r) { madvise(r + 60 * kPage, 8 * kPage, MADV_REMOVE); }, 0},
      {"a hole that is made and filled", true, nothing,
       [](char* r) {
         madvise(r + 60 * kPage, 8 * kPage, MADV_REMOVE);
         fill(r + 62 * kPage, kPage, 7);
       },
       1},
      {"set to zero", true, nothing, [](char* r) { memset(r + 70 * kPage, 0, kPage); }, 0},
      {"zero set to something", true, [](char* r) { memset(r + 71 * kPage, 0, kPage); }, [](char* r) { r[71 * kPage] = 'z'; }, 1},
      {"fork, the child writes and ends", false, nothing,
       [](char* r) { in_child([r] { r[80 * kPage] ^= 1; }); }, 1, Kind::anonymous, kChanged},
      {"fork, the child writes and stays", false, nothing,
       [](char* r) {
         fork_other([r] { r[81 * kPage] ^= 1; });
         let_other_work();
       },
       1, Kind::anonymous, kChanged},
      {"a process that maps it writes and ends", false,
       [](char* r) {
         fork_other([r] {
           r[82 * kPage] ^= 1;
           char byte = 'w';
           static_cast<void>(!write(from_other[1], &byte, 1));
           _exit(0);
         });
       },
       [](char*) {
         let_other_work();
         wait(nullptr);
       },
       1, Kind::anonymous, kChanged},
      {"mapped once more, written there and unmapped", false, nothing,
       [](char* r) {
         char* again = static_cast<char*>(mremap(r, 0, kBytes, MREMAP_MAYMOVE));
         again[90 * kPage] ^= 1;
         munmap(again, kBytes);
       },
       1, Kind::anonymous, kChanged},
      {"moved by mremap", false, nothing,
       [](char* r) {
         mremap(r, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, r + kBytes);
         r[kBytes + 91 * kPage] ^= 1;
       },
       1, Kind::anonymous, kChanged},
      {"protection changed", false, [](char* r) { mprotect(r, kBytes / 2, PROT_READ); },
       [](char* r) {
         mprotect(r, kBytes / 2, PROT_READ | PROT_WRITE);
         r[92 * kPage] ^= 1;
       },
       1, Kind::anonymous, kChanged},
      {"a memfd that nobody has open", true, nothing, [](char* r) { r[100 * kPage] ^= 1; }, 1, Kind::memfd},
      {"write(2) to a memfd", false, nothing,
       [](char*) {
         if (pwrite(object_fd, "written", 7, 101 * kPage) != 7) _exit(6);
       },
       1, Kind::memfd_open, "has its memfd open"},
      {"a memfd that waits in a socket", false, [](char*) { send_to_itself(object_fd); },
       [](char* r) { r[102 * kPage] ^= 1; }, 1, Kind::memfd_open, "holds descriptors"},
      {"a System V segment", true, nothing, [](char* r) { r[110 * kPage] ^= 1; }, 1, Kind::segment},
      // It might have attached it, written and gone, and its parent shares its address space until the exec.
      {"a System V segment, and a thread came and went", false, nothing,
       [](char*) {
         static char stack[65536];
         const int pid = clone([](void*) { return 0; }, stack + sizeof stack, CLONE_VM | SIGCHLD, nullptr);
         if (pid < 0 || waitpid(pid, nullptr, 0) != pid) _exit(7);
       },
       0, Kind::segment, "may have attached it"},
  };
  return table;
}

std::vector<SpaceProcess> tree_of(const Actor& actor) { return with_shared_objects(actor.spaces()).value(); }
std::vector<SpaceProcess> objects_of(const std::vector<SpaceProcess>& all) {
  std::vector<SpaceProcess> out;
  std::ranges::copy_if(all, std::back_inserter(out), [](const SpaceProcess& one) { return !one.object.empty(); });
  return out;
}

// Whoever has got a number in the pid namespace of these tests may have attached a segment: beside other work on this
// machine one that is tracked is read all the same.
uint32_t next_pid() {
  static const AddressSpaces spaces = AddressSpaces::prepare().value();
  return spaces.of(getpid()).value().next_pid;
}

void check_row(const Row& row, bool rounds_after) {
  SCOPED_TRACE(std::string(row.name) + (rounds_after ? ", and a round in between" : ""));
  malloc_trim(0);
  const Reserved region(2 * kBytes);
  char* const at = region.at;
  Actor actor({[&] {
                 map_object(row.kind, at);
                 fill(at, kBytes, 1);
                 row.before(at);
               },
               [&] { at[300 * kPage] ^= 1; }, [&] { row.change(at); }});
  actor.step();
  WriteScan source({.late = false});
  SentPages sent;
  auto armed = source.round(tree_of(actor), sent, {});
  ASSERT_TRUE(armed) << armed.error().what;
  const uint32_t pid_before = next_pid();
  auto strangers = [&] { return row.kind == Kind::segment && next_pid() != pid_before; };
  actor.step();
  if (rounds_after) {
    auto again = source.round(tree_of(actor), sent, {});
    ASSERT_TRUE(again) << again.error().what;
    if (row.kind != Kind::memfd_open && !strangers()) {
      EXPECT_LT(again->pages_read, kPages / 2) << source.reason();
    }
  }
  actor.step();
  actor.freeze();
  source.tree_stopped(actor.spaces());
  const std::vector<SpaceProcess> objects = objects_of(tree_of(actor));
  ASSERT_EQ(objects.size(), 1u);
  auto final = source.final_scan(objects);
  ASSERT_TRUE(final) << final.error().what;
  ASSERT_EQ(final->spaces.size(), 1u);
  EXPECT_THAT(sent.wrong_pages(*final, objects), IsEmpty());
  EXPECT_EQ(final->spaces[0].remote.pages(), row.remote + (rounds_after ? 0 : 1)) << source.reason();
  if (row.tracked && strangers()) {
    std::printf("%s: other processes were started meanwhile\n", row.name);
  } else if (row.tracked) {
    EXPECT_LT(final->stats.pages_read, kPages / 8) << source.reason();
    EXPECT_THAT(source.reason(), testing::Not(HasSubstr("shared memory")));
  } else {
    EXPECT_GT(final->stats.pages_read, kPages / 2);
    EXPECT_THAT(source.reason(), HasSubstr(row.why));
  }
  actor.thaw();
}

class SharedMemoryTracking : public testing::Test {
 protected:
  void SetUp() override {
    auto counted = AddressSpaces::prepare();
    auto state = counted ? counted->of(getpid()) : Result<AddressSpaceState>(std::unexpected(counted.error()));
    if (!state) GTEST_SKIP() << state.error().what;
  }
};

TEST_F(SharedMemoryTracking, EveryChangeIsFound) {
  for (const Row& row : rows()) {
    for (bool rounds_after : {false, true}) check_row(row, rounds_after);
  }
}

// The final scan runs while CRIU maps its code into the tree: what was not looked at before that is not known.
TEST_F(SharedMemoryTracking, ReadsEverythingWhereNobodyLookedAtTheStoppedTree) {
  const Reserved region(kBytes);
  char* const at = region.at;
  Actor actor({[&] {
    map_object(Kind::anonymous, at);
    fill(at, kBytes, 1);
  }});
  actor.step();
  WriteScan source({.late = false});
  SentPages sent;
  ASSERT_TRUE(source.round(tree_of(actor), sent, {}));
  actor.freeze();
  auto final = source.final_scan(objects_of(tree_of(actor)));
  ASSERT_TRUE(final) << final.error().what;
  EXPECT_EQ(final->stats.pages_read, kPages);
  actor.thaw();
}

// It costs such a tree faults, and nobody gains by it.
TEST_F(SharedMemoryTracking, IsGivenUpWhereMappingsChangeAllTheTime) {
  const Reserved region(kBytes);
  char* const at = region.at;
  constexpr int kRounds = 6;
  std::vector<std::function<void()>> steps{[&] {
    map_object(Kind::anonymous, at);
    fill(at, kBytes, 1);
  }};
  for (int i = 0; i < kRounds; ++i) {
    steps.emplace_back([] { munmap(mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), kPage); });
  }
  Actor actor(steps);
  actor.step();
  WriteScan source({.late = false});
  SentPages sent;
  uint64_t last_armed = 0;
  for (int i = 0; i < kRounds; ++i) {
    auto round = source.round(tree_of(actor), sent, {});
    ASSERT_TRUE(round) << round.error().what;
    if (i == 0) {
      EXPECT_GE(round->pages_armed, kPages);
    }
    last_armed = round->pages_armed;
    actor.step();
  }
  EXPECT_LT(last_armed, kPages);
  EXPECT_THAT(source.reason(), HasSubstr("all the time"));
}

TEST(AddressSpaces, CountEveryChange) {
  auto spaces = AddressSpaces::prepare();
  if (!spaces || !spaces->of(getpid())) GTEST_SKIP() << "not counted here";
  const Reserved region(kBytes);
  char* const at = region.at;
  Actor actor({[&] { map_object(Kind::anonymous, at); },
               [&] { fill(at, kBytes, 1); },  // faults
               [&] { mprotect(at, kPage, PROT_NONE); }, [] { in_child([] {}); }, [] { static_cast<void>(sbrk(1 << 20)); },
               [] { execl("/bin/sleep", "sleep", "60", nullptr); }});
  actor.step();
  // The number that comes next is that of a pid namespace in which others live as well.
  auto state = [&] {
    AddressSpaceState now = spaces->of(actor.pid()).value();
    now.next_pid = 0;
    return now;
  };
  AddressSpaceState last = state();
  actor.step();
  EXPECT_EQ(state(), last);
  for (const bool ends : {false, false, false, true}) {
    actor.step(!ends);
    if (ends) usleep(100'000);
    EXPECT_NE(state(), last);
    last = state();
  }
}

}  // namespace
}  // namespace mose::sense
