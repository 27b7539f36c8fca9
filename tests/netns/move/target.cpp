// SPDX-License-Identifier: MIT
#include "netns/move/target.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/fd.h"

namespace mose::test {
namespace {

constexpr size_t kPage = 4096;

std::byte* map_pages(size_t pages, void* at = nullptr) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0);
  void* got = mmap(at, pages * kPage, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (got == MAP_FAILED) _exit(1);
  return static_cast<std::byte*>(got);
}

}  // namespace

Target::Target(const std::function<void(const std::function<void()>&)>& body) {
  int fds[2];
  if (pipe(fds) != 0) abort();
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    close(fds[0]);
    body([&] { static_cast<void>(!write(fds[1], "r", 1)); });
    _exit(0);
  }
  close(fds[1]);
  char byte;
  static_cast<void>(!read(fds[0], &byte, 1));
  close(fds[0]);
}

Target::~Target() {
  for (pid_t pid : tree()) kill(pid, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::vector<pid_t> Target::tree() const {
  std::vector<pid_t> pids{pid_};
  auto text = read_file("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children");
  if (text) {
    std::istringstream words(*text);
    for (pid_t pid; words >> pid;) pids.push_back(pid);
  }
  return pids;
}

void Target::freeze() const {
  for (pid_t pid : tree()) {
    kill(pid, SIGSTOP);
    for (int i = 0; i < 5000; ++i) {
      auto stat = read_file("/proc/" + std::to_string(pid) + "/stat");
      if (!stat || stat->find(") T ") != std::string::npos || stat->find(") Z ") != std::string::npos) break;
      usleep(1000);
    }
  }
}

void write_for_ever(uint64_t megabytes, const std::function<void()>& ready) {
  const size_t pages = megabytes * 256;
  std::byte* region = map_pages(pages);
  Random random{88172645463325252ull};
  for (size_t i = 0; i < pages * kPage; i += sizeof(uint64_t)) {
    uint64_t value = random();
    memcpy(region + i, &value, sizeof(value));
  }
  std::byte* shifting = map_pages(64);
  std::vector<char*> blocks(64, nullptr);
  ready();
  for (uint64_t turn = 0;; ++turn) {
    uint64_t value = random();
    memcpy(region + value % (pages * kPage - 8), &value, sizeof(value));
    if (turn % 64 == 0) {
      char*& block = blocks[value % blocks.size()];
      free(block);
      size_t size = 100 + value % 200000;
      block = static_cast<char*>(malloc(size));
      memset(block, static_cast<int>(value), size);
    }
    if (turn % 1000 == 0) {
      switch (value % 4) {
        case 0:
          munmap(shifting, 64 * kPage);
          shifting = map_pages(64);
          break;
        case 1: madvise(shifting + kPage, 8 * kPage, MADV_DONTNEED); break;
        case 2: memset(shifting + value % 64 * kPage, 0, kPage); break;
        default: memset(shifting, static_cast<int>(value), 64 * kPage);
      }
    }
    if (turn % 100 == 0) usleep(100);
  }
}

}  // namespace mose::test
