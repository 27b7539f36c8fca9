// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace mose::test {

// Clients that ask a service all the time, each in a thread of its own and the next question when the last answer has
// been judged and a moment has passed: clients that take all of a small machine would be what is measured. One that got
// no answer, or a wrong one, has a problem and asks no more.
class Load {
 public:
  // One question, and its answer judged.
  using Ask = std::function<Status()>;

  Load() = default;
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  ~Load() { stop(); }

  void add(std::string name, Ask ask);
  // Waits, bounded, until every client has had `more` more answers. The problem of one of them otherwise.
  [[nodiscard]] Status wait_for_answers(uint64_t more);
  // After it, what the clients refer to may be looked at.
  void stop();

  [[nodiscard]] uint64_t answers() const;
  [[nodiscard]] double longest_ms() const;  // that an answer took
  // "123 ms, connection 4": the longest answer since the last call.
  [[nodiscard]] std::string longest_of_late();
  [[nodiscard]] std::vector<std::string> problems() const;  // of the clients that have one, after stop()

 private:
  struct Client {
    std::string name;
    Ask ask;
    std::atomic<uint64_t> answers = 0;
    std::atomic<int64_t> longest_ns = 0, longest_of_late_ns = 0;
    std::atomic<bool> failed = false;  // then `problem` is set
    std::string problem;
    std::thread thread;
  };
  void run(Client& client);

  std::atomic<bool> stop_ = false;
  std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace mose::test
