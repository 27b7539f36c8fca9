// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

// What came of each case, a line each: printed when it has ended, and all of them at the end of the program.
namespace mose::test {

struct Row {
  std::string name, kind = "-";
  std::string struck = "-";  // phases at the source and at the destination, then
  std::string expected, got, way = "-";
  double gap_ms = -1, settle_ms = -1;  // the client's longest gap; from the harm to the end of it all
  uint64_t answers = 0, lost = 0;      // of the client, each compared with what was acknowledged
  size_t both_ran = 0;                 // samples in which both trees ran
  std::optional<size_t> leftovers;     // absent: it did not come so far
  bool ok = false;
};
inline std::vector<Row>& rows() {
  static std::vector<Row> all;
  return all;
}

inline constexpr const char* kRowsBegin = "== fault cases";
inline constexpr const char* kRowsEnd = "== end of fault cases";

inline void print_head() {
  std::printf("%-5s %-52s %-22s %-11s %-11s %-8s %8s %8s %8s %5s %5s %5s\n", "kind", "case", "struck in", "expected", "got", "way back", "gap ms",
              "settled", "answers", "lost", "both", "left");
}
inline void print(const Row& row) {
  std::printf("%-5s %-52s %-22s %-11s %-11s %-8s %8.1f %8.0f %8llu %5llu %5zu %5s%s\n", row.kind.c_str(), row.name.c_str(), row.struck.c_str(),
              row.expected.c_str(), row.got.c_str(), row.way.c_str(), row.gap_ms, row.settle_ms, static_cast<unsigned long long>(row.answers),
              static_cast<unsigned long long>(row.lost), row.both_ran, row.leftovers ? std::to_string(*row.leftovers).c_str() : "-",
              row.ok ? "" : "  FAILED");
  std::fflush(stdout);
}

// `before_the_end`: what must be down first.
class Table : public ::testing::Environment {
 public:
  explicit Table(void (*before_the_end)()) : before_the_end_(before_the_end) {}
  void TearDown() override {
    before_the_end_();
    std::printf("%s\n", kRowsBegin);
    print_head();
    std::map<std::string, std::pair<unsigned, unsigned>> kinds;  // of how many, failed
    for (const Row& row : rows()) {
      print(row);
      auto& [all, failed] = kinds[row.kind];
      ++all;
      failed += row.ok ? 0 : 1;
    }
    unsigned all = 0, failed = 0;
    for (const auto& [kind, counts] : kinds) {
      std::printf("%-5s %u cases, %u failed\n", kind.c_str(), counts.first, counts.second);
      all += counts.first;
      failed += counts.second;
    }
    std::printf("all   %u cases, %u failed\n%s\n", all, failed, kRowsEnd);
  }

 private:
  void (*before_the_end_)();
};

}  // namespace mose::test
