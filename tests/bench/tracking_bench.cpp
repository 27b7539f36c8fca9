// SPDX-License-Identifier: MIT
// What write tracking costs a process that runs: how long looking for written pages takes while it is armed, and for
// how long arming and disarming stop its threads.
//   tracking_bench [MEGABYTES [REPEATS]]
// One JSON object on stdout. As root, on a quiet machine. The process has a thread that waits (which is borrowed to
// make the userfaultfd), one that writes to pages and one that maps and unmaps memory, each every 200 us; what is taken
// of these two is the longest operation, less what a thread waited for a processor: in a round with write protection of
// all memory, while that is taken off and, for comparison, in a round that only reads and while nobody looks at the
// process.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "sense/write_scan.h"

namespace mose {
namespace {

constexpr uint64_t kWordsPerPage = kPageSize / sizeof(uint64_t);
constexpr auto kOperationPause = std::chrono::microseconds(200);
constexpr auto kUntouchedTime = std::chrono::milliseconds(300);

enum Window : uint32_t { kNone, kUntouched, kReading, kArming, kDisarming, kWindows };
enum Kind : uint32_t { kWrite, kMap, kKinds };

// In memory that both processes see.
struct Shared {
  std::atomic<uint32_t> window{kNone};
  std::array<std::array<std::atomic<int64_t>, kWindows>, kKinds> longest{};  // ns, of one operation
  std::atomic<uint64_t> dirty_wanted{0}, dirty_done{0};                      // pages to be written, a round's worth
};

struct NullSink : PageSink {
  Status send_pages(SpaceId, std::span<const PageRun>, std::span<const std::span<const std::byte>>) override {
    return {};
  }
};

double to_ms(Nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// For how long this thread has been ready to run, and waited for a processor, since it began; 0 where the kernel does
// not tell.
Nanoseconds waited_for_processor() {
  static thread_local const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  char text[128] = {};
  if (pread(file, text, sizeof(text) - 1, 0) <= 0) return {};
  long long ran = 0, waited = 0;
  static_cast<void>(sscanf(text, "%lld %lld", &ran, &waited));
  return Nanoseconds(waited);
}

template <typename Operation>
void operate(Shared& shared, Kind kind, Operation operation) {
  for (;; std::this_thread::sleep_for(kOperationPause)) {
    const uint32_t window = shared.window.load();
    const Nanoseconds waited = waited_for_processor();
    const Timestamp start = now();
    operation();
    const Nanoseconds whole = now() - start;
    const int64_t took = (whole - (waited_for_processor() - waited)).count();
    // Of an operation that lies in two windows nobody can say whose it is: both.
    for (uint32_t one : {window, shared.window.load()}) {
      std::atomic<int64_t>& longest = shared.longest[kind][one];  // of this thread alone
      if (took > longest) longest = took;
    }
  }
}

[[noreturn]] void target(Shared& shared, uint64_t bytes, int ready) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto* words =
      static_cast<volatile uint64_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const uint64_t pages = bytes / kPageSize;
  for (uint64_t page = 0; page < pages; ++page) words[page * kWordsPerPage] = page + 1;
  std::thread writer([&] {
    uint64_t state = 1;
    operate(shared, kWrite, [&] {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      words[state % pages * kWordsPerPage + 1] = state;
    });
  });
  std::thread mapper([&] {
    operate(shared, kMap, [&] {
      // Untouched: what the kernel does with its pages is not to be measured.
      void* at = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      munmap(at, kPageSize);
    });
  });
  // Writes what is asked for, spread over everything; otherwise asleep.
  std::thread dirtier([&] {
    uint64_t done = 0;
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(1))) {
      const uint64_t count = shared.dirty_wanted.load() - done;
      for (uint64_t i = 0; i < count; ++i) words[i * pages / count * kWordsPerPage + 2] = done + i + 1;
      done += count;
      shared.dirty_done = done;
    }
  });
  static_cast<void>(!write(ready, "r", 1));
  for (;;) pause();
}

class Target {
 public:
  explicit Target(uint64_t bytes) {
    void* at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared = new (at) Shared;
    int fds[2];
    if (pipe(fds) != 0) abort();
    pid = fork();
    if (pid == 0) target(*shared, bytes, fds[1]);
    char byte;
    static_cast<void>(!read(fds[0], &byte, 1));
    close(fds[0]);
    close(fds[1]);
    processes = {space_of(pid).value()};
  }
  ~Target() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  void write_pages(uint64_t count) const {
    shared->dirty_wanted += count;
    while (shared->dirty_done.load() != shared->dirty_wanted.load())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  Shared* shared;
  pid_t pid;
  std::vector<SpaceProcess> processes;
};

std::string figures(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  auto at = [&](size_t percent) { return values[std::min(values.size() * percent / 100, values.size() - 1)]; };
  return fmt::format("{{\"median\":{:.3f},\"p95\":{:.3f},\"max\":{:.3f}}}", at(50), at(95), values.back());
}

// How long one look at the kernel's record of all memory takes, per GB, at the pace of the final scan.
double scan_ms(const Target& target, uint64_t bytes) {
  const PageSet areas = lazy_pages(read_vmas(target.pid).value());
  const Pagemap pagemap = Pagemap::open(target.pid).value();
  const Timestamp start = now();
  auto tracked = pagemap.tracked(areas);
  const double took = to_ms(now() - start);
  if (!tracked || tracked->clean.pages() == 0) abort();
  return took / (static_cast<double>(bytes) / 1e9);
}

int run(uint64_t megabytes, unsigned repeats) {
  const uint64_t bytes = megabytes << 20;
  const uint64_t pages = bytes / kPageSize;
  const Target target(bytes);
  std::vector<double> clean, dirty_1, dirty_10, borrowed;
  std::array<std::array<std::vector<double>, kWindows>, kKinds> longest;
  auto in_window = [&](Window window, auto work) {
    for (auto& kind : target.shared->longest) kind[window] = 0;
    target.shared->window = window;
    work();
    target.shared->window = kNone;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // an operation that began in it
    for (uint32_t kind = 0; kind < kKinds; ++kind) {
      longest[kind][window].push_back(static_cast<double>(target.shared->longest[kind][window].load()) / 1e6);
    }
  };
  for (unsigned i = 0; i < repeats; ++i) {
    // A processor is busy as it is with the others.
    in_window(kUntouched, [] {
      for (const Timestamp end = now() + kUntouchedTime; now() < end;) {
      }
    });
    NullSink sink;
    sense::HashScan reading;
    in_window(kReading, [&] {
      if (!reading.round(target.processes, sink, {})) abort();
    });
    sense::WriteScan scan({.late = false});
    in_window(kArming, [&] {
      if (!scan.round(target.processes, sink, {})) abort();
    });
    if (scan.arm_stats().processes != 1) {
      fmt::print(stderr, "not armed: {}\n", scan.reason());
      return 1;
    }
    borrowed.push_back(to_ms(scan.arm_stats().stop_longest));
    clean.push_back(scan_ms(target, bytes));
    target.write_pages(pages / 100);
    dirty_1.push_back(scan_ms(target, bytes));
    target.write_pages(pages / 10);
    dirty_10.push_back(scan_ms(target, bytes));
    in_window(kDisarming, [&] { scan.end_tracking(); });
  }
  auto operations = [&](Window window) {
    return fmt::format("{{\"write\":{},\"map\":{}}}", figures(longest[kWrite][window]), figures(longest[kMap][window]));
  };
  fmt::print(
      "{{\"megabytes\":{},\"repeats\":{},\"scan_ms_per_gb\":{{\"clean\":{},\"written_1_percent\":{},\"written_10_"
      "percent\":{}}},"
      "\"borrowed_ms\":{},\"longest_operation_ms\":{{\"untouched\":{},\"reading\":{},\"arming\":{}"
      ",\"disarming\":{}}}}}\n",
      megabytes, repeats, figures(clean), figures(dirty_1), figures(dirty_10), figures(borrowed),
      operations(kUntouched), operations(kReading), operations(kArming), operations(kDisarming));
  return 0;
}

}  // namespace
}  // namespace mose

int main(int argc, char** argv) {
  return mose::run(argc > 1 ? std::stoul(argv[1]) : 1024, argc > 2 ? static_cast<unsigned>(std::stoul(argv[2])) : 30);
}
