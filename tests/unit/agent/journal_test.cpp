// SPDX-License-Identifier: MIT
#include "agent/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "agent/history.h"
#include "base/fd.h"
#include "temp_dir.h"

namespace mose::agent {
namespace {

using plan::Record;
using testing::ElementsAre;
using testing::HasSubstr;

class JournalTest : public testing::Test {
 protected:
  JournalMeta meta() const {
    JournalMeta meta;
    meta.id = id_;
    meta.role = Role::source;
    meta.workload = "redis";
    meta.peer = "b";
    meta.peer_address = "192.0.2.2:7946";
    meta.epoch = 7;
    return meta;
  }
  std::string file() const { return id_.hex() + ".source"; }
  // A journal with begun (and notes) and commit in it.
  void write_two() {
    auto journal = Journal::create(dir_.path(), meta());
    ASSERT_TRUE(journal) << journal.error().what;
    ASSERT_TRUE(journal->append(Record::begun, {{"pid", "12"}, {"cgroup", "/a"}}));
    ASSERT_TRUE(journal->append(Record::commit, {{"pid", "13"}}));
  }

  test::TempDir dir_;
  MigrationId id_ = MigrationId::random();
};

TEST_F(JournalTest, GivesBackWhatWasWritten) {
  write_two();
  auto contents = read_journal(dir_.path() + "/" + file());
  ASSERT_TRUE(contents) << contents.error().what;
  EXPECT_THAT(contents->records, ElementsAre(Record::begun, Record::commit));
  EXPECT_EQ(contents->meta.workload, "redis");
  EXPECT_EQ(contents->meta.peer_address, "192.0.2.2:7946");
  EXPECT_EQ(contents->meta.epoch, 7u);
  EXPECT_EQ(contents->notes.at("pid"), "13");
  EXPECT_EQ(contents->notes.at("cgroup"), "/a");
  EXPECT_FALSE(contents->torn);
}

TEST_F(JournalTest, StaysAsItIsWhenTheDiskIsTimed) {
  auto journal = Journal::create(dir_.path(), meta());
  ASSERT_TRUE(journal) << journal.error().what;
  ASSERT_TRUE(journal->append(Record::begun));
  const auto before = read_file(dir_.path() + "/" + file());
  for (int i = 0; i < 3; ++i) {
    auto took = journal->time_sync();
    ASSERT_TRUE(took) << took.error().what;
    EXPECT_GT(*took, Nanoseconds(0));
  }
  EXPECT_EQ(read_file(dir_.path() + "/" + file()).value_or(""), before.value_or("?"));
  ASSERT_TRUE(journal->append(Record::commit));
  auto contents = read_journal(dir_.path() + "/" + file());
  ASSERT_TRUE(contents) << contents.error().what;
  EXPECT_THAT(contents->records, ElementsAre(Record::begun, Record::commit));
}

TEST_F(JournalTest, IsMadeOnlyOnce) {
  write_two();
  EXPECT_FALSE(Journal::create(dir_.path(), meta()));
}

// The agent dies between making the file and its first line: there must be no journal that nobody can decide.
TEST_F(JournalTest, LeavesNothingWhenItsMakerDiesBeforeTheFirstLine) {
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    rlimit none{0, 0}, no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_FSIZE, &none);  // the first byte kills
    signal(SIGXFSZ, SIG_DFL);
    auto journal = Journal::create(dir_.path(), meta());
    _exit(journal ? 1 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ) << status;
  auto entries = list_journals(dir_.path());
  ASSERT_TRUE(entries) << entries.error().what;
  EXPECT_TRUE(entries->empty());
}

TEST_F(JournalTest, WithoutRoomOnTheDiskSaysWhatToTry) {
  write_two();
  auto journal = Journal::open(dir_.path(), id_, Role::source);
  ASSERT_TRUE(journal);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit small{before.rlim_cur, before.rlim_max};
  small.rlim_cur = 1024;
  auto* handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  auto appended = journal->note({{"long", std::string(4096, 'x')}});
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  ASSERT_FALSE(appended);
  EXPECT_THAT(appended.error().what, HasSubstr("append to journal " + dir_.path() + "/" + file()));
  EXPECT_THAT(appended.error().what, HasSubstr("; free space on the file system of " + dir_.path()));
}

// What it needs it has had since it was made: a record torn at its end is room again.
TEST_F(JournalTest, IsOpenedAgainOnADiskThatGivesNothing) {
  write_two();
  const std::string text = dir_.read(file());
  const size_t end = text.find_last_not_of('\0') + 1;
  dir_.write(file(), text.substr(0, end) + "torn" + std::string(text.size() - end - 4, '\0'));
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit full{before.rlim_cur, before.rlim_max};
  full.rlim_cur = text.size();
  auto* handler = signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &full);
  auto journal = Journal::open(dir_.path(), id_, Role::source);
  Status appended = journal ? journal->append(Record::aborted) : Status(fail("not open"));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  ASSERT_TRUE(journal) << journal.error().what;
  EXPECT_TRUE(appended) << appended.error().what;
  EXPECT_EQ(dir_.read(file()).size(), text.size()) << "nothing was given away";
  auto read = read_journal(dir_.path() + "/" + file());
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_FALSE(read->torn);
  EXPECT_EQ(read->records.back(), Record::aborted);
}

TEST_F(JournalTest, IgnoresAndCutsATornEndAtEveryLength) {
  write_two();
  const std::string file_text = dir_.read(file());
  const std::string whole = file_text.substr(0, file_text.rfind('\n') + 1);
  size_t last_line = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t length = last_line; length < whole.size(); ++length) {
    // Torn in the room that was there for it, or at the end of the file.
    dir_.write(file(), whole.substr(0, length) + std::string(length % 2 == 0 ? file_text.size() - length : 0, '\0'));
    auto journal = Journal::open(dir_.path(), id_, Role::source);
    ASSERT_TRUE(journal) << length << ": " << journal.error().what;
    EXPECT_THAT(journal->contents().records, ElementsAre(Record::begun)) << length;
    ASSERT_TRUE(journal->append(Record::aborted));
    auto again = read_journal(journal->path());
    ASSERT_TRUE(again) << length << ": " << again.error().what;
    EXPECT_THAT(again->records, ElementsAre(Record::begun, Record::aborted)) << length;
  }
}

// A disk writes sectors in any order: a line that was not synced must not be missing where the one behind it is there.
TEST_F(JournalTest, RecordsBehindTheFirstBeginASectorWhateverTheFirstHolds) {
  for (size_t length : {0, 1, 97, 98, 300, 511, 512, 6000}) {
    id_ = MigrationId::random();
    auto journal = Journal::create(dir_.path(), meta());
    ASSERT_TRUE(journal) << journal.error().what;
    ASSERT_TRUE(journal->append(Record::begun, {{"prepare", std::string(length, 'p')}}));
    ASSERT_TRUE(journal->append(Record::ready, {}, Journal::Survives::agent));
    const std::string text = dir_.read(file());
    EXPECT_EQ((text.find("{\"record\":\"ready\"}") - 17) % 512, 0u) << length;
    EXPECT_THAT(read_journal(journal->path())->records, ElementsAre(Record::begun, Record::ready));
  }
}

TEST_F(JournalTest, LinesFillTheRoomThatIsThereAndGoOnBehindIt) {
  auto journal = Journal::create(dir_.path(), meta());
  ASSERT_TRUE(journal) << journal.error().what;
  ASSERT_TRUE(journal->append(Record::begun, {{"prepare", std::string(50'000, 'p')}}));
  const size_t room = dir_.read(file()).size();
  ASSERT_TRUE(journal->note({{"short", "x"}}));
  EXPECT_EQ(dir_.read(file()).size(), room);
  ASSERT_TRUE(journal->note({{"long", std::string(room, 'y')}}));
  ASSERT_TRUE(journal->append(Record::commit));
  auto read = Journal::open(dir_.path(), id_, Role::source);
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_THAT(read->contents().records, ElementsAre(Record::begun, Record::commit));
  EXPECT_EQ(read->contents().notes.at("long").size(), room);
  EXPECT_FALSE(read->contents().torn);
}

TEST_F(JournalTest, ADamagedLineWithRightOnesBehindItIsAnErrorAndNeverAGuess) {
  write_two();
  const std::string whole = dir_.read(file());
  size_t second = whole.find('\n') + 1;
  for (size_t at = second; at < whole.find('\n', second); ++at) {
    std::string damaged = whole;
    damaged[at] = damaged[at] == 'x' ? 'y' : 'x';
    dir_.write(file(), damaged);
    auto contents = read_journal(dir_.path() + "/" + file());
    ASSERT_FALSE(contents) << at;
    EXPECT_THAT(contents.error().what, HasSubstr(":3: a damaged line stands before this one"));
  }
}

TEST_F(JournalTest, WithoutAReadableFirstLineIsAnError) {
  for (const char* text : {"", "nonsense\n", "0123456789abcdef {}\n"}) {
    dir_.write(file(), text);
    auto contents = read_journal(dir_.path() + "/" + file());
    ASSERT_FALSE(contents) << text;
    EXPECT_THAT(contents.error().what, HasSubstr("no readable first line"));
  }
}

TEST_F(JournalTest, ListsReadableAndUnreadableOnesAndSkipsOtherFiles) {
  write_two();
  MigrationId broken = MigrationId::random();
  dir_.write(broken.hex() + ".destination", "nonsense\n");
  dir_.write("README", "not a journal");
  auto entries = list_journals(dir_.path());
  ASSERT_TRUE(entries);
  ASSERT_EQ(entries->size(), 2u);
  for (const JournalEntry& entry : *entries) {
    EXPECT_EQ(entry.contents.has_value(), entry.id == id_);
    EXPECT_EQ(entry.role, entry.id == id_ ? Role::source : Role::destination);
  }
  ASSERT_TRUE(remove_journal(dir_.path(), id_, Role::source));
  ASSERT_TRUE(remove_journal(dir_.path(), id_, Role::source)) << "removing twice is fine";
  EXPECT_EQ(list_journals(dir_.path())->size(), 1u);
  EXPECT_TRUE(list_journals(dir_.path() + "/none")->empty());
}

std::string report(int number) {
  return R"({"migration_id":")" + std::string(4, static_cast<char>('a' + number)) + R"(","n":)" +
         std::to_string(number) + "}";
}

TEST(History, KeepsTheNewestAndSurvivesARestart) {
  test::TempDir dir;
  std::string path = dir.path() + "/history.jsonl";
  auto history = History::open(path, 3);
  ASSERT_TRUE(history);
  EXPECT_EQ(history->list(0, 1000).json, "[]");
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(history->add(report(i)));
  auto again = History::open(path, 3);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->list(2, 1000).json, "[" + report(4) + "," + report(3) + "]");
  EXPECT_EQ(again->count(), 3u);
  EXPECT_EQ(*again->find("dd"), report(3));
  EXPECT_THAT(again->find("aa").error().what, HasSubstr("no migration aa is known here"));
  EXPECT_THAT(again->find("").error().what, HasSubstr("more than one"));
}

TEST(History, OfAFileThatIsTooLongTheNewestEntriesAreKept) {
  test::TempDir dir;
  std::string text;
  for (int i = 0; i < 6; ++i) text += report(i) + "\n";
  std::string path = dir.write("history.jsonl", text);
  const size_t line = report(0).size() + 1;
  auto history = History::open(path, 100, 2 * line + line / 2);
  ASSERT_TRUE(history) << history.error().what;
  EXPECT_EQ(history->list(0, 1000).json, "[" + report(5) + "," + report(4) + "]");
  ASSERT_TRUE(history->add(report(6)));
  EXPECT_EQ(history->list(0, 1000).json, "[" + report(6) + "," + report(5) + "]");
  EXPECT_LE(std::filesystem::file_size(path), 2 * line + line / 2) << "the next start finds it within the bound";
}

TEST(History, AListHasTheNewestThatFitAndSaysWhatIsMissing) {
  test::TempDir dir;
  auto history = History::open(dir.path() + "/history.jsonl", 100);
  ASSERT_TRUE(history);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(history->add(report(i)));
  auto page = history->list(4, 2 * report(0).size() + 10);
  EXPECT_EQ(page.json, "[" + report(4) + "," + report(3) + "]");
  EXPECT_EQ(page.left_out, 2u);
  EXPECT_EQ(history->list(4, 10000).left_out, 0u);
}

TEST(History, DropsLinesThatCannotBeReadAndRefusesWhatIsNoReport) {
  test::TempDir dir;
  std::string path = dir.write("history.jsonl", "nonsense\n" + report(1) + "\n{\"half\":");
  auto history = History::open(path, 10);
  ASSERT_TRUE(history);
  EXPECT_EQ(history->count(), 1u);
  EXPECT_FALSE(history->add("{}"));
  EXPECT_FALSE(history->add("{\"migration_id\":\n\"a\"}"));
}

}  // namespace
}  // namespace mose::agent
