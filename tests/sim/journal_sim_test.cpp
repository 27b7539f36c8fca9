// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>

#include "sim/node_journal.h"
#include "support/support.h"

// A journal alone on a simulated disk: records of any length, some of which need not outlive the loss of the machine, steps
// that fail, agents and machines that go down in the middle of one, again and again.
namespace mose::sim {
namespace {

using agent::Journal;
using agent::JournalMeta;
using plan::Record;

constexpr const char* kDirectory = "journal";
constexpr Record kRecords[] = {Record::begun, Record::ready, Record::commit, Record::complete, Record::aborted};

class JournalRun {
 public:
  explicit JournalRun(uint64_t seed) : bench_(seed), disk_(bench_, Side::destination) {
    bench_.faults.end = bench_.loop.now() + 1h;
    bench_.power_fails = [](Side) {};
  }

  // What is wrong with what was read back; empty: nothing.
  std::string run() {
    for (unsigned life = 0; life < 6 && problem_.empty(); ++life) {
      start();
      for (uint64_t i = bench_.random.below(5); i > 0 && problem_.empty(); --i) append();
      if (bench_.random.coin()) pass(bench_.random.between(0ns, disk_.job_takes() * 2));
      bench_.random.coin() ? lose_power() : disk_.lose_agent();
    }
    return problem_;
  }

 private:
  void pass(Nanoseconds time) {
    bench_.loop.after(time, [] {});
    (void)bench_.loop.run_one(bench_.loop.now() + time);
  }
  void lose_power() {
    disk_.lose_power();
    power_lost_ = true;
  }

  // Every agent begins with what it finds: all that was acknowledged, in order, and nothing that was never asked for.
  void start() {
    disk_.begin_job(false);
    journal_.reset();
    auto entries = agent::list_journals(kDirectory, disk_);
    if (entries->empty()) {
      if (!agrees({}, 0, 0)) problem_ = "the journal is gone";
      asked_.clear();
      return;
    }
    auto journal = Journal::open(kDirectory, entries->front().id, entries->front().role, disk_);
    if (!journal) return void(problem_ = journal.error().what);
    const auto& records = journal->contents().records;
    if (!agrees(records, 0, 0)) problem_ = "the records are not those that were acknowledged";
    asked_.clear();
    for (Record record : records) asked_.push_back({record, Known::durable});  // an agent that goes on from them relies on them
    journal_.emplace(std::move(*journal));
    pass(disk_.job_takes());
    power_lost_ = false;
  }

  // From record `at` of what was read and `from` of what was asked for on: all that had to outlive what happened is there, and
  // nothing that nobody wrote.
  [[nodiscard]] bool agrees(const std::vector<Record>& records, size_t at, size_t from) const {
    if (from == asked_.size()) return at == records.size();
    const Asked& next = asked_[from];
    if (at < records.size() && records[at] == next.record && agrees(records, at + 1, from + 1)) return true;
    const bool must_be_there = next.known == Known::durable || (next.known == Known::written && !power_lost_);
    return !must_be_there && agrees(records, at, from + 1);
  }

  void append() {
    const Record record = kRecords[bench_.random.below(5)];
    const bool short_one = record == Record::ready || record == Record::complete;
    agent::Notes notes;
    if (!short_one) notes["text"] = std::string(bench_.random.below(bench_.random.chance(0.2) ? 6000 : 300), 'n');
    disk_.begin_job(bench_.random.chance(0.1));
    const auto survives = short_one ? Journal::Survives::agent : Journal::Survives::power_loss;
    Status status = Journal::record(journal_, kDirectory, journal_meta(Side::destination), record, notes, survives, disk_);
    if (!status) {
      // A sync that fails may take with it what was only in the kernel's cache.
      for (Asked& before : asked_) before.known = before.known == Known::written ? Known::no : before.known;
    }
    if (bench_.random.chance(0.1)) return lost_in_the_middle(record);
    pass(disk_.job_takes());
    asked_.push_back({record, !status ? Known::no : short_one ? Known::written : Known::durable});
    // What stands before what was synced was synced with it.
    for (Asked& before : asked_) {
      if (asked_.back().known == Known::durable && before.known == Known::written) before.known = Known::durable;
    }
  }
  void lost_in_the_middle(Record record) {
    asked_.push_back({record, Known::no});
    pass(bench_.random.between(0ns, disk_.job_takes()));
    bench_.random.coin() ? lose_power() : disk_.lose_agent();
    start();
  }

  enum class Known : uint8_t { no, written, durable };
  struct Asked {
    Record record;
    Known known;
  };
  Bench bench_;
  SimulatedDisk disk_;
  std::optional<Journal> journal_;
  std::vector<Asked> asked_;
  bool power_lost_ = false;
  std::string problem_;
};

TEST(JournalSimulation, WhatWasAcknowledgedIsReadBackWhateverTheDiskDoes) {
  for (int seed = 1; seed <= test::rounds(1000, 20000); ++seed) {
    const std::string problem = JournalRun(static_cast<uint64_t>(seed)).run();
    ASSERT_EQ(problem, "") << "seed " << seed;
  }
}

}  // namespace
}  // namespace mose::sim
