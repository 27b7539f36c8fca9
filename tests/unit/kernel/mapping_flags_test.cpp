// SPDX-License-Identifier: MIT
// Flags of mappings: their names are learned, and what is told is what smaps says.
#include "kernel/mapping_flags.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "base/fd.h"
#include "kernel/procfs.h"

namespace mose {
namespace {

TEST(FlagNamesTest, AWordIsTheNameOfItsBit) {
  FlagNames names;
  ASSERT_TRUE(names.learn(0b1011, "rd wr sh "));
  EXPECT_EQ(names.words(0b1011), "rd wr sh ");
  EXPECT_EQ(names.words(0b1000), "sh ");
  EXPECT_EQ(names.words(0), "");
  EXPECT_EQ(names.words(0b0100), std::nullopt) << "never seen";
  ASSERT_TRUE(names.learn(0b0110, "wr ex "));
  EXPECT_EQ(names.words(0b1111), "rd wr ex sh ");
}

TEST(FlagNamesTest, BitsWithoutAWordTeachNothing) {
  FlagNames names;
  EXPECT_TRUE(names.learn(0b111, "rd wr "));
  EXPECT_EQ(names.words(0b001), std::nullopt);
}

TEST(FlagNamesTest, AContradictionIsTold) {
  FlagNames names;
  ASSERT_TRUE(names.learn(0b01, "rd "));
  EXPECT_FALSE(names.learn(0b01, "wr "));
  EXPECT_FALSE(names.learn(0b11, "ex wr "));
}

TEST(MappingFlagsTest, AreThoseOfSmaps) {
  auto flags = MappingFlags::prepare();
  // The kernel must have it wherever agents run; a host that only builds need not let it be loaded.
  if (!flags && geteuid() != 0) GTEST_SKIP() << flags.error().what;
  ASSERT_TRUE(flags) << flags.error().what;
  constexpr size_t kBytes = 16 * 4096;
  void* advised = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(advised, MAP_FAILED);
  ASSERT_EQ(madvise(advised, kBytes, MADV_DONTFORK), 0);
  ASSERT_EQ(madvise(advised, kBytes, MADV_DONTDUMP), 0);
  void* shared = mmap(nullptr, kBytes, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto rows = flags->of(getpid());
  ASSERT_TRUE(rows) << rows.error().what;
  // Looked at afterwards: what the reading maps is in neither, what it had mapped before in both.
  std::map<std::pair<uint64_t, uint64_t>, std::string> words;
  for_each_flags(read_file("/proc/self/smaps").value(), [&](PageRun pages, std::string_view told) {
    words[{pages.first * kPageSize, pages.end() * kPageSize}] = told;
  });
  size_t compared = 0;
  bool saw_advised = false;
  for (const MappingWords& row : *rows) {
    auto found = words.find({row.start, row.end});
    if (found == words.end()) continue;
    ++compared;
    EXPECT_EQ(row.words, found->second) << std::hex << row.start;
    saw_advised |= row.start == reinterpret_cast<uint64_t>(advised) && row.words.find("dd") != std::string::npos;
  }
  EXPECT_GT(compared + 3, rows->size());
  EXPECT_TRUE(saw_advised);
  EXPECT_FALSE(rows->empty());
  munmap(advised, kBytes);
  munmap(shared, kBytes);
  auto nobody = flags->of(1'000'000'000);
  EXPECT_TRUE(!nobody || nobody->size() <= 1) << "nothing but what every process has";
}

}  // namespace
}  // namespace mose
