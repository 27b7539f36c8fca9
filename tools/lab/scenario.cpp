// SPDX-License-Identifier: MIT
#include "lab/scenario.h"

#include <signal.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "lab/agent_memory.h"
#include "lab/child_process.h"
#include "lab/inventory.h"
#include "lab/lab.h"
#include "lab/lab_processes.h"
#include "lab/link_check.h"
#include "lab/load_process.h"
#include "lab/move_phases.h"
#include "lab/mover.h"
#include "lab/run_report.h"
#include "lab/stock_criu.h"

namespace mose::lab {
namespace {

// What the move leaves behind (faults, retransmits) belongs to its window.
constexpr Nanoseconds kSettle = std::chrono::seconds(1);
// A tree that was killed, a namespace that nobody is in any more: gone within.
constexpr Nanoseconds kGone = std::chrono::seconds(5), kGonePoll = std::chrono::milliseconds(250);

volatile sig_atomic_t interrupted = 0;

// Ctrl-C ends the scenario at the next step, and the lab is taken down as after any failure.
class InterruptGuard {
 public:
  InterruptGuard() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    ::sigaction(SIGINT, &action, &int_);
    ::sigaction(SIGTERM, &action, &term_);
  }
  ~InterruptGuard() {
    ::sigaction(SIGINT, &int_, nullptr);
    ::sigaction(SIGTERM, &term_, nullptr);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction int_ {}, term_ {};
};

Status rest(Nanoseconds time) {
  timespec left = to_timespec(time.count());
  while (!interrupted && ::nanosleep(&left, &left) != 0) {
  }
  if (interrupted) return fail_errno("interrupted", EINTR);
  return {};
}

// A lab that this run made goes with it.
class LabLease {
 public:
  static Result<std::unique_ptr<LabLease>> take(const CommandLine& line) {
    Names names(line.lab);
    MOSE_ASSIGN(auto before, status(names));
    LabOptions options;
    options.lab = line.lab;
    options.link_rate_mbit = line.link_rate_mbit;
    options.link_rtt_ms = line.link_rtt_ms;
    options.agents = needs_agents(line);
    options.steer = line.steer;
    options.tls = line.tls;
    MOSE_ASSIGN(auto state, up(options));
    bool ours = !(before.exists && before.complete && !before.leftover) && !line.keep;
    if (ours) {
      MOSE_ASSIGN(auto self, ProcessHandle::open(::getpid()));
      state.run = ProcessRecord{self.pid(), self.start_time()};
      MOSE_TRY(save_state(names, state));
    }
    return std::unique_ptr<LabLease>(new LabLease(names, std::move(state), ours));
  }
  ~LabLease() {
    if (!ours_) return;
    if (auto s = down(names_); !s) log::error("the lab could not be taken down: " + s.error().what);
  }
  LabLease(const LabLease&) = delete;
  LabLease& operator=(const LabLease&) = delete;
  const Names& names() const { return names_; }
  const LabState& state() const { return state_; }

 private:
  LabLease(Names names, LabState state, bool ours) : names_(std::move(names)), state_(std::move(state)), ours_(ours) {}
  Names names_;
  LabState state_;
  bool ours_;
};

// A service with its mover and its client.
struct Contestant {
  std::unique_ptr<Mover> mover;
  LoadProcess load;
  std::string node = "a";
};

Result<Contestant> enter(const LabLease& lab, const CommandLine& line, std::unique_ptr<Mover> mover) {
  MOSE_TRY(mover->launch("a"));
  MOSE_ASSIGN(auto load, LoadProcess::start(lab.names(), load_request(line, mover->address())));
  MOSE_TRY(load.prepare());
  return Contestant{std::move(mover), std::move(load), "a"};
}

Result<std::vector<Contestant>> enter_all(const LabLease& lab, const CommandLine& line) {
  std::vector<Contestant> out;
  if (!line.baseline_only) {
    MOSE_ASSIGN(auto mose, enter(lab, line, make_mose_mover(lab.state(), line)));
    out.push_back(std::move(mose));
  }
  for (const std::string& baseline : line.baselines) {
    std::unique_ptr<Mover> mover;
    if (baseline == kNaiveProtection) {
      mover = make_naive_mover(lab.state(), line);
    } else {
      MOSE_ASSIGN(mover, make_stock_mover(lab.state(), baseline == kStockLazy));
    }
    MOSE_ASSIGN(auto other, enter(lab, line, std::move(mover)));
    out.push_back(std::move(other));
  }
  if (out.empty()) return fail("nothing to run: --baseline-only needs --baseline");
  return out;
}

// One move under load. The other contestant's load rests meanwhile.
Result<Json> run_one(const LabState& state, Contestant& who, Nanoseconds quiet) {
  std::string from = who.node, to = from == "a" ? "b" : "a";
  MOSE_TRY(who.load.watch_server(find_redis(state, from, who.mover->cgroup()).value_or(0)));
  MOSE_TRY(who.load.resume());
  MOSE_TRY(rest(quiet));
  MOSE_TRY(who.load.begin_window());
  RunRecord record;
  record.role = who.mover->role();
  record.baseline = who.mover->baseline();
  auto report = who.mover->move(from, to);
  if (!report) return context("move from " + from + " to " + to, report.error());
  record.report = *report;
  // Where it did not move there is nothing, or a tree that is about to end.
  if (auto arrived = find_redis(state, to, who.mover->cgroup())) MOSE_TRY(who.load.watch_server(*arrived));
  MOSE_TRY(rest(kSettle));
  MOSE_ASSIGN(record.figures, who.load.end_window(phase_bounds(record.report)));
  MOSE_ASSIGN(record.verification, who.load.verify());
  MOSE_TRY(who.load.pause());
  if (!record.verification->problem.empty()) log::warn("data check", {{"problem", record.verification->problem}});
  log::debug("client", {{"retransmits", record.figures->retransmits}, {"not_sent", record.figures->counts.not_sent},
                        {"quiet_gap_p99_ms", std::to_string(record.figures->quiet_gap_p99_ms.value_or(-1))}});
  MOSE_ASSIGN(auto run, run_object(record));
  if (run["outcome"] == "complete" || run["outcome"] == "target_missed") who.node = to;
  return run;
}

std::string criu_version() {
  ProgramSpec spec;
  spec.argv = {stock_criu_path(), "--version"};
  auto result = run_program(spec, "", std::chrono::seconds(10));
  constexpr std::string_view kLabel = "Version: ";
  if (!result || !result->out.starts_with(kLabel)) return {};
  return result->out.substr(kLabel.size(), result->out.find('\n') - kLabel.size());
}

std::string command_text(const CommandLine& line) {
  std::string out = "mose lab run redis --mb " + Json(line.megabytes).dump() + " --connections " + std::to_string(line.connections) +
                    " --probes " + std::to_string(line.probes) + " --repeat " + std::to_string(line.repeat) + " --strategy " +
                    line.strategy + " --seed " + std::to_string(line.seed);
  if (line.tracker != "auto") out += " --tracker " + line.tracker;
  if (line.auto_converge) out += " --auto-converge";
  if (!line.max_bandwidth.empty()) out += " --max-bandwidth " + line.max_bandwidth;
  if (line.standby != "auto") out += " --standby " + line.standby;
  if (!line.steer.empty()) out += " --steer " + line.steer;
  if (!line.tls) out += " --plain";
  if (line.rate) out += " --rate " + std::to_string(*line.rate) + " --mix " + line.mix + " --keys " + line.keys;
  if (line.quiet != kQuietUsual) out += fmt::format(" --quiet {}us", line.quiet / std::chrono::microseconds(1));
  if (line.value_bytes != CommandLine{}.value_bytes) out += " --set-size " + std::to_string(line.value_bytes);
  for (const std::string& b : line.baselines) out += (&b == line.baselines.data() ? " --baseline " : ",") + b;
  std::string link;
  if (line.link_rate_mbit) link = "rate=" + std::to_string(static_cast<uint64_t>(*line.link_rate_mbit)) + "mbit";
  if (line.link_rtt_ms) {
    link += (link.empty() ? "" : ",") + fmt::format("rtt={}us", static_cast<uint64_t>(*line.link_rtt_ms * 1000));
  }
  if (!link.empty()) out += " --link " + link;
  return out;
}

// What the link is that was asked for, before anything is moved over it.
Status check_link(const Names& names, ReportHead& head) {
  if (!head.rate_mbit && !head.rtt_ms) return {};
  constexpr int kTries = 3;  // the machine may have been busy for a moment
  LinkFigures figures;
  double error = 0;
  for (int i = 0; i < kTries && (i == 0 || error > kLinkErrorMax); ++i) {
    MOSE_ASSIGN(figures, measure_link(names, head.rate_mbit.has_value()));
    error = link_error(figures, head.rate_mbit, head.rtt_ms);
  }
  head.measured_rtt_ms = figures.rtt_ms;
  head.measured_rate_mbit = figures.rate_mbit;
  auto shown = [](std::optional<double> v) { return v ? fmt::format("{:.3f}", *v) : "-"; };
  log::info("link measured", {{"rate_mbit", shown(figures.rate_mbit)},
                              {"rtt_ms", shown(figures.rtt_ms)},
                              {"error_percent", fmt::format("{:.1f}", error * 100)}});
  if (error > kLinkErrorMax) log::warn("the link is not what was asked for, by more than 5 %");
  return {};
}

void remember_footprints(const LabState& state, std::vector<Footprints>& series) {
  auto now = agent_footprints(state);
  series.push_back(now ? std::move(*now) : Footprints{});
}

// What is still there when everything has ended and had time to go; null when it could not be looked at.
Json leftovers(const LabState& state, const Inventory& before) {
  Inventory found;
  for (Nanoseconds waited{}; waited <= kGone; waited += kGonePoll) {
    auto after = take_inventory(state);
    if (!after) return nullptr;
    found = additions(before, *after);
    if (is_clean(found) || !rest(kGonePoll)) break;
  }
  return leftovers_json(found);
}

Status publish(const CommandLine& line, const Json& report) {
  std::string text = report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  bool to_stdout = line.json && (line.json_file.empty() || line.json_file == "-");
  std::string data = to_stdout ? text : report_table(report);
  if (std::fputs(data.c_str(), stdout) < 0 || std::fflush(stdout) != 0) return fail_errno("write to stdout");
  if (!line.json || to_stdout) return {};
  MOSE_ASSIGN(auto file, open_file(line.json_file, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(file.get(), text);
}

}  // namespace

Result<bool> run_scenario(const CommandLine& line) {
  InterruptGuard guard;
  MOSE_ASSIGN(auto lab, LabLease::take(line));
  ReportHead head;
  head.scenario = "redis";
  head.command = command_text(line);
  head.seed = line.seed;
  head.criu = criu_version();
  head.tls = line.tls;
  head.rate_mbit = line.link_rate_mbit;
  head.rtt_ms = line.link_rtt_ms;
  MOSE_TRY(check_link(lab->names(), head));
  MOSE_ASSIGN(auto before, settled_inventory(lab->state()));
  MOSE_ASSIGN(auto contestants, enter_all(*lab, line));
  Json runs = Json::array();
  std::vector<Footprints> memory;  // before the first move of ours, and after each
  remember_footprints(lab->state(), memory);
  Status broken;
  for (uint32_t i = 0; i < line.repeat && broken; ++i) {
    for (Contestant& who : contestants) {
      auto run = run_one(lab->state(), who, line.quiet);
      if (!run) {
        broken = std::unexpected(run.error());
        break;
      }
      log::info("move done", {{"repeat", i + 1}, {"who", who.mover->role()}, {"outcome", (*run)["outcome"].dump()},
                              {"service_interruption_ms", (*run)["service_interruption_ms"].dump()},
                              {"verified", (*run)["verified"] == true}});
      bool lost_track = (*run)["outcome"] == "unknown" || (*run)["outcome"] == "failed_after_commit";
      runs.push_back(std::move(*run));
      if (who.mover->role() == "mose") remember_footprints(lab->state(), memory);
      if (!lost_track) continue;
      broken = fail("where the workload is cannot be said; no further moves");
      break;
    }
  }
  if (line.baseline_only) memory.clear();
  contestants.clear();  // ends the services and their clients
  // Of a run that broke off in a move it would be what is under way.
  Json remains = broken ? leftovers(lab->state(), before) : Json(nullptr);
  MOSE_TRY(publish(line, report_object(head, runs, agents_json(memory), remains)));
  if (!broken) return std::unexpected(broken.error());
  return all_verified(runs);
}

}  // namespace mose::lab
