// SPDX-License-Identifier: MIT
#include "place.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <mutex>
#include <thread>

#include "family.h"

namespace mose::test {
namespace {

constexpr uint64_t kLookPages = 32;  // at once, with the region's lock held
constexpr long kLookPauseNs = 1'000'000, kRestPauseNs = 2'000'000, kSecondNs = 1'000'000'000;

struct Command {
  char order;
  KindMask kinds;
};

void pause_ns(long ns) {
  timespec left{ns / kSecondNs, ns % kSecondNs};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

bool read_whole(int fd, void* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t got = ::read(fd, static_cast<char*>(to) + done, bytes - done);
    if (got == 0 || (got < 0 && errno != EINTR)) return false;
    if (got > 0) done += static_cast<size_t>(got);
  }
  return true;
}

bool write_whole(int fd, const void* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t put = ::write(fd, static_cast<const char*>(from) + done, bytes - done);
    if (put < 0 && errno != EINTR) return false;
    if (put > 0) done += static_cast<size_t>(put);
  }
  return true;
}

class Process {
 public:
  explicit Process(PlaceOptions options) : options_(std::move(options)) {}

  [[noreturn]] void run(int orders, int answers) {
    size_t wanted = 0;
    for (const Member& member : options_.members) {
      for (unsigned number = 0; number < member.count; ++number, ++wanted) {
        std::thread([this, kind = member.kind, number] { write(kind, number); }).detach();
        while (made_ <= wanted) pause_ns(kLookPauseNs);  // one after the other: the break is shared
      }
    }
    started_ = true;
    std::thread([this] { look(); }).detach();
    Command command{};
    while (read_whole(orders, &command, sizeof command)) {
      if (!obey(command, answers)) break;
    }
    _exit(0);
  }

 private:
  void write(Kind kind, unsigned number) {
    char* stack = nullptr;
    if (kind == Kind::stack) {
      stack = static_cast<char*>(__builtin_alloca((pages_of(kind) + 1) * kPageBytes));
      stack = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(stack) + kPageBytes - 1) & ~(kPageBytes - 1));
    }
    std::unique_ptr<Region> owner;
    if (kind == Kind::fork) {
      owner = std::make_unique<Family>(number);
    } else {
      owner = make_region(kind, number, options_.writers, stack);
    }
    Region* region = owner.get();
    regions_.push_back(std::move(owner));
    ++made_;
    const long pause = kSecondNs / std::max(options_.steps_per_second, 1u);
    for (;;) {
      bool resting = true;
      if (started_) {
        std::lock_guard guard(region->lock);
        resting = region->resting || kind == Kind::cold;
        if (!resting) region->step();
      }
      pause_ns(resting ? std::max(pause, kRestPauseNs) : pause);
    }
  }

  void look() {
    for (;;) {
      for (auto& region : regions_) {
        {
          std::lock_guard guard(region->lock);
          region->check(kLookPages);
        }
        pause_ns(kLookPauseNs);
      }
    }
  }

  bool obey(const Command& command, int answers) {
    KindCounts counts{};
    std::vector<RegionPlace> places;
    for (auto& region : regions_) {
      std::lock_guard guard(region->lock);
      if (command.order == 'v') region->check(region->pages());
      const bool meant = (command.kinds >> static_cast<unsigned>(region->kind) & 1) != 0;
      if (meant && command.order == 'r' && !region->resting) {
        region->rest();
        region->resting = true;
      }
      if (meant && command.order == 'w' && region->resting) {
        region->work();
        region->resting = false;
      }
      Counts& sum = counts[static_cast<size_t>(region->kind)];
      region->add_counts(sum);
      if (region->kind == Kind::fork) static_cast<Family&>(*region).add_children(command.order == 'v', sum);
      places.push_back({region->kind, getpid(), reinterpret_cast<uintptr_t>(region->base), region->pages()});
    }
    if (command.order != 'm') return write_whole(answers, counts.data(), sizeof counts);
    const uint64_t size = places.size();
    return write_whole(answers, &size, sizeof size) && write_whole(answers, places.data(), size * sizeof(RegionPlace));
  }

  PlaceOptions options_;
  std::vector<std::unique_ptr<Region>> regions_;  // complete, and not changed any more, once started
  std::atomic<size_t> made_{0};
  std::atomic<bool> started_{false};
};

}  // namespace

Place Place::start(const PlaceOptions& options) {
  int down[2], up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) die("pipe");
  pid_t pid = ::fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    // Of places that were started before: they would never see their pipe's end.
    for (int fd = STDERR_FILENO + 1; fd < down[0]; ++fd) close(fd);
    close(down[1]);
    close(up[0]);
    static Process process(options);
    process.run(down[0], up[1]);
  }
  close(down[0]);
  close(up[1]);
  Place place(down[1], up[0]);
  (void)place.counts();  // once it has begun
  return place;
}

KindCounts Place::ask(char order, KindMask kinds) {
  const Command command{order, kinds};
  KindCounts counts{};
  if (!write_whole(ask_, &command, sizeof command) || !read_whole(answer_, counts.data(), sizeof counts)) {
    die("a process of the checker has ended");
  }
  return counts;
}

std::vector<RegionPlace> Place::regions() {
  const Command command{'m', 0};
  uint64_t size = 0;
  if (!write_whole(ask_, &command, sizeof command) || !read_whole(answer_, &size, sizeof size))
    die("a process of the checker has ended");
  std::vector<RegionPlace> places(size);
  if (!read_whole(answer_, places.data(), size * sizeof(RegionPlace))) die("a process of the checker has ended");
  return places;
}

}  // namespace mose::test
