// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

// Processes whose memory is moved in these tests.
namespace mose::test {

// A child that runs `body` for ever (it must not return) and tells when its memory is set up. Killed with its own
// children when the owner goes.
class Target {
 public:
  // `body` gets a function to call once when everything is set up.
  explicit Target(const std::function<void(const std::function<void()>& ready)>& body);
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  // The process and its children that live now.
  [[nodiscard]] std::vector<pid_t> tree() const;
  // Stops all of them and waits until they are stopped.
  void freeze() const;

 private:
  pid_t pid_ = 0;
};

// A cheap generator, so that writes are spread and repeatable.
struct Random {
  uint64_t state;
  uint64_t operator()() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
};

// Writes without end: random words in a region of `megabytes`, a page that comes and goes (munmap, MADV_DONTNEED), heap
// blocks that grow and shrink, and a page set to zero now and then.
[[noreturn]] void write_for_ever(uint64_t megabytes, const std::function<void()>& ready);

}  // namespace mose::test
