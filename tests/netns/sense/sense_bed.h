// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "kernel/cgroup.h"
#include "model/dirty_source.h"

// Processes that are told what to do with their memory, and the destination as the dirty source's contract describes
// it.
namespace mose::test {

// Address space for a child to map, where huge pages can begin: released with the owner.
class Reserved {
 public:
  explicit Reserved(size_t bytes);
  ~Reserved();
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  char* at;  // aligned to 2 MiB

 private:
  char* begin_;
  size_t bytes_;
};
// Private memory, there or (null) anywhere.
char* map_at(void* at, size_t bytes);
// No two words of it are the same, nor those of two seeds.
void fill(char* at, size_t bytes, uint64_t seed);

// A child that does one step after the other when told to, and waits in read(2) in between, so that one of its threads
// can always be borrowed. Killed, with its children, when the owner goes.
class Actor {
 public:
  explicit Actor(std::vector<std::function<void()>> steps);
  ~Actor();
  Actor(const Actor&) = delete;
  Actor& operator=(const Actor&) = delete;

  // Runs the next step and waits until it is done; `wait` false where the step does not come back (exec).
  void step(bool wait = true);
  [[nodiscard]] pid_t pid() const { return pid_; }
  // It and its children, as spaces.
  [[nodiscard]] std::vector<SpaceProcess> spaces() const;
  // Every process stopped, as a frozen cgroup would have them.
  void freeze() const;
  void thaw() const;

 private:
  pid_t pid_ = 0;
  int to_child_ = -1, from_child_ = -1;
};

// A control group of its own, removed with the owner; the test is skipped where there can be none.
class Group {
 public:
  Group();
  ~Group() { (void)group.remove(std::chrono::seconds(2)); }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  Cgroup group;
};

// What a destination would hold after the rounds so far.
class SentPages final : public PageSink {
 public:
  Status send_pages(SpaceId space, std::span<const PageRun> runs,
                    std::span<const std::span<const std::byte>> pieces) override;
  // Compares with the frozen processes: a page that is present and not remote holds what was sent; a page that is not
  // present is zero or not populated. The addresses of pages for which that is wrong, in words.
  [[nodiscard]] std::vector<std::string> wrong_pages(const FinalPages& final,
                                                     std::span<const SpaceProcess> processes) const;

  uint64_t pages_sent = 0;

 private:
  std::map<SpaceId, std::map<uint64_t, std::vector<std::byte>>> pages_;
};

}  // namespace mose::test
