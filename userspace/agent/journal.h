// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/journal_disk.h"
#include "base/result.h"
#include "model/migration.h"
#include "plan/protocol.h"

// What a node remembers of a migration through a crash: one append-only file per migration, state_dir/journal/ID.ROLE.
//
// The file is longer than its lines: behind them stand zeros, room for the next ones. Each line is "CHECKSUM JSON\n" (XXH3-64 of the JSON in 16 hex digits) and counts only when it is whole and its
// checksum is right; the first line is the metadata. A line that is torn at the end of the file was never acknowledged
// and is ignored (and is room again before the next append); a wrong line with right ones behind it is corruption: the file
// is an error, its migration undecided, never guessed. A line that was not synced when the next was written lies in one sector
// with that one's beginning, so that a machine which goes down does not look like corruption.
namespace mose::agent {

struct JournalMeta {
  MigrationId id;
  Role role = Role::source;
  std::string workload;
  std::string peer;          // node name
  std::string peer_address;  // host:port
  uint32_t epoch = 1;
};

using Notes = std::map<std::string, std::string>;  // "pid", "start_time", "cgroup", ...

struct JournalContents {
  JournalMeta meta;
  std::vector<plan::Record> records;  // in order
  Notes notes;                        // of all lines, the later value of a name wins
  bool torn = false;                  // an unacknowledged last line was ignored
};

class Journal {
 public:
  // On return the file, its first line and its directory entry are durable.
  static Result<Journal> create(const std::string& directory, const JournalMeta& meta, JournalDisk& disk = host_disk());
  [[nodiscard]] static std::string file_path(const std::string& directory, const MigrationId& id, Role role);
  // For appending after a restart; a torn tail becomes room again. On return what contents() has is durable, whatever has failed before.
  static Result<Journal> open(const std::string& directory, const MigrationId& id, Role role, JournalDisk& disk = host_disk());

  // What a record must outlive. A process that dies loses nothing it has written; only the loss of the machine needs
  // the disk, and costs a wait for it: a millisecond on an idle one, half a second on one that others write to.
  enum class Survives : uint8_t { agent, power_loss };

  // Durable on success. After a failure nothing more can be appended (what is on the disk is not known).
  [[nodiscard]] Status append(plan::Record record, const Notes& notes = {}, Survives survives = Survives::power_loss);
  // The same for a migration whose journal may not exist yet: it is made then. After a failure it is read again, so that a
  // later record stands behind what has reached the disk.
  [[nodiscard]] static Status record(std::optional<Journal>& journal, const std::string& directory, const JournalMeta& meta,
                                     plan::Record record, const Notes& notes, Survives survives,
                                     JournalDisk& disk = host_disk());
  // What an fsync takes now; the journal stays as it is.
  [[nodiscard]] Result<Nanoseconds> time_sync();
  // Notes without a record, e.g. the pids of the tree that is about to be stopped.
  [[nodiscard]] Status note(const Notes& notes);
  [[nodiscard]] const JournalContents& contents() const { return contents_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] Status write_line(const std::string& json, Survives survives = Survives::power_loss);
  [[nodiscard]] Status make_room();
  std::unique_ptr<JournalFile> file_;
  size_t end_ = 0;  // of the lines
  std::string path_;
  JournalContents contents_;
  bool broken_ = false;
};

// Which record has to outlive what, and why that is enough.
[[nodiscard]] Journal::Survives must_survive(Role role, plan::Record record);

struct JournalEntry {
  std::string path;
  MigrationId id;
  Role role = Role::source;
  Result<JournalContents> contents;
};

[[nodiscard]] Result<JournalContents> read_journal(const std::string& path, JournalDisk& disk = host_disk());
// Every journal of the directory (missing: none); unreadable ones with their error.
[[nodiscard]] Result<std::vector<JournalEntry>> list_journals(const std::string& directory, JournalDisk& disk = host_disk());
// After `finished` is recorded and the report is in the history.
[[nodiscard]] Status remove_journal(const std::string& directory, const MigrationId& id, Role role, JournalDisk& disk = host_disk());

}  // namespace mose::agent
