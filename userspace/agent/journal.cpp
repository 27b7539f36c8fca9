// SPDX-License-Identifier: MIT
#include "agent/journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/xxh3.h"

namespace mose::agent {
namespace {

constexpr size_t kChecksumDigits = 16;
constexpr size_t kJournalBytesMax = 4u << 20;
constexpr int kFormat = 1;
// Behind the lines, written with zeros: a later line changes the contents of blocks that the file has, and its fdatasync has neither a size
// nor blocks to make durable, for which it would wait for what others write.
constexpr size_t kRoom = 16u << 10;
constexpr size_t kRoomMin = kRoom / 2;  // that an agent after this one is content with: some tens of records
// What a disk writes as a whole or not at all; of several, any may be there after the loss of the machine.
constexpr size_t kSector = 512;

std::string file_name(const MigrationId& id, Role role) {
  return id.hex() + "." + std::string(to_string(role));
}

std::string checksum(std::string_view json) {
  return fmt::format("{:016x}", XXH3_64bits(json.data(), json.size()));
}

size_t line_bytes(const std::string& json) { return kChecksumDigits + 1 + json.size() + 1; }

std::string dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::optional<plan::Record> record_from(const std::string& name) {
  using plan::Record;
  for (Record record :
       {Record::begun, Record::ready, Record::commit, Record::aborted, Record::complete, Record::finished, Record::lost}) {
    if (name == plan::to_string(record)) return record;
  }
  return std::nullopt;
}

std::optional<Role> role_from(const std::string& name) {
  for (Role role : {Role::source, Role::destination}) {
    if (name == to_string(role)) return role;
  }
  return std::nullopt;
}

// One line without its end; nothing when it is not whole or not ours.
std::optional<nlohmann::json> parse_line(std::string_view line) {
  if (line.size() < kChecksumDigits + 2 || line[kChecksumDigits] != ' ') return std::nullopt;
  std::string_view json = line.substr(kChecksumDigits + 1);
  if (line.substr(0, kChecksumDigits) != checksum(json)) return std::nullopt;
  auto value = nlohmann::json::parse(json, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  return value;
}

std::string text_of(const nlohmann::json& value, const char* key) {
  auto it = value.find(key);
  return it != value.end() && it->is_string() ? it->get<std::string>() : std::string();
}

Result<JournalMeta> parse_meta(const nlohmann::json& value) {
  if (value.value("format", nlohmann::json()) != kFormat) return fail("it is of another format");
  JournalMeta meta;
  MOSE_ASSIGN(meta.id, MigrationId::parse(text_of(value, "id")));
  auto role = role_from(text_of(value, "role"));
  if (!role) return fail("its role cannot be read");
  meta.role = *role;
  meta.workload = text_of(value, "workload");
  meta.peer = text_of(value, "peer");
  meta.peer_address = text_of(value, "peer_address");
  auto epoch = value.find("epoch");
  if (epoch == value.end() || !epoch->is_number_unsigned()) return fail("its epoch cannot be read");
  meta.epoch = epoch->get<uint32_t>();
  return meta;
}

Status apply_line(JournalContents& contents, const nlohmann::json& value) {
  std::string name = text_of(value, "record");
  if (!name.empty()) {
    auto record = record_from(name);
    if (!record) return fail(fmt::format("unknown record \"{}\"", name));
    contents.records.push_back(*record);
  }
  auto notes = value.find("notes");
  if (notes != value.end() && notes->is_object()) {
    for (const auto& [key, note] : notes->items()) {
      if (note.is_string()) contents.notes[key] = note.get<std::string>();
    }
  }
  return {};
}

struct Replay {
  JournalContents contents;
  std::string text;
  size_t file_bytes = 0;  // with the room
  size_t good_bytes = 0;  // up to the end of the last right line
};

Result<Replay> replay(const std::string& path, JournalDisk& disk) {
  MOSE_ASSIGN(std::string text, disk.read(path, kJournalBytesMax));
  Replay result;
  result.file_bytes = text.size();
  text.resize(text.find_last_not_of('\0') + 1);  // room that no line has used yet
  bool have_meta = false, wrong_seen = false;
  for (size_t at = 0, number = 1; at < text.size(); ++number) {
    size_t end = text.find('\n', at);
    bool whole = end != std::string::npos;
    auto value = parse_line(std::string_view(text).substr(at, whole ? end - at : std::string::npos));
    if (!whole) value.reset();  // without its line end it was never acknowledged
    at = whole ? end + 1 : text.size();
    if (!value) {
      wrong_seen = true;
      continue;
    }
    auto corrupt = [&](const std::string& why) { return fail(fmt::format("journal {}:{}: {}", path, number, why)); };
    if (wrong_seen) return corrupt("a damaged line stands before this one");
    if (!have_meta) {
      auto meta = parse_meta(*value);
      if (!meta) return corrupt(meta.error().what);
      result.contents.meta = *meta;
      have_meta = true;
    } else if (auto status = apply_line(result.contents, *value); !status) {
      return corrupt(status.error().what);
    }
    result.good_bytes = at;
  }
  if (!have_meta) return fail(fmt::format("journal {} has no readable first line", path));
  result.contents.torn = wrong_seen;
  result.text = std::move(text);
  return result;
}

// What to try where there is no room.
std::unexpected<Error> no_room(const std::string& what, const std::string& path, Error error) {
  const bool full = error.code == ENOSPC || error.code == EDQUOT || error.code == EFBIG;
  if (full) error.what += fmt::format("; free space on the file system of {}", path.substr(0, path.rfind('/')));
  return context(what, std::move(error));
}

}  // namespace

Result<Journal> Journal::create(const std::string& directory, const JournalMeta& meta, JournalDisk& disk) {
  Journal journal;
  journal.path_ = directory + "/" + file_name(meta.id, meta.role);
  // A journal without its first line says nothing, and nobody may decide what it means: it has its name when that is written.
  MOSE_ASSIGN(journal.file_, disk.create(journal.path_));
  journal.contents_.meta = meta;
  nlohmann::json line{{"format", kFormat},         {"id", meta.id.hex()}, {"role", to_string(meta.role)},
                      {"workload", meta.workload}, {"peer", meta.peer},   {"peer_address", meta.peer_address},
                      {"epoch", meta.epoch}};
  auto status = journal.write_line(dump(line), Survives::agent);
  if (status) status = journal.make_room();
  if (status) {
    auto named = journal.file_->publish();
    if (!named) return context("make journal " + journal.path_, named.error());  // what has the name is not ours
    status = disk.sync_directory(directory);
  }
  if (!status) {
    (void)disk.remove(journal.path_);
    return std::unexpected(status.error());
  }
  return journal;
}

std::string Journal::file_path(const std::string& directory, const MigrationId& id, Role role) {
  return directory + "/" + file_name(id, role);
}

Result<Journal> Journal::open(const std::string& directory, const MigrationId& id, Role role, JournalDisk& disk) {
  Journal journal;
  journal.path_ = directory + "/" + file_name(id, role);
  MOSE_ASSIGN(Replay replayed, replay(journal.path_, disk));
  MOSE_ASSIGN(journal.file_, disk.open(journal.path_));
  // Written once more: a sync that failed has left pages that are not on the disk, and that no later one would write. A torn end
  // becomes room again where it is: a full disk gives nothing back that was let go.
  const size_t torn = replayed.text.size() - replayed.good_bytes;
  replayed.text.resize(replayed.good_bytes);
  replayed.text.append(torn, '\0');
  if (auto again = journal.file_->write_at(0, replayed.text); !again) return no_room("write journal " + journal.path_, journal.path_, again.error());
  journal.end_ = replayed.good_bytes;
  if (replayed.file_bytes < journal.end_ + kRoomMin) {
    MOSE_TRY(journal.make_room());
  } else if (auto synced = journal.file_->sync(); !synced) {
    return context("journal " + journal.path_, synced.error());
  }
  MOSE_TRY(disk.sync_directory(directory));  // who made it may have died before that
  journal.contents_ = std::move(replayed.contents);
  return journal;
}

Status Journal::append(plan::Record record, const Notes& notes, Survives survives) {
  nlohmann::json line{{"record", plan::to_string(record)}};
  if (!notes.empty()) line["notes"] = notes;
  // The first record may be long (all that PREPARE says): the room is for those that follow, which begin a sector.
  const bool first = contents_.records.empty();
  std::string json = dump(line);
  if (first) json.append((kSector - (end_ + line_bytes(json)) % kSector) % kSector, ' ');
  // A line that was not synced must not be missing where one behind it is there: that would be corruption. So it lies in one
  // sector, with the beginning of the next line.
  if (end_ / kSector != (end_ + line_bytes(json)) / kSector) survives = Survives::power_loss;
  MOSE_TRY(write_line(json, first ? Survives::agent : survives));
  if (first && survives == Survives::power_loss) {
    broken_ = true;
    MOSE_TRY(make_room());
    broken_ = false;
  }
  contents_.records.push_back(record);
  for (const auto& [key, value] : notes) contents_.notes[key] = value;
  return {};
}

Status Journal::record(std::optional<Journal>& journal, const std::string& directory, const JournalMeta& meta,
                       plan::Record record, const Notes& notes, Survives survives, JournalDisk& disk) {
  if (!journal) {
    MOSE_ASSIGN(Journal created, create(directory, meta, disk));
    journal.emplace(std::move(created));
  }
  Status appended = journal->append(record, notes, survives);
  if (appended) return {};
  if (auto again = open(directory, meta.id, meta.role, disk)) journal.emplace(std::move(*again));
  return appended;
}

Status Journal::note(const Notes& notes) {
  MOSE_TRY(write_line(dump({{"notes", notes}})));
  for (const auto& [key, value] : notes) contents_.notes[key] = value;
  return {};
}

Result<Nanoseconds> Journal::time_sync() {
  const Timestamp start = now();
  // What is there already: the first byte of the room behind the lines.
  MOSE_TRY(file_->write_at(end_, std::string_view("\0", 1)));
  if (auto synced = file_->sync_data(); !synced) return context("journal " + path_, synced.error());
  return now() - start;
}

Status Journal::make_room() {
  if (auto status = file_->write_at(end_, std::string(kRoom, '\0')); !status)
    return no_room("make room in journal " + path_, path_, status.error());
  if (auto synced = file_->sync(); !synced) return context("journal " + path_, synced.error());
  return {};
}

Status Journal::write_line(const std::string& json, Survives survives) {
  if (broken_) return fail("journal " + path_ + " failed before: what is on the disk is not known");
  broken_ = true;  // until all three steps are through
  std::string line = checksum(json) + " " + json + "\n";
  if (auto status = file_->write_at(end_, line); !status) return no_room("append to journal " + path_, path_, status.error());
  end_ += line.size();
  if (survives == Survives::power_loss) {
    if (auto synced = file_->sync_data(); !synced) return context("journal " + path_, synced.error());
  }
  broken_ = false;
  return {};
}

Journal::Survives must_survive(Role role, plan::Record record) {
  // A restored tree that waits for its verdict does not outlive this machine, and neither need its record: it stands in the
  // critical path.
  if (role == Role::destination && record == plan::Record::ready) return Journal::Survives::agent;
  // After the loss of the machine the destination is asked again whether it is complete.
  if (role == Role::source && record == plan::Record::complete) return Journal::Survives::agent;
  return Journal::Survives::power_loss;
}

Result<JournalContents> read_journal(const std::string& path, JournalDisk& disk) {
  MOSE_ASSIGN(Replay replayed, replay(path, disk));
  return std::move(replayed.contents);
}

Result<std::vector<JournalEntry>> list_journals(const std::string& directory, JournalDisk& disk) {
  std::vector<JournalEntry> entries;
  MOSE_ASSIGN(std::vector<std::string> names, disk.list(directory));
  for (const std::string& name : names) {
    size_t dot = name.find('.');
    if (dot == std::string::npos || dot == 0) continue;
    auto id = MigrationId::parse(name.substr(0, dot));
    auto role = role_from(name.substr(dot + 1));
    if (!id || !role) continue;
    std::string path = fmt::format("{}/{}", directory, name);
    entries.push_back({path, *id, *role, read_journal(path, disk)});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return entries;
}

Status remove_journal(const std::string& directory, const MigrationId& id, Role role, JournalDisk& disk) {
  MOSE_TRY(disk.remove(directory + "/" + file_name(id, role)));
  return disk.sync_directory(directory);
}

}  // namespace mose::agent
