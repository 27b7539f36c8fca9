// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "kernel/memory_file.h"
#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "kernel/procfs.h"

namespace mose {
namespace {

VmaKind kind_of(const std::string& line) {
  auto vmas = parse_maps(line + "\n");
  EXPECT_TRUE(vmas) << line;
  return vmas && vmas->size() == 1 ? vmas->front().kind : VmaKind::special;
}

TEST(Maps, TellPrivateAnonymousMemoryFromEverythingElse) {
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 "), VmaKind::anonymous);
  EXPECT_EQ(kind_of("55d000000000-55d000021000 rw-p 00000000 00:00 0                          [heap]"), VmaKind::anonymous);
  EXPECT_EQ(kind_of("7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]"), VmaKind::anonymous);
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 rw-p 00000000 00:00 0                          [anon:glibc: malloc]"), VmaKind::anonymous);
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 ---p 00000000 00:00 0 "), VmaKind::anonymous);
  EXPECT_EQ(kind_of("7ffc00100000-7ffc00104000 r--p 00000000 00:00 0                          [vvar]"), VmaKind::special);
  EXPECT_EQ(kind_of("7ffc00104000-7ffc00106000 r-xp 00000000 00:00 0                          [vdso]"), VmaKind::special);
  EXPECT_EQ(kind_of("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]"), VmaKind::special);
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 rw-p 00003000 fe:00 1234    /usr/lib/libc.so.6"), VmaKind::file_private);
  EXPECT_EQ(kind_of("7f0000000000-7f0000200000 rw-p 00000000 00:0f 77      /anon_hugepage (deleted)"), VmaKind::file_private);
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 rw-s 00000000 00:01 1024    /dev/zero (deleted)"), VmaKind::shared);
  EXPECT_EQ(kind_of("7f0000000000-7f0000001000 rw-s 00000000 00:01 32      /memfd:x (deleted)"), VmaKind::shared);
}

TEST(Maps, GiveRangeRightsAndName) {
  auto vmas = parse_maps("1000-3000 r-xp 00002000 fe:00 42    /a path with blanks (deleted)\n");
  ASSERT_TRUE(vmas);
  ASSERT_EQ(vmas->size(), 1u);
  const Vma& vma = vmas->front();
  EXPECT_EQ(vma.pages, (PageRun{1, 2}));
  EXPECT_TRUE(vma.read && vma.exec && !vma.write);
  EXPECT_EQ(vma.inode, 42u);
  EXPECT_EQ(vma.file_offset, 0x2000u);
  EXPECT_EQ(vma.name, "/a path with blanks (deleted)");
}

TEST(Maps, RefuseWhatIsNoMapsLine) {
  for (const char* text : {"x\n", "1000-1000 rw-p 0 00:00 0\n", "1000-2001 rw-p 0 00:00 0\n", "2000-1000 rw-p 0 00:00 0\n",
                           "1000-2000 rw 0 00:00 0\n", "1000-2000 rw-p 0 00:00\n", "\n"}) {
    EXPECT_FALSE(parse_maps(text)) << text;
  }
}

TEST(Maps, LockedAndHugeRegionsAreNotLazy) {
  auto vmas = parse_maps("1000-2000 rw-p 0 00:00 0 \n2000-3000 rw-p 0 00:00 0 \n3000-4000 rw-p 0 00:00 0 \n");
  ASSERT_TRUE(vmas);
  ASSERT_TRUE(add_vma_flags(*vmas,
                            "1000-2000 rw-p 0 00:00 0 \nRss: 4 kB\nVmFlags: rd wr mr mw me lo ac \n"
                            "2000-3000 rw-p 0 00:00 0 \nVmFlags: rd wr mr mw me ht \n"
                            "3000-4000 rw-p 0 00:00 0 \nVmFlags: rd wr mr mw me ac sd \n"));
  EXPECT_EQ(lazy_pages(*vmas), PageSet::from_runs({{3, 1}}));
}

TEST(Maps, SeesOurOwnLockedMemory) {
  void* at = mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  uint64_t page = reinterpret_cast<uint64_t>(at) / kPageSize;
  auto before = read_vmas(getpid());
  ASSERT_TRUE(before) << before.error().what;
  EXPECT_TRUE(lazy_pages(*before).contains(page));
  // Not mlock(): the sanitizers make that a no-op.
  if (syscall(SYS_mlock, at, 4 * kPageSize) != 0) GTEST_SKIP() << "no right to lock memory";
  auto after = read_vmas(getpid());
  ASSERT_TRUE(after);
  EXPECT_FALSE(lazy_pages(*after).contains(page));
  munmap(at, 4 * kPageSize);
}

TEST(Maps, AProcessThatIsGoneIsEsrch) {
  auto vmas = read_vmas(0x3ffffff);
  ASSERT_FALSE(vmas);
  EXPECT_EQ(vmas.error().code, ESRCH);
  EXPECT_EQ(check_same_process({1, getpid(), 1}).error().code, ESRCH);
  EXPECT_TRUE(check_same_process({1, getpid(), process_start_time(getpid()).value()}));
}

class Region : public testing::Test {
 protected:
  void SetUp() override {
    at_ = static_cast<std::byte*>(mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(at_, MAP_FAILED);
    madvise(at_, kPages * kPageSize, MADV_NOHUGEPAGE);
    first_ = reinterpret_cast<uint64_t>(at_) / kPageSize;
  }
  void TearDown() override { munmap(at_, kPages * kPageSize); }
  static constexpr uint64_t kPages = 16;
  std::byte* at_ = nullptr;
  uint64_t first_ = 0;
};

// By the older interface: only this process has the page, so it is not the kernel's one zero page.
bool is_own_page(const void* at) {
  uint64_t entry = 0;
  auto offset = static_cast<off_t>(reinterpret_cast<uint64_t>(at) / kPageSize * sizeof entry);
  auto file = open_file("/proc/self/pagemap", O_RDONLY);
  EXPECT_TRUE(file && pread(file->get(), &entry, sizeof entry, offset) == sizeof entry);
  return (entry >> 56 & 1) != 0;
}

TEST_F(Region, OnlyWrittenPagesArePopulated) {
  at_[0] = std::byte{1};
  at_[3 * kPageSize] = std::byte{1};
  at_[4 * kPageSize] = std::byte{0};  // written, though with zero
  volatile std::byte read_only = at_[7 * kPageSize];  // gets the zero page
  static_cast<void>(read_only);
  auto pagemap = Pagemap::open(getpid());
  ASSERT_TRUE(pagemap);
  auto populated = pagemap->populated({first_, kPages});
  ASSERT_TRUE(populated) << populated.error().what;
  // Some kernels give a page of its own to a read as well: it cannot be told from one that was written.
  std::vector<PageRun> expected = {{first_, 1}, {first_ + 3, 2}};
  if (is_own_page(at_ + 7 * kPageSize)) expected.push_back({first_ + 7, 1});
  EXPECT_EQ(*populated, PageSet::from_runs(expected));
}

TEST_F(Region, IsReadThroughProtectionAndUpToHoles) {
  for (uint64_t i = 0; i < kPages; ++i) memset(at_ + i * kPageSize, static_cast<int>(i + 1), kPageSize);
  ASSERT_EQ(mprotect(at_ + 2 * kPageSize, kPageSize, PROT_NONE), 0);
  ASSERT_EQ(munmap(at_ + 5 * kPageSize, kPageSize), 0);
  auto memory = ProcessMemory::open(getpid());
  ASSERT_TRUE(memory);
  std::vector<std::byte> out(10 * kPageSize, std::byte{0xee});
  std::vector<uint64_t> unreadable;
  std::vector<PageRun> runs = {{first_, 8}, {first_ + 14, 2}};
  ASSERT_TRUE(memory->read(runs, out, unreadable));
  EXPECT_EQ(unreadable, std::vector<uint64_t>{first_ + 5});
  const int expected[] = {1, 2, 3, 4, 5, 0, 7, 8, 15, 16};
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(out[static_cast<size_t>(i) * kPageSize + 100], static_cast<std::byte>(expected[i])) << i;
  }
}

// More than one step, with a hole and a page here and there that is not populated.
TEST(Pagemap, FindsTheSameAtEitherPace) {
  constexpr uint64_t kMany = 20000;
  auto* at = static_cast<std::byte*>(
      mmap(nullptr, kMany * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(at, MAP_FAILED);
  ASSERT_EQ(madvise(at, kMany * kPageSize, MADV_NOHUGEPAGE), 0);
  PageSet expected;
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPageSize;
  for (uint64_t page = 0; page < kMany; ++page) {
    if (page % 1000 == 7 || (page >= 9000 && page < 9100)) continue;
    at[page * kPageSize] = std::byte{1};
    expected.add({first + page, 1});
  }
  for (ScanPace pace : {ScanPace::at_once, ScanPace::gentle}) {
    auto pagemap = Pagemap::open(getpid(), pace);
    ASSERT_TRUE(pagemap);
    auto found = pagemap->populated({first, kMany});
    ASSERT_TRUE(found) << found.error().what;
    EXPECT_EQ(*found, expected);
  }
  EXPECT_EQ(sched_getscheduler(0) & ~SCHED_RESET_ON_FORK, SCHED_OTHER) << "preferred only while it looks";
  munmap(at, kMany * kPageSize);
}

TEST(HugeMemoryFile, IsKnownByItsNameAndHoldsWhatIsWritten) {
  auto file = huge_memory_file("mose-test-memory");
  if (!file) GTEST_SKIP() << file.error().what;
  char target[64] = {};
  ASSERT_GT(readlink(("/proc/self/fd/" + std::to_string(file->get())).c_str(), target, sizeof target - 1), 0);
  EXPECT_STREQ(target, "/mose-test-memory") << "a second pager finds it by that";
  constexpr off_t kBytes = 8 << 20;
  ASSERT_EQ(fallocate(file->get(), 0, 0, kBytes), 0) << strerror(errno);
  void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  static_cast<std::byte*>(at)[kBytes - 1] = std::byte{42};
  std::byte byte{};
  EXPECT_EQ(pread(file->get(), &byte, 1, kBytes - 1), 1);
  EXPECT_EQ(byte, std::byte{42});
  munmap(at, kBytes);
}

TEST(ProcessMemoryRead, OfAGoneProcessIsEsrch) {
  EXPECT_EQ(ProcessMemory::open(0x3ffffff).error().code, ESRCH);
  EXPECT_EQ(Pagemap::open(0x3ffffff).error().code, ESRCH);
}

TEST(FirstTouched, IsAroundTheStackOfAWaitingThread) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  pid_t child = fork();
  if (child == 0) {
    char byte;
    static_cast<void>(read(pipe_fds[0], &byte, 1));
    _exit(0);
  }
  PageSet first;
  for (int i = 0; i < 1000 && first.empty(); ++i) {
    usleep(1000);
    auto vmas = read_vmas(child);
    ASSERT_TRUE(vmas);
    first = first_touched(child, *vmas);
  }
  uint64_t here = reinterpret_cast<uint64_t>(&first) / kPageSize;  // the child's stack is a copy of ours
  EXPECT_FALSE(first.empty());
  EXPECT_TRUE(first.contains(here) || first.contains(here + 1) || first.contains(here - 1));
  static_cast<void>(write(pipe_fds[1], "x", 1));
}

}  // namespace
}  // namespace mose
