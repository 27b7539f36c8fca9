// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

namespace mose::log {
namespace {

std::shared_ptr<spdlog::logger> make_logger(std::string_view program) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(std::string(program), sink);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %n[%P] %l: %v");
  logger->flush_on(spdlog::level::trace);
  return logger;
}

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> instance = make_logger("mose");
  return instance;
}

thread_local std::string migration_of_thread;
std::string& migration_of_process() {
  static std::string id;
  return id;
}

bool needs_quotes(std::string_view value) {
  return value.empty() || value.find_first_of(" \t\n\"=") != std::string_view::npos;
}

void append_field(std::string& line, const Field& field) {
  line.append(" ").append(field.key).append("=");
  if (!needs_quotes(field.value)) {
    line.append(field.value);
    return;
  }
  line.push_back('"');
  for (char c : field.value) {
    if (c == '"' || c == '\\') line.push_back('\\');
    if (c == '\n') {
      line.append("\\n");
    } else {
      line.push_back(c);
    }
  }
  line.push_back('"');
}

void write(spdlog::level::level_enum level, std::string_view sentence, Fields fields) {
  auto& sink = logger();
  if (!sink->should_log(level)) return;
  std::string line(sentence);
  const std::string& migration = current_migration();
  const bool named = std::ranges::any_of(fields, [](const Field& field) { return field.key == kMigrationField; });
  if (!migration.empty() && !named) append_field(line, {kMigrationField, migration});
  for (const Field& field : fields) append_field(line, field);
  sink->log(level, spdlog::string_view_t(line.data(), line.size()));
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void init(std::string_view program, Level level) {
  logger() = make_logger(program);
  logger()->set_level(to_spdlog(level));
}

bool parse_level(std::string_view text, Level& out) {
  if (text == "debug") out = Level::debug;
  else if (text == "info") out = Level::info;
  else if (text == "warn") out = Level::warn;
  else if (text == "error") out = Level::error;
  else return false;
  return true;
}

ForMigration::ForMigration(std::string migration) : before_(std::exchange(migration_of_thread, std::move(migration))) {}
ForMigration::~ForMigration() { migration_of_thread = std::move(before_); }
const std::string& current_migration() { return migration_of_thread.empty() ? migration_of_process() : migration_of_thread; }
void name_process(std::string migration) { migration_of_process() = std::move(migration); }

void debug(std::string_view sentence, Fields fields) { write(spdlog::level::debug, sentence, fields); }
void info(std::string_view sentence, Fields fields) { write(spdlog::level::info, sentence, fields); }
void warn(std::string_view sentence, Fields fields) { write(spdlog::level::warn, sentence, fields); }
void error(std::string_view sentence, Fields fields) { write(spdlog::level::err, sentence, fields); }

}  // namespace mose::log
