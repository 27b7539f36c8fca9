// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/journal_disk.h"
#include "sim/bench.h"

// The disk of one node, as the journal's code sees it. The code runs at one moment of virtual time, and each of its steps has
// an end of its own after that: a crash in between undoes those that have not come. What is written is in the kernel's cache;
// a sync brings it to the platter. A process that dies loses nothing of the cache; a node that loses power keeps the platter
// and, of what was not synced, what chance has brought there: sectors of 512 bytes, all, none, the first or some of them,
// rarely with garbage for the last of their new bytes; the new length or the old; names or not.
namespace mose::sim {

class SimulatedDisk : public agent::JournalDisk {
 public:
  SimulatedDisk(Bench& bench, Side side) : bench_(bench), side_(side) {}

  Result<std::unique_ptr<agent::JournalFile>> create(const std::string& path) override;
  Result<std::unique_ptr<agent::JournalFile>> open(const std::string& path) override;
  Result<std::string> read(const std::string& path, size_t bytes_max) override;
  Result<std::vector<std::string>> list(const std::string& directory) override;
  Status remove(const std::string& path) override;
  Status sync_directory(const std::string& directory) override;

  // What follows is one job of the journal's thread, from now on. One that fails does so at a step of chance: no room or an
  // error of the device; that step alone, or all from it on.
  void begin_job(bool fails);
  // Until the last of its steps has ended, and until the last before its last sync.
  [[nodiscard]] Nanoseconds job_takes() const { return takes_; }
  [[nodiscard]] Nanoseconds job_takes_unsynced() const { return takes_unsynced_; }

  void lose_agent();
  void lose_power();
  void lose_files();  // by somebody's hand, beside an agent that has died

  // What the loss of the machine could not take, by path; `cached`: what the next agent would read. Whoever looks sees what
  // has ended by now.
  [[nodiscard]] std::map<std::string, std::string> durable();
  [[nodiscard]] std::map<std::string, std::string> cached();
  // One changes with each of them.
  struct Versions {
    uint64_t durable = 1, cached = 1;
  };
  [[nodiscard]] Versions versions() {
    settle();
    return versions_;
  }

 private:
  friend class SimulatedFile;
  using Number = uint64_t;
  struct Inode {
    std::string cache, platter;
    std::set<size_t> dirty;  // pages of the cache that the next sync writes
  };
  enum class What : uint8_t { write, truncate, sync, give_name, take_name, sync_names };
  struct Step {
    Timestamp begin, end;
    What what;
    Number file = 0;
    size_t at = 0;  // write; truncate: the length
    std::string text;  // write; names: the path
    bool fails = false;
  };
  struct View {  // of the agent that runs: as if every step had ended
    std::map<Number, std::string> files;
    std::map<std::string, Number> names;
  };

  // Whether the next step of this job fails.
  bool next_fails();
  void add(Step step, Nanoseconds takes);
  Status do_write(Number file, size_t at, std::string_view bytes);
  Status do_sync(Number file);
  Status do_publish(Number file, const std::string& path);
  void settle();
  void apply(const Step& step);
  void flush(Inode& inode);
  void flush_some(Inode& inode);
  void forget_later();

  Bench& bench_;
  Side side_;
  View view_;
  std::map<Number, Inode> inodes_;
  std::map<std::string, Number> names_, platter_names_;
  std::deque<Step> steps_;
  Number next_ = 1;
  Versions versions_;
  Timestamp job_begin_{};
  Nanoseconds takes_{0}, takes_unsynced_{0};
  unsigned job_steps_ = 0, fail_at_ = ~0u;
  bool fail_all_ = false;
};

}  // namespace mose::sim
