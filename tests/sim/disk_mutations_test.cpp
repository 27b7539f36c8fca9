// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/xxh3.h"
#include "sim/mutation.h"

// Bugs that only a disk shows: of an agent that does not wait for it, and of a journal that reads what it should not.
namespace mose::sim {
namespace {

using plan::Record;

std::string line_of(const std::string& json) {
  return fmt::format("{:016x} {}\n", XXH3_64bits(json.data(), json.size()), json);
}

// The text without the room behind its lines, line by line.
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  const size_t end = text.find_last_not_of('\0') + 1;
  for (size_t at = 0; at < end;) {
    const size_t next = std::min(text.find('\n', at), end - 1) + 1;
    lines.push_back(text.substr(at, next - at));
    at = next;
  }
  return lines;
}

// Each line that could be one has the checksum of its words, whatever those are.
std::string without_checksums(const std::string& text) {
  std::string out;
  for (const std::string& line : lines_of(text)) {
    const bool whole = line.size() > 18 && line.back() == '\n';
    out += whole ? line_of(line.substr(17, line.size() - 18)) : line;
  }
  return out;
}

// The last line counts as far as it has come, where one can tell what it was to be.
std::string with_its_torn_end(const std::string& text) {
  std::string out;
  for (const std::string& line : lines_of(text)) {
    const bool torn = line.back() != '\n';
    if (torn && line.find("peer_mac") != std::string::npos) out += line_of("{\"record\":\"commit\"}");
    else out += line;
  }
  return out;
}

TEST(DiskMutation, ACommitThatIsSentBeforeItsSyncHasEndedIsFound) {
  Hooks bug;
  bug.early_record = [](Side side, Record r) { return side == Side::source && r == Record::commit; };
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

TEST(DiskMutation, AJournalWhoseNameIsNotSyncedIsFound) {
  Hooks bug;
  bug.directories_unsynced = true;
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

TEST(DiskMutation, AJournalWhoseChecksumsNobodyLooksAtIsFound) {
  Hooks bug;
  bug.read = without_checksums;
  EXPECT_TRUE(found(bug, "the journal has words that nobody has written"));
}

TEST(DiskMutation, ATornEndThatCountsAsARecordIsFound) {
  Hooks bug;
  bug.read = with_its_torn_end;
  EXPECT_TRUE(found(bug, "the journal has lost a record's words"));
}

}  // namespace
}  // namespace mose::sim
