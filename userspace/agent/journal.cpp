// SPDX-License-Identifier: MIT
#include "agent/journal.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "agent/durable_file.h"
#include "base/directory.h"
#include "base/xxh3.h"

namespace mose::agent {
namespace {

constexpr size_t kChecksumDigits = 16;
constexpr size_t kJournalBytesMax = 4u << 20;
constexpr int kFormat = 1;
// Behind the lines, written with zeros: a later line changes the contents of blocks that the file has, and its fdatasync has neither a size
// nor blocks to make durable, for which it would wait for what others write.
constexpr size_t kRoom = 16u << 10;

std::string file_name(const MigrationId& id, Role role) {
  return id.hex() + "." + std::string(to_string(role));
}

std::string checksum(std::string_view json) {
  return fmt::format("{:016x}", XXH3_64bits(json.data(), json.size()));
}

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
  size_t good_bytes = 0;  // up to the end of the last right line
};

Result<Replay> replay(const std::string& path) {
  MOSE_ASSIGN(std::string text, read_file(path, kJournalBytesMax));
  text.resize(text.find_last_not_of('\0') + 1);  // room that no line has used yet
  Replay result;
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
  return result;
}

// What to try where there is no room.
std::unexpected<Error> no_room(const std::string& what, const std::string& path, Error error) {
  const bool full = error.code == ENOSPC || error.code == EDQUOT || error.code == EFBIG;
  if (full) error.what += fmt::format("; free space on the file system of {}", path.substr(0, path.rfind('/')));
  return context(what, std::move(error));
}

// A file that gets its name only with name_file(): who dies before leaves nothing. Nothing where the file system has no
// such files.
std::optional<Fd> open_unnamed(const std::string& directory) {
  Fd file(::open(directory.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600));
  if (!file) return std::nullopt;
  return file;
}

Status name_file(const Fd& file, const std::string& path) {
  std::string here = "/proc/self/fd/" + std::to_string(file.get());
  if (linkat(AT_FDCWD, here.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0) return fail_errno("make journal " + path);
  return {};
}

}  // namespace

Result<Journal> Journal::create(const std::string& directory, const JournalMeta& meta) {
  Journal journal;
  journal.path_ = directory + "/" + file_name(meta.id, meta.role);
  // A journal without its first line says nothing, and nobody may decide what it means.
  std::optional<Fd> unnamed = open_unnamed(directory);
  if (unnamed) {
    journal.file_ = std::move(*unnamed);
  } else {
    MOSE_ASSIGN(journal.file_, open_file(journal.path_, O_WRONLY | O_CREAT | O_EXCL, 0600));
  }
  journal.contents_.meta = meta;
  nlohmann::json line{{"format", kFormat},         {"id", meta.id.hex()}, {"role", to_string(meta.role)},
                      {"workload", meta.workload}, {"peer", meta.peer},   {"peer_address", meta.peer_address},
                      {"epoch", meta.epoch}};
  auto status = journal.write_line(dump(line), Survives::agent);
  if (status) status = journal.make_room();
  if (status && unnamed) {
    if (auto named = name_file(journal.file_, journal.path_); !named) return std::unexpected(named.error());  // not ours
  }
  if (status) status = sync_directory(directory);
  if (!status) {
    unlink(journal.path_.c_str());
    return std::unexpected(status.error());
  }
  return journal;
}

std::string Journal::file_path(const std::string& directory, const MigrationId& id, Role role) {
  return directory + "/" + file_name(id, role);
}

Result<Journal> Journal::open(const std::string& directory, const MigrationId& id, Role role) {
  Journal journal;
  journal.path_ = directory + "/" + file_name(id, role);
  MOSE_ASSIGN(Replay replayed, replay(journal.path_));
  MOSE_ASSIGN(journal.file_, open_file(journal.path_, O_WRONLY));
  if (ftruncate(journal.file_.get(), static_cast<off_t>(replayed.good_bytes)) != 0) {
    return fail_errno("cut the torn end of " + journal.path_);
  }
  journal.end_ = replayed.good_bytes;
  MOSE_TRY(journal.make_room());
  journal.contents_ = std::move(replayed.contents);
  return journal;
}

Status Journal::append(plan::Record record, const Notes& notes, Survives survives) {
  nlohmann::json line{{"record", plan::to_string(record)}};
  if (!notes.empty()) line["notes"] = notes;
  // The first record may be long (all that PREPARE says): the room is for those that follow.
  const bool first = contents_.records.empty();
  MOSE_TRY(write_line(dump(line), first ? Survives::agent : survives));
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
                       plan::Record record, const Notes& notes, Survives survives) {
  if (!journal) {
    MOSE_ASSIGN(Journal created, create(directory, meta));
    journal.emplace(std::move(created));
  }
  Status appended = journal->append(record, notes, survives);
  if (appended) return {};
  if (auto again = open(directory, meta.id, meta.role)) journal.emplace(std::move(*again));
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
  MOSE_TRY(write_at(std::string_view("\0", 1)));
  if (fdatasync(file_.get()) != 0) return fail_errno("fsync journal " + path_);
  return now() - start;
}

// At the end of the lines.
Status Journal::write_at(std::string_view bytes) {
  if (lseek(file_.get(), static_cast<off_t>(end_), SEEK_SET) < 0) return fail_errno("seek");
  return write_all(file_.get(), bytes);
}

Status Journal::make_room() {
  if (auto status = write_at(std::string(kRoom, '\0')); !status)
    return no_room("make room in journal " + path_, path_, status.error());
  if (fsync(file_.get()) != 0) return fail_errno("fsync journal " + path_);
  return {};
}

Status Journal::write_line(const std::string& json, Survives survives) {
  if (broken_) return fail("journal " + path_ + " failed before: what is on the disk is not known");
  broken_ = true;  // until all three steps are through
  std::string line = checksum(json) + " " + json + "\n";
  if (auto status = write_at(line); !status) return no_room("append to journal " + path_, path_, status.error());
  end_ += line.size();
  if (survives == Survives::power_loss && fdatasync(file_.get()) != 0) return fail_errno("fsync journal " + path_);
  broken_ = false;
  return {};
}

Result<JournalContents> read_journal(const std::string& path) {
  MOSE_ASSIGN(Replay replayed, replay(path));
  return std::move(replayed.contents);
}

Result<std::vector<JournalEntry>> list_journals(const std::string& directory) {
  std::vector<JournalEntry> entries;
  Directory dir = open_directory(directory);
  if (!dir) {
    if (errno == ENOENT) return entries;
    return fail_errno("read " + directory);
  }
  while (dirent* item = readdir(dir.get())) {
    std::string name = item->d_name;
    size_t dot = name.find('.');
    if (dot == std::string::npos || dot == 0) continue;
    auto id = MigrationId::parse(name.substr(0, dot));
    auto role = role_from(name.substr(dot + 1));
    if (!id || !role) continue;
    std::string path = fmt::format("{}/{}", directory, name);
    entries.push_back({path, *id, *role, read_journal(path)});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return entries;
}

Status remove_journal(const std::string& directory, const MigrationId& id, Role role) {
  std::string path = directory + "/" + file_name(id, role);
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
  return sync_directory(directory);
}

}  // namespace mose::agent
