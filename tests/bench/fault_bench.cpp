// SPDX-License-Identifier: MIT
// What watching page faults costs the workload, and what its tables take.
//
// A process writes one byte to each of many pages, which are absent (a first touch) or write-protected (tracked); with
// no program, with ours for its group, with ours for another group. The ways come in turn within each round, so that
// what the machine does besides hits all of them; medians and minima of the rounds, ratios to no program.
//
//   fault_bench [ROUNDS [PAGES]]
#include <bpf/bpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <sstream>

#include "base/clock.h"
#include "base/fd.h"
#include "bench.h"
#include "kernel/cgroup.h"
#include "kernel/pagemap.h"
#include "kernel/write_tracking.h"
#include "mose/bpf/dirty.h"
#include "sense/fault_monitor.h"

namespace mose::test {
namespace {

// Writes on demand and says how long it took; waits in read(2) in between.
class Writer {
 public:
  explicit Writer(size_t pages) : pages_(pages) {
    at_ = static_cast<char*>(
        mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    madvise(at_, pages * kPageSize, MADV_NOHUGEPAGE);
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) die("pipe");
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(down[1]);
      for (char order = 0; read(down[0], &order, 1) == 1;) {
        if (order == 'a') madvise(at_, pages_ * kPageSize, MADV_DONTNEED);
        const Timestamp start = now();
        for (size_t i = 0; i < pages_; ++i) static_cast<volatile char*>(at_)[i * kPageSize] = 1;
        const int64_t took = (now() - start).count();
        static_cast<void>(!write(up[1], &took, sizeof took));
      }
      _exit(0);
    }
    close(down[0]);
    close(up[1]);
    order_ = Fd(down[1]);
    answer_ = Fd(up[0]);
  }
  ~Writer() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  // Nanoseconds per page.
  double run(char order) {
    int64_t took = 0;
    if (write(order_.get(), &order, 1) != 1 || read(answer_.get(), &took, sizeof took) != sizeof took) die("writer");
    return static_cast<double>(took) / static_cast<double>(pages_);
  }
  [[nodiscard]] PageRun run_of_pages() const { return {reinterpret_cast<uintptr_t>(at_) >> kPageShift, pages_}; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  size_t pages_;
  char* at_;
  pid_t pid_ = 0;
  Fd order_, answer_;
};

struct Way {
  const char* name;
  std::optional<sense::FaultMonitorOptions::Form> form;
  bool own_group;
  std::vector<double> absent, tracked;
};

// Kernel memory of the BPF maps that this process holds, or of one.
uint64_t map_bytes(int only = -1) {
  uint64_t sum = 0;
  DIR* dir = opendir("/proc/self/fdinfo");
  while (const dirent* item = dir != nullptr ? readdir(dir) : nullptr) {
    if (only >= 0 && std::to_string(only) != item->d_name) continue;
    std::istringstream text(read_file(std::string("/proc/self/fdinfo/") + item->d_name).value_or(""));
    bool map = false;
    for (std::string key, rest; text >> key && std::getline(text, rest);) {
      map = map || key == "map_type:";
      if (map && key == "memlock:") sum += strtoull(rest.c_str(), nullptr, 10);
    }
  }
  if (dir != nullptr) closedir(dir);
  return sum;
}

uint64_t lru_bytes(uint32_t value_size, uint32_t entries) {
  Fd map(bpf_map_create(BPF_MAP_TYPE_LRU_HASH, "bench", sizeof(mose_dirty_region_key), value_size, entries, nullptr));
  if (!map) die("create a map");
  return map_bytes(map.get());
}

void print_tables() {
  constexpr uint32_t kPages = (1u << 30) / kPageSize;
  fmt::print("kernel memory for the heat of 1 GiB\n");
  auto row = [](const char* what, uint64_t bytes) {
    fmt::print("  {:44} {:8.0f} KiB  {:6.2f} bytes per page\n", what, static_cast<double>(bytes) / 1024,
               static_cast<double>(bytes) / kPages);
  };
  row("an entry per page, 8 bytes", lru_bytes(8, kPages));
  row("an entry per 64 KiB, 8 bytes", lru_bytes(8, kPages / 16));
  row("an entry per 2 MiB, a byte per page (ours)", lru_bytes(sizeof(mose_dirty_region), kPages / 512));
}

int run(int rounds, size_t pages) {
  print_tables();
  const std::string root = value(cgroup_mount()) + "/mose-fault-bench-" + std::to_string(getpid());
  Cgroup group = value(Cgroup::create(root)), other = value(Cgroup::create(root + "-other"));
  using Form = sense::FaultMonitorOptions::Form;
  std::vector<Way> ways{{"no program", {}, true},
                        {"tp_btf", Form::tp_btf, true},
                        {"raw_tp", Form::raw_tp, true},
                        {"tp_btf, another group", Form::tp_btf, false}};
  std::vector<double> attach_ms, detach_ms, snapshot_ms;
  uint64_t bytes = 0, counted = 0, expected = 0, regions = 0;
  {
    Writer writer(pages);
    ok(group.add(writer.pid()));
    writer.run('w');
    WriteTracking tracking = value(WriteTracking::take(writer.pid()));
    ok(tracking.add(writer.run_of_pages()));
    Pagemap pagemap = value(Pagemap::open(writer.pid()));
    const PageSet area = PageSet::from_runs({writer.run_of_pages()});
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < ways.size(); ++i) {
        Way& way = ways[(i + static_cast<size_t>(round)) % ways.size()];
        std::optional<sense::FaultMonitor> monitor;
        if (way.form) {
          const Timestamp start = now();
          monitor = value(sense::FaultMonitor::attach((way.own_group ? group : other).path(), {.form = *way.form}));
          attach_ms.push_back(to_ms(now() - start));
          bytes = map_bytes();
        }
        way.absent.push_back(writer.run('a'));
        (void)value(pagemap.protect(area));
        way.tracked.push_back(writer.run('w'));
        if (monitor && way.own_group) {
          const Timestamp start = now();
          sense::FaultSnapshot snapshot = value(monitor->snapshot());
          snapshot_ms.push_back(to_ms(now() - start));
          regions = snapshot.regions.size();
          for (const sense::RegionFaults& region : snapshot.regions) {
            for (uint64_t page = region.pages.first; page < region.pages.end(); ++page) {
              counted += area.contains(page) && region.history[page - region.pages.first] != 0 ? 1 : 0;
            }
          }
          expected += pages;
        }
        if (monitor) {
          const Timestamp start = now();
          monitor.reset();
          detach_ms.push_back(to_ms(now() - start));
        }
      }
    }
  }
  fmt::print("\n{} rounds of {} pages, ns per fault: median (min), ratio of medians (of minima)\n", rounds, pages);
  fmt::print("  {:24} {:>36} {:>36}\n", "", "first touch", "write-protected");
  for (const Way& way : ways) {
    auto cell = [&](const std::vector<double>& mine, const std::vector<double>& base) {
      const double low = *std::ranges::min_element(mine), base_low = *std::ranges::min_element(base);
      return fmt::format("{:8.0f} ({:6.0f})  {:5.3f} ({:5.3f})", median(mine), low, median(mine) / median(base),
                         low / base_low);
    };
    fmt::print("  {:24} {:>36} {:>36}\n", way.name, cell(way.absent, ways[0].absent),
               cell(way.tracked, ways[0].tracked));
  }
  fmt::print("\nattach {:.1f} ms, detach {:.1f} ms, snapshot of {} regions {:.2f} ms (medians)\n", median(attach_ms),
             median(detach_ms), regions, median(snapshot_ms));
  fmt::print("tables as they are by default: {} KiB; pages marked {} of {} written\n", bytes / 1024, counted, expected);
  ok(group.remove(std::chrono::seconds(2)));
  ok(other.remove(std::chrono::seconds(2)));
  return 0;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 15;
  long pages = argc > 2 ? atol(argv[2]) : 20000;
  if (rounds < 1 || pages < 1) mose::test::die("usage: fault_bench [ROUNDS [PAGES]]");
  return mose::test::run(rounds, static_cast<size_t>(pages));
}
