// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace mose {

// A change of the host in several steps: push the undo of each step after it succeeded; commit() once at the end keeps
// all, leaving the scope before that undoes them in reverse order.
class Rollback {
 public:
  Rollback() = default;
  Rollback(Rollback&& other) noexcept : undo_(std::exchange(other.undo_, {})) {}
  Rollback& operator=(Rollback&& other) noexcept {
    if (this != &other) {
      run();
      undo_ = std::exchange(other.undo_, {});
    }
    return *this;
  }
  Rollback(const Rollback&) = delete;
  Rollback& operator=(const Rollback&) = delete;
  ~Rollback() { run(); }

  void push(std::function<void()> undo) { undo_.push_back(std::move(undo)); }
  void commit() { undo_.clear(); }
  // Undoes everything now, last step first.
  void run() {
    while (!undo_.empty()) {
      auto undo = std::move(undo_.back());
      undo_.pop_back();
      undo();
    }
  }

 private:
  std::vector<std::function<void()>> undo_;
};

}  // namespace mose
