// SPDX-License-Identifier: MIT
#include "netns/sense/sense_bed.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/fd.h"
#include "kernel/pagemap.h"
#include "kernel/process_memory.h"
#include "kernel/procfs.h"
#include "kernel/shared_objects.h"
#include "support/support.h"

namespace mose::test {

Reserved::Reserved(size_t bytes) : bytes_(bytes + (2u << 20)) {
  begin_ = static_cast<char*>(
      mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(begin_) + (2u << 20) - 1) & ~((2ul << 20) - 1));
}
Reserved::~Reserved() {
  munmap(begin_, bytes_);
}

void fill(char* at, size_t bytes, uint64_t seed) {
  for (size_t i = 0; i < bytes; i += 8) {
    uint64_t value = (seed + 1) * 0x9e3779b97f4a7c15ull + i;
    memcpy(at + i, &value, 8);
  }
}
char* map_at(void* at, size_t bytes) {
  return static_cast<char*>(
      mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (at != nullptr ? MAP_FIXED : 0), -1, 0));
}

Actor::Actor(std::vector<std::function<void()>> steps) {
  int down[2], up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    close(down[1]);
    close(up[0]);
    char byte = 0;
    for (auto& step : steps) {
      if (read(down[0], &byte, 1) != 1) _exit(0);
      step();
      static_cast<void>(!write(up[1], "d", 1));
    }
    for (;;) pause();
  }
  setpgid(pid_, pid_);
  close(down[0]);
  close(up[1]);
  to_child_ = down[1];
  from_child_ = up[0];
}

Actor::~Actor() {
  kill(-pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  close(to_child_);
  close(from_child_);
}

void Actor::step(bool wait) {
  char byte = 0;
  if (write(to_child_, "s", 1) != 1) abort();
  if (wait && read(from_child_, &byte, 1) != 1) {
    std::fprintf(stderr, "the process under test has ended\n");
    abort();
  }
}

std::vector<SpaceProcess> Actor::spaces() const {
  std::vector<SpaceProcess> out{space_of(pid_).value()};
  const std::string self = std::to_string(pid_);
  auto text = read_file("/proc/" + self + "/task/" + self + "/children");
  std::istringstream words(text.value_or(""));
  for (pid_t pid; words >> pid;) {
    if (auto space = space_of(pid)) out.push_back(*space);
  }
  std::sort(out.begin(), out.end(), [](const SpaceProcess& a, const SpaceProcess& b) { return a.space < b.space; });
  return out;
}

void Actor::freeze() const {
  kill(-pid_, SIGSTOP);
  for (const SpaceProcess& process : spaces()) {
    for (int i = 0; i < 5000; ++i) {
      auto stat = read_file("/proc/" + std::to_string(process.pid) + "/stat");
      if (!stat || stat->find(") T ") != std::string::npos || stat->find(") Z ") != std::string::npos) break;
      usleep(200);
    }
  }
}

void Actor::thaw() const {
  kill(-pid_, SIGCONT);
}

Group::Group() {
  auto mount = cgroup_mount();
  if (!mount) skip_process(mount.error().what);
  auto made = Cgroup::create(*mount + "/mose-sense-test-" + std::to_string(getpid()));
  if (!made) skip_process(made.error().what);
  group = std::move(*made);
}

Status SentPages::send_pages(SpaceId space, std::span<const PageRun> runs,
                             std::span<const std::span<const std::byte>> pieces) {
  for (size_t i = 0; i < runs.size(); ++i) {
    for (uint64_t n = 0; n < runs[i].count; ++n) {
      auto bytes = pieces[i].subspan(n * kPageSize, kPageSize);
      pages_[space][runs[i].first + n].assign(bytes.begin(), bytes.end());
      ++pages_sent;
    }
  }
  return {};
}

namespace {

// Everything that has contents, in the kernel's words, independent of how the source looks at it.
PageSet populated_now(const SpaceProcess& process) {
  if (!process.object.empty()) return shared_object_pages(open_shared_object(process.object, O_RDONLY).value().get()).value();
  const PageSet areas = lazy_pages(read_vmas(process.pid).value());
  if (areas.empty()) return {};
  const uint64_t first = areas.runs().front().first;
  return Pagemap::open(process.pid).value().populated({first, areas.runs().back().end() - first}).value().intersect(areas);
}

}  // namespace

std::vector<std::string> SentPages::wrong_pages(const FinalPages& final,
                                                std::span<const SpaceProcess> processes) const {
  std::vector<std::string> wrong;
  static const std::vector<std::byte> kZero(kPageSize);
  for (const SpaceProcess& process : processes) {
    auto space = std::find_if(final.spaces.begin(), final.spaces.end(),
                              [&](const SpacePages& pages) { return pages.space == process.space; });
    if (space == final.spaces.end()) {
      wrong.push_back("space " + std::to_string(process.space) + " is missing");
      continue;
    }
    auto sent = pages_.find(process.space);
    const PageSet populated = populated_now(process);
    if (!space->present.minus(populated).empty()) wrong.push_back("a page is present that is not populated");
    if (!space->remote.minus(space->present).empty()) wrong.push_back("a page is remote that is not present");
    auto memory = ProcessMemory::open(process).value();
    std::vector<std::byte> page(kPageSize);
    std::vector<uint64_t> unreadable;
    const PageSet to_compare = populated.minus(space->remote);
    for (const PageRun& run : to_compare.runs()) {
      for (uint64_t at = run.first; at < run.end(); ++at) {
        PageRun one{at, 1};
        if (!memory.read({&one, 1}, page, unreadable)) return {"a page cannot be read"};
        const std::vector<std::byte>* expected = &kZero;
        if (space->present.contains(at)) {
          auto known = sent == pages_.end() ? decltype(sent->second.end()){} : sent->second.find(at);
          if (sent == pages_.end() || known == sent->second.end()) {
            wrong.push_back("a page that counts as sent was never sent");
            continue;
          }
          expected = &known->second;
        }
        if (memcmp(expected->data(), page.data(), kPageSize) != 0) {
          char text[96];
          std::snprintf(text, sizeof text, "space %u: page %#lx is stale (%s)", process.space, at << kPageShift,
                        space->present.contains(at) ? "sent" : "absent");
          wrong.emplace_back(text);
        }
      }
    }
  }
  return wrong;
}

}  // namespace mose::test
