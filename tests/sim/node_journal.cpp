// SPDX-License-Identifier: MIT
#include "sim/node_journal.h"

#include <algorithm>

namespace mose::sim {
namespace {

constexpr const char* kDirectory = "journal";

// A disk that is only looked at.
class Snapshot : public agent::JournalDisk {
 public:
  explicit Snapshot(const std::map<std::string, std::string>& files) : files_(files) {}
  Result<std::unique_ptr<agent::JournalFile>> create(const std::string&) override { return fail("only to be read"); }
  Result<std::unique_ptr<agent::JournalFile>> open(const std::string&) override { return fail("only to be read"); }
  Result<std::string> read(const std::string& path, size_t) override { return files_.at(path); }
  Result<std::vector<std::string>> list(const std::string& directory) override {
    std::vector<std::string> names;
    for (const auto& [path, text] : files_) names.push_back(path.substr(directory.size() + 1));
    return names;
  }
  Status remove(const std::string&) override { return fail("only to be read"); }
  Status sync_directory(const std::string&) override { return fail("only to be read"); }

 private:
  const std::map<std::string, std::string>& files_;
};

}  // namespace

agent::JournalMeta journal_meta(Side side) {
  agent::JournalMeta meta;
  meta.id.bytes.fill(0x5a);
  meta.role = side == Side::source ? Role::source : Role::destination;
  meta.workload = "redis";
  meta.peer = side == Side::source ? "b" : "a";
  meta.peer_address = "192.0.2.2:7400";
  return meta;
}

NodeJournal::Written NodeJournal::record(plan::Record record, bool fails) {
  agent::Notes notes;
  // What PREPARE says is of any length, and what stands behind it lies anywhere in a sector.
  if (record == plan::Record::begun)
    notes["prepare"] = std::string(bench_.random.below(bench_.random.coin() ? 600 : 6000), 'p');
  if (record == plan::Record::commit && side_ == Side::source)
    notes = {{"peer_mac", "02:00:5e:00:53:01"}, {"strategy", "hybrid"}};
  if (record == plan::Record::lost) notes["reason"] = "the workload has ended before its memory was complete";
  disk_.begin_job(fails);
  if (bench_.hooks.forget_record && bench_.hooks.forget_record(side_, record)) return {{}, bench_.duration(2ms)};
  asked_.emplace_back(record, notes);
  const agent::JournalMeta meta = journal_meta(side_);
  const auto survives = agent::must_survive(meta.role, record);
  Status status = agent::Journal::record(journal_, kDirectory, meta, record, notes, survives, disk_);
  bench_.note(side_, std::string("record ") + plan::to_string(record) + (status ? "" : " fails: " + status.error().what));
  const bool early = bench_.hooks.early_record && bench_.hooks.early_record(side_, record);
  return {status ? "" : status.error().what, early ? disk_.job_takes_unsynced() : disk_.job_takes()};
}

NodeJournal::Written NodeJournal::note(const agent::Notes& notes) {
  if (!journal_) return {"there is no journal", 0ns};
  disk_.begin_job(false);
  for (const auto& [name, text] : notes) noted_[name] = text;
  Status status = journal_->note(notes);
  bench_.note(side_, "note" + (status ? std::string() : " fails: " + status.error().what));
  return {status ? "" : status.error().what, disk_.job_takes()};
}

Nanoseconds NodeJournal::time_sync() {
  if (!journal_) return 0ns;
  disk_.begin_job(false);
  (void)journal_->time_sync();
  return disk_.job_takes();
}

NodeJournal::Found NodeJournal::open() {
  disk_.begin_job(false);
  Found found = find();
  bench_.clock(side_).asleep_until = bench_.loop.now() + disk_.job_takes();
  return found;
}

NodeJournal::Found NodeJournal::find() {
  journal_.reset();
  auto entries = agent::list_journals(kDirectory, disk_);
  if (!entries) return {{}, entries.error().what};
  if (entries->empty()) return {};
  const agent::JournalEntry& entry = entries->front();
  if (!entry.contents) return {{}, entry.contents.error().what};
  auto opened = agent::Journal::open(kDirectory, entry.id, entry.role, disk_);
  if (!opened) return {{}, opened.error().what};
  journal_.emplace(std::move(*opened));
  check(journal_->contents());
  return {journal_->contents(), {}};
}

// Each record was asked for, with just these words, in this order.
void NodeJournal::check(const agent::JournalContents& contents) {
  size_t at = 0;
  agent::Notes notes;
  for (plan::Record record : contents.records) {
    while (at < asked_.size() && asked_[at].first != record) ++at;
    if (at == asked_.size())
      return bench_.violate(std::string("the journal has a record that nobody has written: ") + plan::to_string(record));
    for (const auto& [name, text] : asked_[at].second) notes[name] = text;
    ++at;
  }
  // A record that was asked for again may have come with the words of either time.
  for (const auto& [name, text] : contents.notes) {
    const bool said = std::ranges::any_of(asked_, [&](const auto& asked) {
      auto it = asked.second.find(name);
      return it != asked.second.end() && it->second == text;
    });
    auto alone = noted_.find(name);
    if (!said && (alone == noted_.end() || alone->second != text))
      return bench_.violate("the journal has words that nobody has written: " + name + " = " + text.substr(0, 40));
  }
  for (const auto& [name, text] : notes) {
    if (!contents.notes.contains(name)) return bench_.violate("the journal has lost a record's words: " + name);
  }
}

void NodeJournal::remove() {
  const agent::JournalMeta meta = journal_meta(side_);
  disk_.begin_job(bench_.fails(side_, 0xff));
  journal_.reset();
  if (auto gone = agent::remove_journal(kDirectory, meta.id, meta.role, disk_); !gone) bench_.note(side_, gone.error().what);
}

std::vector<plan::Record> records_of(const std::map<std::string, std::string>& files) {
  Snapshot snapshot(files);
  for (const auto& [path, text] : files) {
    if (auto contents = agent::read_journal(path, snapshot)) return contents->records;
  }
  return {};
}

}  // namespace mose::sim
