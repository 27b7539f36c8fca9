// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace mose::control::v1 {
class CheckResult;
class Event;
class MigrationList;
class NodeList;
class Pong;
class Progress;
class Recovery;
class Workload;
class WorkloadList;
}  // namespace mose::control::v1

// What goes to standard output: for people, or as JSON. Every text ends with a line end.
namespace mose::cli {

[[nodiscard]] std::string show(const control::v1::Workload& workload, bool json);
[[nodiscard]] std::string show(const control::v1::WorkloadList& list, bool json);
[[nodiscard]] std::string show(const control::v1::NodeList& list, bool json);
[[nodiscard]] std::string show(const control::v1::CheckResult& result, bool json);
[[nodiscard]] std::string show(const control::v1::MigrationList& list, bool json);
[[nodiscard]] std::string show(const control::v1::Event& event, bool json);
[[nodiscard]] std::string show(const control::v1::Progress& progress, bool json);
[[nodiscard]] std::string show(const control::v1::Pong& pong, bool json);
[[nodiscard]] std::string show(const control::v1::Recovery& recovery, bool json);
[[nodiscard]] std::string show_notes(const std::vector<std::string>& notes, bool json);
// A run object of a report, or an array of them.
[[nodiscard]] std::string show_report(const std::string& report_json, bool json);
[[nodiscard]] std::string show_history(const std::string& reports_json, bool json);
// Any other JSON text: as it is, or indented.
[[nodiscard]] std::string show_steering(const std::string& text, bool as_json);
[[nodiscard]] std::string show_explanation(const std::string& text, bool as_json);
[[nodiscard]] std::string show_json(const std::string& text, bool json);

// Columns as wide as their widest cell, two blanks between.
[[nodiscard]] std::string format_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace mose::cli
