// SPDX-License-Identifier: MIT
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "lab/child_process.h"
#include "lab/mover.h"
#include "lab/node.h"
#include "lab/stock_end.h"
#include "model/migration.h"
#include "model/report.h"

namespace mose::lab {
namespace {

constexpr int kExitRefused = 3;
constexpr Nanoseconds kCommandBound = std::chrono::minutes(1);
// The slowest move that is worth waiting for; one that takes longer has got stuck.
constexpr Nanoseconds kMigrateBound = std::chrono::minutes(2);

// Which service, and on which side of the comparison.
struct Part {
  std::string workload, address, role, baseline;
};

// MOSE through its own command line, run in the node that has the workload: what an operator does.
class MoseMover final : public Mover {
 public:
  MoseMover(const LabState& state, const CommandLine& line, Part part)
      : state_(state),
        part_(std::move(part)),
        strategy_(line.strategy),
        tracker_(line.tracker),
        steer_(line.steer),
        standby_(line.standby),
        max_bandwidth_(line.max_bandwidth),
        auto_converge_(line.auto_converge) {}

  ~MoseMover() override {
    if (node_.empty()) return;
    auto result = mose(node_, {"stop", part_.workload});
    if (!result || result->exit_code != 0) {
      log::warn("the workload could not be stopped", {{"node", node_}, {"error", result ? result->err : result.error().what}});
    }
  }

  std::string role() const override { return part_.role; }
  std::string baseline() const override { return part_.baseline; }
  std::string address() const override { return part_.address; }
  std::string cgroup() const override { return "workloads/" + part_.workload; }

  Status launch(const std::string& node) override {
    // What a killed run left in a lab that was up before it. Usually there is nothing, and that is refused.
    for (const char* n : kNodes) {
      auto stopped = mose(n, {"stop", part_.workload});
      // One that has moved on is stopped at the other node; what it has left here goes by this.
      if (stopped && stopped->exit_code == kExitRefused) auto ignored = mose(n, {"cleanup"});
    }
    std::vector<std::string> words = {"run", part_.workload, "--address", part_.address + "/" + kPrefixLength, "--"};
    for (const std::string& w : redis_command()) words.push_back(w);
    MOSE_ASSIGN(auto result, mose(node, words));
    if (result.exit_code != 0) return fail("mose run: " + last_line(result.err));
    node_ = node;
    return {};
  }

  Result<std::string> move(const std::string& from, const std::string& to) override {
    std::vector<std::string> words = {"migrate", part_.workload, "--to", to, "--json"};
    if (strategy_ != "auto") words.insert(words.end(), {"--strategy", strategy_});
    if (tracker_ != "auto") words.insert(words.end(), {"--tracker", tracker_});
    // Generic or native is the node's matter.
    if (!steer_.empty()) words.insert(words.end(), {"--steer", steer_.starts_with("xdp") ? "xdp" : steer_});
    if (auto_converge_) words.emplace_back("--auto-converge");
    if (!max_bandwidth_.empty()) words.insert(words.end(), {"--max-bandwidth", max_bandwidth_});
    if (standby_ != "auto") words.insert(words.end(), {"--standby", standby_});
    auto ran = mose(from, words, kMigrateBound);
    if (!ran) return without_report(from, to, "unknown", "mose migrate: " + ran.error().what);
    const ProgramResult& result = *ran;
    auto json = nlohmann::ordered_json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("outcome")) {
      if (json["outcome"] == "complete" || json["outcome"] == "target_missed" || json["outcome"] == "failed_after_commit") {
        node_ = to;
      }
      return result.out;
    }
    // It failed before there was a migration.
    std::string reason = last_line(result.err);
    if (reason.empty()) reason = "mose migrate ended with exit code " + std::to_string(result.exit_code);
    return without_report(from, to, result.exit_code == kExitRefused ? "refused" : result.exit_code == 6 ? "unknown" : "failed", reason);
  }

 private:
  Result<ProgramResult> mose(const std::string& node, const std::vector<std::string>& words,
                            Nanoseconds bound = kCommandBound) {
    MOSE_ASSIGN(auto place, open_node(state_, node));
    ProgramSpec spec;
    spec.argv = {"/usr/bin/mose"};
    spec.argv.insert(spec.argv.end(), words.begin(), words.end());
    spec.place = &place.place;
    spec.cgroup = place.cgroup;
    return run_program(spec, "", bound);
  }

  std::string without_report(const std::string& from, const std::string& to, const char* outcome, std::string reason) const {
    Report report;
    report.workload = part_.workload;
    report.source_node = from;
    report.destination_node = to;
    report.strategy_requested = strategy_;
    report.outcome = outcome;
    report.reason = std::move(reason);
    return to_json(report);
  }

  static std::string last_line(std::string text) {
    text.erase(text.find_last_not_of('\n') + 1);
    size_t line = text.rfind('\n');
    return line == std::string::npos ? text : text.substr(line + 1);
  }

  const LabState& state_;
  Part part_;
  std::string strategy_, tracker_, steer_, standby_, max_bandwidth_, node_;
  bool auto_converge_;
};

}  // namespace

std::unique_ptr<Mover> make_mose_mover(const LabState& state, const CommandLine& line) {
  return std::make_unique<MoseMover>(state, line, Part{kWorkload, kServiceAddress, "mose", ""});
}

std::unique_ptr<Mover> make_naive_mover(const LabState& state, const CommandLine& line) {
  CommandLine naive = line;
  naive.tracker = to_string(Tracker::write_protection_early);
  return std::make_unique<MoseMover>(state, naive, Part{kNaiveProtection, kNaiveAddress, "baseline", kNaiveProtection});
}

}  // namespace mose::lab
