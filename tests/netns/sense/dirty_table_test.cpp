// SPDX-License-Identifier: MIT
// What each dirty source makes of each way in which memory can change between the last round and the freeze. Every row
// is checked against the truth: no page that counts as sent may differ from what was sent.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <filesystem>
#include <thread>

#include "kernel/borrowed_thread.h"
#include "kernel/pagemap.h"
#include "kernel/process.h"
#include "kernel/procfs.h"
#include "kernel/write_tracking.h"
#include "netns/sense/sense_bed.h"
#include "sense/hash_scan.h"
#include "sense/quick_look.h"
#include "sense/write_scan.h"

namespace mose::sense {
namespace {

using test::Actor;
using test::fill;
using test::map_at;
using test::Reserved;
using test::SentPages;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 2048;  // several page tables

enum class Fate {
  tracked,  // only what changed is read and remote
  resent,   // found by reading the region in full: it is new to the kernel's record
  hashed,   // the whole process is hashed, with the reason in words
};

struct Row {
  const char* name;
  Fate fate;
  std::function<void(char* region)> before;  // the first round comes after it
  std::function<void(char* region)> change;  // between the armed round and the freeze
  uint64_t remote_max = 0;                   // pages of the region that may be remote
  bool comes_back = true;                    // false: exec
};

void read_into(char* to, const char* path, int flags) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
  if (fd < 0 || read(fd, to, kPage) <= 0) _exit(3);
  close(fd);
}

int direct_fd = -1;
void open_direct(char*) {
  char path[] = "/var/tmp/mose-direct-XXXXXX";
  int fd = mkstemp(path);
  std::vector<char> bytes(4 * kPage, 'd');
  if (fd < 0 || write(fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) _exit(3);
  fsync(fd);
  direct_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  unlink(path);
  close(fd);
  if (direct_fd < 0) _exit(4);
}

// Written after it was sent, and then protected like what is tracked.
void protect_anew(char* region) {
  constexpr size_t kBytes = 1024 * kPage;
  char* at = region + 512 * kPage;
  munmap(at, kBytes);
  fill(map_at(at, kBytes), kBytes, 79);
  const int uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP, .ioctls = 0};
  const auto start = reinterpret_cast<uint64_t>(at);
  uffdio_register whole{.range = {start, kBytes}, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
  uffdio_writeprotect protect{.range = {start, kBytes}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) != 0 || ioctl(uffd, UFFDIO_REGISTER, &whole) != 0 ||
      ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) != 0) {
    _exit(5);
  }
}

void nothing(char*) {}

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"nothing", Fate::tracked, nothing, nothing, 0},
      {"store", Fate::tracked, nothing, [](char* r) { r[5 * kPage + 9] ^= 1; }, 1},
      {"atomic", Fate::tracked, nothing,
       [](char* r) { reinterpret_cast<std::atomic<uint64_t>*>(r + 7 * kPage)->fetch_add(3); }, 1},
      {"store by another thread", Fate::tracked, nothing,
       [](char* r) { std::thread([r] { r[11 * kPage] ^= 1; }).join(); }, 1},
      {"read(2)", Fate::tracked, nothing, [](char* r) { read_into(r + 20 * kPage, "/proc/self/maps", 0); }, 1},
      {"process_vm_writev", Fate::tracked, nothing,
       [](char* r) {
         char bytes[64] = "from outside";
         iovec local{bytes, sizeof bytes}, remote{r + 30 * kPage, sizeof bytes};
         pid_t parent = getpid();
         pid_t child = fork();
         if (child == 0) _exit(process_vm_writev(parent, &local, 1, &remote, 1, 0) == sizeof bytes ? 0 : 1);
         waitpid(child, nullptr, 0);
       },
       1},
      {"direct read", Fate::hashed, open_direct,
       [](char* r) {
         if (pread(direct_fd, r + 40 * kPage, kPage, 0) != static_cast<ssize_t>(kPage)) _exit(5);
       },
       1},
      {"fork, the parent writes", Fate::tracked, nothing,
       [](char* r) {
         if (fork() == 0) {
           for (;;) pause();
         }
         r[50 * kPage] ^= 1;
       },
       1},
      {"fork, the child writes", Fate::tracked, nothing,
       [](char* r) {
         int sync[2];
         if (pipe(sync) != 0) _exit(6);
         if (fork() == 0) {
           memset(r + 60 * kPage, 'c', kPage);
           static_cast<void>(!write(sync[1], "w", 1));
           for (;;) pause();
         }
         char byte;
         static_cast<void>(!read(sync[0], &byte, 1));
       },
       0},
      {"populated anew", Fate::tracked, [](char* r) { madvise(r, 16 * kPage, MADV_DONTNEED); },
       [](char* r) { memset(r + 3 * kPage, 'n', kPage); }, 1},
      {"given back", Fate::tracked, nothing, [](char* r) { madvise(r + 70 * kPage, 8 * kPage, MADV_DONTNEED); }, 0},
      {"given back and filled", Fate::tracked, nothing,
       [](char* r) {
         madvise(r + 70 * kPage, 8 * kPage, MADV_DONTNEED);
         memset(r + 72 * kPage, 'f', kPage);
       },
       1},
      {"a whole page table given back", Fate::tracked, nothing,
       [](char* r) { madvise(r + 512 * kPage, 512 * kPage, MADV_DONTNEED); }, 0},
      {"page tables given back and filled in part", Fate::tracked, nothing,
       [](char* r) {
         madvise(r + 500 * kPage, 900 * kPage, MADV_DONTNEED);
         memset(r + 1030 * kPage, 'f', kPage);
       },
       1},
      {"mapped anew and never touched", Fate::tracked, nothing,
       [](char* r) {
         munmap(r + 512 * kPage, 1024 * kPage);
         map_at(r + 512 * kPage, 1024 * kPage);
       },
       0},
      {"mapped anew and protected by its own userfaultfd", Fate::resent, nothing, protect_anew, 1024},
      {"guard pages put over it", Fate::tracked, nothing,
       [](char* r) {
         constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, Linux 6.13
         (void)madvise(r + 30 * kPage, 3 * kPage, kGuardInstall);
         (void)madvise(r + 600 * kPage, 40 * kPage, kGuardInstall);
       },
       0},
      {"guard pages, and most of the rest written", Fate::resent, nothing,
       [](char* r) {
         for (size_t i = 0; i < 1500; ++i) r[i * kPage + i] ^= 1;
         (void)madvise(r + 30 * kPage, 3 * kPage, 102);
       },
       1500},
      {"most of it written and some given back", Fate::resent, nothing,
       [](char* r) {
         for (size_t i = 0; i < 1500; ++i) r[i * kPage + i] ^= 1;
         madvise(r + 200 * kPage, 8 * kPage, MADV_DONTNEED);
         madvise(r + 400 * kPage, 100 * kPage, MADV_DONTNEED);
         madvise(r + 1600 * kPage, 8 * kPage, MADV_DONTNEED);
         memset(r + 1700 * kPage, 0, kPage);
       },
       1509},
      {"freed lazily", Fate::tracked, nothing,
       [](char* r) {
         madvise(r + 90 * kPage, 8 * kPage, MADV_FREE);
         r[91 * kPage] = 'x';
       },
       1},
      {"set to zero", Fate::tracked, nothing, [](char* r) { memset(r + 100 * kPage, 0, kPage); }, 0},
      {"zero set to something", Fate::tracked, [](char* r) { memset(r + 101 * kPage, 0, kPage); },
       [](char* r) { r[101 * kPage + 1] = 'z'; }, 1},
      {"stays zero", Fate::tracked, [](char* r) { memset(r, 0, 64 * kPage); }, nothing, 0},
      {"moved by mremap", Fate::resent, nothing,
       [](char* r) { mremap(r, 64 * kPage, 64 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, r + (kPages + 64) * kPage); }, 0},
      {"moved over others by mremap", Fate::resent, nothing,
       [](char* r) { mremap(r, 64 * kPage, 64 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, r + 256 * kPage); }, 64},
      {"moved away and mapped anew", Fate::resent, nothing,
       [](char* r) {
         munmap(r, 64 * kPage);
         fill(map_at(r, 64 * kPage), 64 * kPage, 77);
       },
       64},
      {"new mapping", Fate::resent, nothing, [](char*) { fill(map_at(nullptr, 64 * kPage), 64 * kPage, 78); }, 0},
      {"brk", Fate::resent, nothing,
       [](char*) {
         char* at = static_cast<char*>(sbrk(64 * kPage));
         memset(at, 'b', 64 * kPage);
       },
       0},
      {"protection changed", Fate::tracked, nothing,
       [](char* r) {
         mprotect(r, 16 * kPage, PROT_READ);
         mprotect(r, 16 * kPage, PROT_READ | PROT_WRITE);
         r[4 * kPage] ^= 1;
       },
       1},
      {"a deeper stack", Fate::tracked, nothing,
       [](char*) {
         volatile char deep[400'000];
         for (size_t i = 0; i < sizeof deep; i += kPage) deep[i] = 's';
       },
       0},
      {"exec", Fate::resent, nothing, [](char*) { execl("/bin/sleep", "sleep", "60", nullptr); }, kPages, false},
  };
  return table;
}

std::unique_ptr<DirtySource> make_source(const std::string& kind) {
  if (kind == "hash") return std::make_unique<HashScan>();
  WriteScanOptions options;
  options.late = kind == "late";
  return std::make_unique<WriteScan>(options);
}

class DirtyTable : public testing::TestWithParam<const char*> {};

TEST_P(DirtyTable, EveryChangeIsFound) {
  const std::string kind = GetParam();
  for (bool huge : {false, true}) {
    if (huge && kind != "late") continue;  // the other sources see the same page tables
    for (const Row& row : rows()) {
      malloc_trim(0);  // the children begin with what we have
      SCOPED_TRACE(std::string(row.name) + (huge ? ", huge pages" : ""));
      // Behind the region lies reserved space, for moves.
      const Reserved region(2 * kPages * kPage);
      char* const aligned = region.at;
      Actor actor({[&] {
                     map_at(aligned, kPages * kPage);
                     madvise(aligned, kPages * kPage, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
                     fill(aligned, kPages * kPage, 1);
                     row.before(aligned);
                   },
                   [&] { row.change(aligned); }});
      actor.step();
      auto source = make_source(kind);
      SentPages sent;
      ASSERT_TRUE(source->round(actor.spaces(), sent, {}));
      source->expect_last();
      auto armed = source->round(actor.spaces(), sent, {});
      ASSERT_TRUE(armed) << armed.error().what;
      const bool tracks = kind != "hash" && row.fate != Fate::hashed;
      EXPECT_EQ(source->name(), tracks ? "write-protection" : "hash-scan") << source->reason();
      if (kind != "hash" && row.fate == Fate::hashed) {
        EXPECT_THAT(source->reason(), testing::HasSubstr("direct I/O"));
      }
      actor.step(row.comes_back);
      if (!row.comes_back) usleep(100'000);
      actor.freeze();
      auto final = source->final_scan(actor.spaces());
      ASSERT_TRUE(final) << final.error().what;
      // A child of a fork is new to the source: read in full.
      const bool alone = final->spaces.size() == 1;
      if (tracks && alone && row.fate == Fate::tracked) {
        EXPECT_LT(final->stats.pages_read, kPages / 2);
      }
      if (!tracks && row.comes_back) {
        EXPECT_GT(final->stats.pages_read, kPages / 2);
      }
      EXPECT_THAT(sent.wrong_pages(*final, actor.spaces()), testing::IsEmpty());
      PageSet in_region = PageSet::from_runs({{reinterpret_cast<uint64_t>(aligned) / kPage, kPages}});
      for (const SpacePages& space : final->spaces) {
        if (space.space != space_of(actor.pid()).value().space) continue;
        EXPECT_LE(space.remote.intersect(in_region).pages(), row.remote_max);
      }
    }
  }
}
TEST(QuickLook, FindsTheCleanPagesThatTheFullOneFinds) {
  if (!Pagemap::looks_quickly()) GTEST_SKIP() << "this kernel passes over memory without a page table";
  const Reserved reserved(kPages * kPage);
  char* const region = map_at(reserved.at, kPages * kPage);
  madvise(region, kPages * kPage, MADV_NOHUGEPAGE);
  fill(region, (kPages - 700) * kPage, 5);
  const PageRun run{reinterpret_cast<uint64_t>(region) / kPage, kPages};
  auto tracking = WriteTracking::of_self().value();
  ASSERT_TRUE(tracking.add(run));
  auto pagemap = Pagemap::open(getpid()).value();
  const PageSet area = PageSet::from_runs({run});
  ASSERT_EQ(pagemap.protect(area)->pages(), kPages - 700);
  region[3 * kPage] ^= 1;
  region[(kPages - 100) * kPage] = 1;
  ASSERT_EQ(madvise(region + 512 * kPage, 512 * kPage, MADV_DONTNEED), 0);
  const auto vmas = read_vmas(getpid()).value();
  const PageSet full = pagemap.tracked(area)->clean;
  const PageSet quick = look_quickly(pagemap, vmas, [](const PageSet& pages) { return pages; }).value().clean.intersect(area);
  EXPECT_EQ(full.pages(), kPages - 700 - 512 - 1);
  EXPECT_EQ(quick.runs(), full.runs());
  // And what is left is all the rest.
  const PageSet left = left_to_look_at(area, quick);
  EXPECT_TRUE(area.minus(quick).minus(left).empty());
  EXPECT_LT(left.pages(), 700 + 512 + 3 * 64u);
}

// Processes below `pid` that have a userfaultfd.
unsigned holders(pid_t pid) {
  unsigned found = 0;
  auto tree = process_tree(ProcessHandle::open(pid).value()).value();
  for (const ProcessHandle& process : tree) {
    std::error_code ignored;
    for (const auto& fd : std::filesystem::directory_iterator("/proc/" + std::to_string(process.pid()) + "/fd", ignored)) {
      if (std::filesystem::read_symlink(fd, ignored).string().find("userfaultfd") == std::string::npos) continue;
      ++found;
      break;
    }
  }
  return found;
}

// The descriptor lies in the process for a moment: a child of that moment has it as well, and could never be dumped.
TEST(WriteTrackingOfAForkingProcess, LeavesNoDescriptorInItsChildren) {
  Actor actor({[] {
    std::thread([] {
      constexpr size_t kChildren = 8;
      for (std::deque<pid_t> children;;) {
        pid_t child = fork();
        if (child == 0) {
          for (;;) pause();
        }
        children.push_back(child);
        if (children.size() <= kChildren) continue;
        kill(children.front(), SIGKILL);
        waitpid(children.front(), nullptr, 0);
        children.pop_front();
      }
    }).detach();
  }});
  actor.step();
  constexpr unsigned kTriesMax = 3000;
  unsigned closed = 0;
  for (unsigned tries = 0; tries < kTriesMax && closed == 0; ++tries) {
    auto tracking = WriteTracking::take(actor.pid());
    for (int again = 0; !tracking && again < 100; ++again) tracking = WriteTracking::take(actor.pid());  // on a busy machine
    ASSERT_TRUE(tracking) << tracking.error().what;
    ASSERT_TRUE(wait_for_borrowed_threads(std::chrono::seconds(10)));
    // Nobody is born or dies from here on.
    actor.freeze();
    const unsigned inherited = holders(actor.pid());
    actor.thaw();
    if (inherited == 0) continue;
    // A child that gets no processor is not in a call yet from which it could be borrowed.
    auto copies = tracking->close_copies();
    for (int again = 0; !copies && again < 100; ++again) copies = tracking->close_copies();
    ASSERT_TRUE(copies) << copies.error().what;
    closed += *copies;
  }
  EXPECT_GT(closed, 0u) << "nobody was born in the moment that matters";
  actor.freeze();
  EXPECT_EQ(holders(actor.pid()), 0u);
  actor.thaw();
}

INSTANTIATE_TEST_SUITE_P(Sources, DirtyTable, testing::Values("hash", "late", "each"),
                         [](const auto& source) { return std::string(source.param); });

}  // namespace
}  // namespace mose::sense
