// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "agent/journal.h"
#include "sim/bench.h"
#include "sim/disk.h"

// The journal of one side's agent: the agent's own code over the node's simulated disk, with what an agent does with what it
// finds. Lives as long as the node; crash() is the end of the process that uses it.
namespace mose::sim {

// The same migration for each seed: nothing of its number matters.
[[nodiscard]] agent::JournalMeta journal_meta(Side side);

class NodeJournal {
 public:
  NodeJournal(Bench& bench, Side side, SimulatedDisk& disk) : bench_(bench), side_(side), disk_(disk) {}

  struct Written {
    std::string error;  // empty: none
    Nanoseconds takes;
  };
  [[nodiscard]] Written record(plan::Record record, bool fails);
  [[nodiscard]] Written note(const agent::Notes& notes);
  [[nodiscard]] Nanoseconds time_sync();

  // Nothing there: no value and no problem. The agent does nothing else until it has ended.
  struct Found {
    std::optional<agent::JournalContents> contents;
    std::string problem;  // it is there, and nobody can decide from it
  };
  [[nodiscard]] Found open();
  void remove();
  void crash() { journal_.reset(); }

 private:
  [[nodiscard]] Found find();
  void check(const agent::JournalContents& contents);

  Bench& bench_;
  Side side_;
  SimulatedDisk& disk_;
  std::optional<agent::Journal> journal_;
  std::vector<std::pair<plan::Record, agent::Notes>> asked_;  // every record that was to be written, in order
  agent::Notes noted_;                                        // what was to be written without one
};

// The records of the journal among these files, as its code reads them; none where there is none or it cannot be read.
[[nodiscard]] std::vector<plan::Record> records_of(const std::map<std::string, std::string>& files);

}  // namespace mose::sim
