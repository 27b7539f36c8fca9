// SPDX-License-Identifier: MIT
// docs/failures.md against the code: every phase of both state machines stands in its table and no other, and every test that it
// names exists.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>

#include "cases.h"
#include "plan/destination.h"
#include "plan/source.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// What stands between the pattern's parentheses, wherever it is found.
Names all_of(const std::string& text, const std::string& pattern) {
  const std::regex expression(pattern);
  Names out;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), expression); it != std::sregex_iterator(); ++it) out.insert((*it)[1]);
  return out;
}

// The cells of one column of the first table.
std::string column(const std::string& text, size_t number) {
  std::string out;
  for (size_t at = text.find("\n| `"); at != std::string::npos; at = text.find("\n| ", at + 1)) {
    std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
    for (size_t i = 0; i < number; ++i) line = line.substr(std::min(line.size(), line.find(" | ") + 3));
    out += line.substr(0, line.find(" | ")) + "\n";
    if (text.compare(text.find('\n', at + 1) + 1, 2, "| ") != 0) break;
  }
  return out;
}

template <typename Phase>
Names phases() {
  Names out;
  for (unsigned i = 0; i <= static_cast<unsigned>(Phase::done); ++i) out.insert(plan::to_string(static_cast<Phase>(i)));
  return out;
}

const std::string& page() {
  static const std::string text = text_of(fs::path(MOSE_SOURCE_DIR) / "docs/failures.md");
  return text;
}

TEST(FailuresPage, HasEachPhaseOfTheSource) { EXPECT_EQ(all_of(column(page(), 0), "`([a-z]+)`"), phases<plan::SourcePhase>()); }

TEST(FailuresPage, HasEachPhaseOfTheDestination) {
  EXPECT_EQ(all_of(column(page(), 1), "`([a-z]+)`"), phases<plan::DestinationPhase>());
}

TEST(FailuresPage, NamesTestsThatExist) {
  Names tests;
  for (const auto& file : fs::recursive_directory_iterator(fs::path(MOSE_SOURCE_DIR) / "tests")) {
    if (file.path().extension() != ".cpp") continue;
    std::string text = text_of(file.path());
    const std::regex head(R"(TEST(?:_F|_P)?\((\w+), (\w+)\))");
    for (auto it = std::sregex_iterator(text.begin(), text.end(), head); it != std::sregex_iterator(); ++it) {
      tests.insert((*it)[1].str() + "." + (*it)[2].str());
    }
  }
  const Names named = all_of(page(), R"(`([A-Z]\w+\.[A-Z]\w+)`)");
  EXPECT_GT(named.size(), 10u);
  for (const std::string& name : named) EXPECT_TRUE(tests.contains(name)) << name;
}

TEST(FailuresPage, NamesCasesThatAreTried) {
  ::setenv("MOSE_FULL", "1", 1);
  Names tried;
  for (const FaultCase& row : fault_cases()) {
    std::string kind = to_string(row.kind);
    kind.front() = static_cast<char>(std::toupper(kind.front()));
    EXPECT_TRUE(tried.insert(kind + "/" + row.name).second) << kind << "/" << row.name << " is there twice";
  }
  EXPECT_GE(tried.size(), 200u) << "what the matrix has to have at least";
  EXPECT_NE(page().find(std::to_string(tried.size()) + " cases"), std::string::npos) << "the page says another number than " << tried.size();
  const Names named = all_of(page(), R"(`((?:Kill|Hang|Error|Cut)/\w+)`)");
  EXPECT_GT(named.size(), 10u);
  for (const std::string& name : named) EXPECT_TRUE(tried.contains(name)) << name;
}

}  // namespace
}  // namespace mose::test
