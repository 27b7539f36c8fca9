// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "agent/event_loop.h"
#include "agent/journal.h"
#include "base/log.h"

namespace mose::agent {

// Looks after one record of a journal at a time while it is written. Nothing ends the wait for a disk that hangs: who stands
// still for it must be found by whoever looks.
class RecordWatch {
 public:
  // A record that takes longer is told: a busy disk takes half a second.
  static constexpr Nanoseconds kSlow = std::chrono::seconds(2);

  RecordWatch(EventLoop& loop, std::string directory) : loop_(loop), directory_(std::move(directory)) {}
  ~RecordWatch() { end(); }
  RecordWatch(const RecordWatch&) = delete;
  RecordWatch& operator=(const RecordWatch&) = delete;

  // `on_slow`: once, when it has taken too long; the log has it already.
  void begin(plan::Record record, std::function<void()> on_slow) {
    end();
    timer_ = loop_.after(kSlow, [this, record, on_slow = std::move(on_slow)] {
      timer_ = 0;
      slow_ = record;
      log::error("the disk of the journal does not answer", {{"record", plan::to_string(record)}, {"directory", directory_}});
      on_slow();
    });
  }
  void end() {
    loop_.cancel(std::exchange(timer_, 0));
    slow_.reset();
  }

  // What is waited for, for the operator; empty: no record takes long. `standing`: the workload that stands still meanwhile; empty: none.
  [[nodiscard]] std::string sentence(const std::string& standing) const {
    if (!slow_) return "";
    std::string text = fmt::format("the disk of {} does not answer (record {})", directory_, plan::to_string(*slow_));
    return standing.empty() ? text : text + fmt::format("; {} stands still until it does", standing);
  }

 private:
  EventLoop& loop_;
  const std::string directory_;
  EventLoop::TimerId timer_ = 0;
  std::optional<plan::Record> slow_;
};

}  // namespace mose::agent
