// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

// Structured log on stderr (spdlog behind it): one sentence, then key=value fields. Page contents, keys and other
// payload of a workload never go into a field.
namespace mose::log {

enum class Level { debug, info, warn, error };

struct Field {
  std::string_view key;
  std::string value;

  Field(std::string_view k, std::string_view v) : key(k), value(v) {}
  Field(std::string_view k, const std::string& v) : key(k), value(v) {}
  Field(std::string_view k, const char* v) : key(k), value(v) {}
  Field(std::string_view k, bool v) : key(k), value(v ? "true" : "false") {}
  template <typename T>
  Field(std::string_view k, T v) : key(k), value(std::to_string(v)) {}
};
using Fields = std::initializer_list<Field>;

// `program` stands at the start of each line. Call once at start; before that lines go to stderr at level info.
void init(std::string_view program, Level level);
[[nodiscard]] bool parse_level(std::string_view text, Level& out);

void debug(std::string_view sentence, Fields fields = {});
void info(std::string_view sentence, Fields fields = {});
void warn(std::string_view sentence, Fields fields = {});
void error(std::string_view sentence, Fields fields = {});

// The migration that the work under way is for. Each line that is logged for one has the field migration=ID right behind its sentence, so that
// `grep migration=ID` finds all of them; a line that has a field of that name of its own keeps it.
inline constexpr std::string_view kMigrationField = "migration";
// As long as it lives what this thread logs is for `migration` (empty: for none), then again for what it was before.
class ForMigration {
 public:
  explicit ForMigration(std::string migration);
  ~ForMigration();
  ForMigration(const ForMigration&) = delete;
  ForMigration& operator=(const ForMigration&) = delete;

 private:
  std::string before_;
};
// What this thread works for; empty: none.
[[nodiscard]] const std::string& current_migration();
// What every thread of a process works for that is one migration's alone.
void name_process(std::string migration);

// `work`, to be done later or on another thread, and for the same migration. Event loops and lanes do that with all that they are given.
template <typename Work>
[[nodiscard]] auto carried(Work work) {
  return [work = std::move(work), migration = current_migration()](auto&&... arguments) mutable
    requires std::invocable<Work&, decltype(arguments)...>
  {
    const ForMigration named(migration);
    return work(std::forward<decltype(arguments)>(arguments)...);
  };
}

}  // namespace mose::log
