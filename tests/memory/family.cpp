// SPDX-License-Identifier: MIT
#include "family.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "writers.h"

namespace mose::test {
namespace {

constexpr uint64_t kForkEach = 256;  // steps
constexpr size_t kChildrenMax = 3;
constexpr int kChildPauseMs = 2;
constexpr uint64_t kChildLook = 16;  // pages between two steps

void add(Counts& sum, const Counts& part) {
  sum.pages += part.pages;
  sum.steps += part.steps;
  sum.checks += part.checks;
  sum.stale += part.stale;
  sum.ahead += part.ahead;
  sum.foreign += part.foreign;
  sum.lost += part.lost;
  sum.torn += part.torn;
}

}  // namespace

Family::Family(unsigned number) : Region(Kind::fork, number, pages_of(Kind::fork)) {
  void* at = mmap(nullptr, pages_ * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) die("mmap");
  base = static_cast<char*>(at);
  fill();
}

// What was written before the fork is the parent's in both.
Stamp Family::stamp_of(uint64_t page, uint64_t step) const {
  Stamp stamp = Region::stamp_of(page, step);
  stamp.branch = step > branch_from_ ? branch_ : 0;
  return stamp;
}

void Family::put(uint64_t page, const Stamp& stamp) {
  Region::put(page, stamp);
  if (branch_ == 0 && stamp.sequence % kForkEach == 0) {
    ++steps_;  // the page of this step is written: the child begins with it
    fork_child();
    --steps_;
  }
}

void Family::fork_child() {
  if (children_.size() >= kChildrenMax) {
    Child& oldest = children_.front();
    add(gone_, ask(oldest, 'x'));
    gone_.pages -= pages_;
    close(oldest.ask);
    close(oldest.answer);
    while (waitpid(oldest.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    children_.pop_front();
  }
  int down[2], up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) die("pipe");
  ++branches_;
  pid_t pid = ::fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    close(down[1]);
    close(up[0]);
    for (const Child& sibling : children_) {
      close(sibling.ask);
      close(sibling.answer);
    }
    live(down[0], up[1]);
  }
  close(down[0]);
  close(up[1]);
  children_.push_back({pid, down[1], up[0], {}});
}

void Family::live(int orders, int answers) {
  branch_ = branches_;
  branch_from_ = steps_;
  counts_ = {};
  bool resting_child = false;
  const uint64_t inherited = steps_;
  for (;;) {
    pollfd waiting{orders, POLLIN, 0};
    int ready = poll(&waiting, 1, kChildPauseMs);
    if (ready > 0) {
      char order = 0;
      ssize_t got = ::read(orders, &order, 1);
      if (got == 0) _exit(0);
      if (got < 0) continue;
      if (order == 'v' || order == 'x') check(pages_);
      if (order == 'r') resting_child = true;
      if (order == 'w') resting_child = false;
      Counts counts;
      add_counts(counts);
      counts.steps -= inherited;
      if (write(answers, &counts, sizeof counts) != sizeof counts || order == 'x') _exit(0);
      continue;
    }
    if (!resting_child) step();
    check(kChildLook);
  }
}

Counts Family::ask(Child& child, char order) {
  if (write(child.ask, &order, 1) != 1) die("a forked process");
  Counts counts;
  for (size_t done = 0; done < sizeof counts;) {
    ssize_t got = ::read(child.answer, reinterpret_cast<char*>(&counts) + done, sizeof counts - done);
    if (got == 0 || (got < 0 && errno != EINTR)) die("a forked process has ended");
    if (got > 0) done += static_cast<size_t>(got);
  }
  return counts;
}

void Family::rest() {
  for (Child& child : children_) (void)ask(child, 'r');
}

void Family::work() {
  for (Child& child : children_) (void)ask(child, 'w');
}

void Family::add_children(bool verify, Counts& out) {
  add(out, gone_);
  for (Child& child : children_) add(out, ask(child, verify ? 'v' : 's'));
}

}  // namespace mose::test
