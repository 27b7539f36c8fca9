// SPDX-License-Identifier: MIT
#include <map>

#include "lab/mover.h"
#include "lab/stock_end.h"
#include "model/report.h"

namespace mose::lab {
namespace {

// Stock CRIU. Cold: dump, copy, restore, move the address; everything between is stopped time. Lazily: the same with
// images that lack the memory, which CRIU's page server and its lazy-pages daemon bring afterwards.
class StockMover final : public Mover {
 public:
  StockMover(std::map<std::string, StockEnd> ends, bool lazy) : ends_(std::move(ends)), lazy_(lazy) {}

  std::string role() const override { return "baseline"; }
  std::string baseline() const override { return lazy_ ? kStockLazy : kStockCold; }
  std::string address() const override { return kStockAddress; }
  std::string cgroup() const override { return "system"; }

  Status launch(const std::string& node) override {
    MOSE_TRY(step(node, "prepare " + node_address(node == kNodes[0] ? kNodes[1] : kNodes[0])));
    return step(node, "launch");
  }

  Result<std::string> move(const std::string& from, const std::string& to) override {
    Report report;
    report.source_node = from;
    report.destination_node = to;
    report.workload = "redis";
    report.strategy = lazy_ ? "postcopy" : "cold";
    MOSE_TRY(step(to, "prepare " + node_address(from)));
    Timestamp begin = now();
    MOSE_TRY(ends_.at(to).request("receive"));
    MOSE_TRY(timed(report, from, lazy_ ? "dump-lazily" : "dump", "dump", report.phases_ms.dump));
    MOSE_TRY(timed(report, from, "send " + node_address(to), "transfer", report.phases_ms.transfer));
    if (auto received = ends_.at(to).answer(); !received) return context("receive", received.error());
    MOSE_TRY(timed(report, to, lazy_ ? "restore-lazily " + node_address(from) : "restore", "restore", report.phases_ms.restore));
    MOSE_TRY(timed(report, to, "activate", "commit", report.phases_ms.commit));
    const Timestamp resumed = now();
    MOSE_TRY(step(to, "finish"));
    MOSE_TRY(step(from, "finish"));
    if (lazy_) report.lazy.complete_ms = to_ms(now() - resumed);
    report.total_ms = to_ms(now() - begin);
    MOSE_TRY(step(from, "retire"));
    MOSE_ASSIGN(std::string bytes, ends_.at(from).call("image-bytes"));
    if (!lazy_) report.bytes_sent = std::stoull(bytes);  // what its page server sends nobody counts
    report.outcome = "complete";
    return to_json(report);
  }

 private:
  Status step(const std::string& node, const std::string& words) {
    auto answer = ends_.at(node).call(words);
    if (!answer) return context("node " + node, answer.error());
    return {};
  }

  Status timed(Report& report, const std::string& node, const std::string& words, const char* phase, std::optional<double>& ms) {
    Timestamp begin = now();
    MOSE_TRY(step(node, words));
    Timestamp end = now();
    ms = to_ms(end - begin);
    report.timeline.push_back({node, phase, to_us(begin), to_us(end)});
    return {};
  }

  std::map<std::string, StockEnd> ends_;
  bool lazy_;
};

}  // namespace

Result<std::unique_ptr<Mover>> make_stock_mover(const LabState& state, bool lazy) {
  std::map<std::string, StockEnd> ends;
  for (const char* node : kNodes) {
    MOSE_ASSIGN(auto end, StockEnd::start(state, node));
    ends.emplace(node, std::move(end));
  }
  return std::make_unique<StockMover>(std::move(ends), lazy);
}

}  // namespace mose::lab
