// SPDX-License-Identifier: MIT
// What TLS costs a move: a Redis of its own in each of two labs, one with certificates and one in plain text, moved by turns
// under the same load, so that what the machine does to the one it does to the other:
//   tls_bench [OPTIONS OF mose lab run redis]
//   tls_bench --repeat 20                       the interruption that a client sees, on an unlimited link
//   tls_bench --repeat 10 --link rate=1gbit     and the share of the link that pre-copy reaches
// One JSON object on stdout. As root, on a quiet machine. Needs memory for two services at two nodes each.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/log.h"
#include "lab/inventory.h"
#include "lab/lab.h"
#include "lab/link_check.h"
#include "lab/load_process.h"
#include "lab/move_phases.h"
#include "lab/mover.h"
#include "lab/run_report.h"

namespace mose::lab {
namespace {

constexpr int kLockSeconds = 60;
constexpr useconds_t kSettleUs = 1'000'000;
// A full segment and its frame: pre-copy's own figure is without headers, that of the link with them.
constexpr double kFramePerPayload = 1514.0 / 1448;

// A lab, its service and what came of its moves. All of it goes with the object.
class Side {
 public:
  static Result<std::unique_ptr<Side>> start(const CommandLine& line, bool tls) {
    std::unique_ptr<Side> side(new Side(line, tls));
    MOSE_TRY(side->begin());
    return side;
  }
  ~Side() {
    load_.reset();
    mover_.reset();
    if (auto s = down(names_); !s) log::error("the lab could not be taken down: " + s.error().what);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  Status move_once() {
    const std::string to = node_ == "a" ? "b" : "a";
    MOSE_TRY(load_->resume());
    ::usleep(static_cast<useconds_t>(line_.quiet / std::chrono::microseconds(1)));
    MOSE_TRY(load_->begin_window());
    RunRecord record;
    MOSE_ASSIGN(record.report, mover_->move(node_, to));
    ::usleep(kSettleUs);
    MOSE_ASSIGN(record.figures, load_->end_window(phase_bounds(record.report)));
    MOSE_ASSIGN(record.verification, load_->verify());
    MOSE_TRY(load_->pause());
    MOSE_ASSIGN(Json run, run_object(record));
    if (run["verified"] != true) return fail("a move is not verified: " + run.dump());
    if (run["tls"].is_object() != tls_) return fail("TLS is not as asked for: " + run.dump());
    node_ = to;
    runs_.push_back(std::move(run));
    return {};
  }

  // Of the runs, in their order; one without the figure is an error, because pairs would not be pairs any more.
  Result<std::vector<double>> figures(const char* pointer) const {
    std::vector<double> out;
    for (const Json& run : runs_) {
      const Json& value = run.at(Json::json_pointer(pointer));
      if (!value.is_number()) return fail(std::string("a run has no ") + pointer);
      out.push_back(value.get<double>());
    }
    return out;
  }
  [[nodiscard]] const LinkFigures& link() const { return link_; }

 private:
  Side(const CommandLine& line, bool tls) : line_(line), tls_(tls), names_(tls ? "bench-tls" : "bench-plain") {}

  Status begin() {
    MOSE_ASSIGN(auto lock, LabLock::acquire(names_, kLockSeconds));
    lock_.emplace(std::move(lock));
    MOSE_TRY(down(names_));  // of a run that crashed
    LabOptions options;
    options.lab = names_.lab();
    options.tls = tls_;
    options.link_rate_mbit = line_.link_rate_mbit;
    options.link_rtt_ms = line_.link_rtt_ms;
    options.steer = line_.steer;
    MOSE_ASSIGN(state_, up(options));
    MOSE_ASSIGN(link_, measure_link(names_, line_.link_rate_mbit.has_value()));
    MOSE_ASSIGN([[maybe_unused]] auto settled, settled_inventory(state_));  // the agents have looked at their host
    mover_ = make_mose_mover(state_, line_);
    MOSE_TRY(mover_->launch(node_));
    MOSE_ASSIGN(auto load, LoadProcess::start(names_, load_request(line_, mover_->address())));
    load_.emplace(std::move(load));
    return load_->prepare();
  }

  const CommandLine& line_;
  bool tls_;
  Names names_;
  std::optional<LabLock> lock_;
  LabState state_;
  LinkFigures link_;
  std::unique_ptr<Mover> mover_;
  std::optional<LoadProcess> load_;
  std::string node_ = "a";
  std::vector<Json> runs_;
};

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::ceil(q * static_cast<double>(values.size()))) - 1];
}

Json described(const std::vector<double>& values) {
  return {{"median", quantile(values, 0.5)}, {"p95", quantile(values, 0.95)}, {"max", quantile(values, 1)}, {"all", values}};
}

// One figure of both; `difference` of each pair, which ran one after the other.
Result<Json> compared(const Side& plain, const Side& tls, const char* pointer) {
  MOSE_ASSIGN(auto without, plain.figures(pointer));
  MOSE_ASSIGN(auto with, tls.figures(pointer));
  std::vector<double> differences;
  for (size_t i = 0; i < with.size(); ++i) differences.push_back(with[i] - without[i]);
  return Json{{"plain", described(without)}, {"tls", described(with)}, {"difference", described(differences)}};
}

// Of what one TCP stream carried before the first move, both with their headers.
Json link_share(const Side& side, const Json& precopy_mbit) {
  if (!side.link().rate_mbit) return nullptr;
  return precopy_mbit["median"].get<double>() * kFramePerPayload / *side.link().rate_mbit;
}

Status run(const CommandLine& line) {
  MOSE_ASSIGN(auto plain, Side::start(line, false));
  MOSE_ASSIGN(auto tls, Side::start(line, true));
  for (uint32_t i = 0; i < line.repeat; ++i) {
    MOSE_TRY(plain->move_once());
    MOSE_TRY(tls->move_once());
    log::info("pair done", {{"pair", i + 1}, {"of", line.repeat}});
  }
  MOSE_ASSIGN(Json interruption, compared(*plain, *tls, "/service_interruption_ms"));
  MOSE_ASSIGN(Json downtime, compared(*plain, *tls, "/downtime_ms"));
  MOSE_ASSIGN(Json total, compared(*plain, *tls, "/total_ms"));
  Json out{{"megabytes", line.megabytes},     {"strategy", line.strategy}, {"pairs", line.repeat},
           {"service_interruption_ms", interruption}, {"downtime_ms", downtime},  {"total_ms", total}};
  for (const char* phase : {"scan", "dump", "transfer", "restore", "commit"}) {
    if (auto ms = compared(*plain, *tls, (std::string("/phases_ms/") + phase).c_str())) out["phases_ms"][phase] = *ms;
  }
  // Strategies without pre-copy have none.
  if (auto precopy = compared(*plain, *tls, "/precopy/link_mbit")) {
    out["precopy_mbit"] = *precopy;
    out["precopy_ratio"] = (*precopy)["tls"]["median"].get<double>() / (*precopy)["plain"]["median"].get<double>();
    out["link_share"] = {{"plain", link_share(*plain, (*precopy)["plain"])}, {"tls", link_share(*tls, (*precopy)["tls"])}};
  }
  std::printf("%s\n", out.dump(1).c_str());
  return {};
}

int bench(int argc, char** argv) {
  std::vector<std::string> words = {"run", "redis"};
  words.insert(words.end(), argv + 1, argv + argc);
  auto line = parse_command_line(words);
  if (!line) {
    std::fprintf(stderr, "tls_bench: %s; it takes the options of mose lab run redis\n", line.error().what.c_str());
    return 2;
  }
  if (auto done = run(*line); !done) {
    std::fprintf(stderr, "tls_bench: %s\n", done.error().what.c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mose::lab

int main(int argc, char** argv) { return mose::lab::bench(argc, argv); }
