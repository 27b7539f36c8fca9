// SPDX-License-Identifier: MIT
#include "agent/agent.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <google/protobuf/stubs/logging.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "agent/away_network.h"
#include "agent/check.h"
#include "agent/control_server.h"
#include "agent/core.h"
#include "agent/durable_file.h"
#include "agent/host_calibration.h"
#include "agent/metrics.h"
#include "agent/metrics_server.h"
#include "agent/migration_service.h"
#include "agent/node_uplink.h"
#include "agent/notify.h"
#include "agent/orphan_reaper.h"
#include "agent/privileges.h"
#include "agent/requests.h"
#include "agent/version.h"
#include "base/log.h"
#include "kernel/borrowed_thread.h"

namespace mose::agent {
namespace {

constexpr unsigned kWorkers = 3;
constexpr Nanoseconds kBorrowedLast = std::chrono::seconds(5);
constexpr Nanoseconds kDay = std::chrono::hours(24);
constexpr Nanoseconds kShutDownBound = std::chrono::seconds(15);  // for migrations to abort or park

// What holds for the whole process and its children.
Status prepare_process(const Config& config) {
  umask(077);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of the write
  // Workloads and restored trees outlive their starters; their end must come to us and to nobody else.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return fail_errno("become the reaper of orphans");
  // What a peer or a client sends wrongly is told by us, with a bound, and not by the library for each message.
  google::protobuf::SetLogHandler(nullptr);
  // Holds sockets and memory of workloads: nobody's debugger and no core file.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return fail_errno("forbid core dumps");
  MOSE_TRY(leave_other_capabilities());
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
  }
  if (!config.node.libexec.empty()) setenv("MOSE_LIBEXEC", config.node.libexec.c_str(), 1);
  return {};
}

// A lock that only one agent can hold, until the descriptor closes. `key` of the configuration names its directory.
Result<Fd> lock_directory(const std::string& directory, const char* key) {
  const std::string path = directory + "/mosed.lock";
  MOSE_ASSIGN(Fd file, open_file(path, O_RDWR | O_CREAT, 0600));
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return fail_errno("lock " + path);
    auto holder = read_all(file.get(), 64);
    return fail(fmt::format("another mosed (pid {}) runs with {}; stop it or set {}",
                            holder && !holder->empty() ? holder->substr(0, holder->find('\n')) : "unknown", directory, key));
  }
  if (ftruncate(file.get(), 0) != 0) return fail_errno("write " + path);
  MOSE_TRY(write_all(file.get(), fmt::format("{}\n", getpid())));
  return file;
}

// Two agents with the same journals would both go on with the migrations in them, and two with the same sockets and images would
// take them from each other: neither directory alone says enough.
struct InstanceLock {
  Fd state, runtime;
};
Result<InstanceLock> lock_instance(const Config& config) {
  InstanceLock lock;
  MOSE_ASSIGN(lock.runtime, lock_directory(config.node.runtime_dir, "node.runtime_dir"));
  std::error_code error;
  if (!std::filesystem::equivalent(config.node.state_dir, config.node.runtime_dir, error)) {
    MOSE_ASSIGN(lock.state, lock_directory(config.node.state_dir, "node.state_dir"));
  }
  return lock;
}

Status prepare_directories(const Config& config) {
  for (const std::string& path : {config.node.state_dir, config.node.runtime_dir, config.node.state_dir + "/journal",
                                  config.node.state_dir + "/workloads"}) {
    MOSE_TRY(make_directories(path));
    // Journals, logs and images belong to root only, also where the directory was there before.
    if (chmod(path.c_str(), 0700) != 0) return fail_errno("chmod " + path);
  }
  return {};
}

class Agent {
 public:
  explicit Agent(const Config& config, const PeerAccess& peers, EventLoop& loop, History history)
      : config_(config),
        loop_(loop),
        history_(std::move(history)),
        workers_(loop, kWorkers),
        uplink_(config),
        workloads_(config, loop, workers_,
                   [this](const Workload& workload, const std::string& sentence) {
                     announce({unix_now_ms(), fmt::format("workload.{}", to_string(workload.state)), workload.spec.name,
                               sentence});
                     if (workload.state == WorkloadState::exited && service_) service_->workload_ended(workload.spec.name, sentence);
                   }),
        core_{config,
              peers,
              loop,
              workers_,
              workloads_,
              uplink_,
              history_,
              config.node.state_dir + "/journal",
              [this](const AgentEvent& event) { announce(event); }} {}

  Status start() {
    renew_steering();
    MOSE_TRY(uplink_.start());
    // Before anything of a workload is looked at: an agent that other nodes cannot reach is none.
    MOSE_ASSIGN(service_, make_migration_service(core_));
    requests_.emplace(core_, *service_, check_host);
    MOSE_TRY(workloads_.load());
    service_->recover_all();
    release_unclaimed();
    tell_uplink();
    MOSE_ASSIGN(server_, ControlServer::start(loop_, config_, [this](const control::v1::Request& request, const Reply& reply) {
                  requests_->handle(request, reply);
                }));
    serve_metrics();
    tell("READY=1\nSTATUS=node " + config_.node.name);
    if (auto period = watchdog_period()) {
      loop_.every(*period, [this] { tell("WATCHDOG=1"); });
    }
    loop_.every(kDay, [this] { core_.peers.tell_expiry(); });
    log::info("agent ready", {{"node", config_.node.name},
                              {"version", kVersion},
                              {"socket", config_.control.socket},
                              {"workloads", workloads_.list().size()}});
    learn_costs();
    return {};
  }

  void on_signal(int number) {
    if (number == SIGHUP) return log::warn("SIGHUP: the configuration is read at start only; restart to apply it");
    if (std::exchange(ending_, true)) return loop_.quit();  // asked twice: at once
    log::info("agent ends", {{"signal", number}});
    tell("STOPPING=1");
    requests_->shutting_down();
    loop_.after(kShutDownBound, [this] {
      log::warn("migrations did not come to rest in time; their journals decide at the next start");
      loop_.quit();
    });
    service_->shut_down([this] { loop_.quit(); });
  }

 private:
  void announce(const AgentEvent& event) { requests_->publish(event); }

  // What it is for goes on without it: migrations may be waiting for this agent.
  void serve_metrics() {
    if (!config_.metrics.enabled) return;
    auto pages = [this](const std::string& path) -> std::optional<MetricsServer::Page> {
      constexpr std::string_view kExposition = "text/plain; version=0.0.4; charset=utf-8";
      if (path == "/metrics") return MetricsServer::Page{{.type = kExposition}, format_metrics(take_metrics(core_, *service_))};
      if (path == "/healthz") return MetricsServer::Page{{}, "ok\n"};  // the event loop answers
      if (path != "/readyz") return std::nullopt;
      Readiness readiness = readiness_of(service_->figures(), ending_);
      return MetricsServer::Page{{.status = readiness.ready ? HttpStatus::ok : HttpStatus::unavailable}, std::move(readiness.text)};
    };
    auto server = MetricsServer::start(loop_, config_.metrics, pages);
    if (!server) return log::error("figures cannot be served", {{"reason", server.error().what}});
    metrics_ = std::move(*server);
  }

  // After everything that somebody waits for: it may take 50 ms of a processor. A migration that comes before it ends
  // goes without.
  void learn_costs() {
    workers_.submit([state_dir = config_.node.state_dir] {
      if (auto costs = host_calibration(state_dir); !costs)
        log::warn("what tracking memory costs here is not known", {{"reason", costs.error().what}});
    });
  }

  // Programs that an agent of another build has left at work, before anybody asks them for something.
  void renew_steering() {
    for (const auto& [workload, replaced] : handover::Steering::renew(pin_root(config_))) {
      if (!replaced) {
        log::error("the steering of an agent before us goes on as it is",
                   {{"workload", workload}, {"reason", replaced.error().what}});
      } else if (*replaced) {
        log::info("the steering programs were replaced", {{"workload", workload}});
      }
    }
  }

  // A workload that is marked as moving or arriving for a migration that no journal knows: the agent died before the
  // migration's first record, so that nothing has happened to it yet.
  void release_unclaimed() {
    // Unread they claim all of them.
    if (const std::string problem = service_->figures().journal_problem; !problem.empty()) {
      return log::error("what moves or arrives stays as it is: mend the directory of the journals, and restart the agent", {{"reason", problem}});
    }
    auto active = service_->list();
    auto claimed = [&](const std::string& id) {
      return std::any_of(active.begin(), active.end(), [&](const auto& item) { return item.id.hex() == id; });
    };
    struct Left {
      std::string name, migration;
      WorkloadState state;
    };
    std::vector<Left> left;
    for (const Workload* workload : workloads_.list()) {
      bool busy = workload->state == WorkloadState::moving || workload->state == WorkloadState::arriving;
      if (busy && !claimed(workload->migration)) left.push_back({workload->spec.name, workload->migration, workload->state});
    }
    for (const auto& [name, migration, state] : left) {
      const log::ForMigration named(migration);
      log::warn("a workload's migration has left no journal", {{"workload", name}, {"state", to_string(state)}});
      if (state == WorkloadState::arriving) {
        workloads_.forget_arrival(name);
      } else if (auto status = workloads_.stay(name); !status) {
        log::error("the workload cannot be released", {{"workload", name}, {"reason", status.error().what}});
      }
    }
  }

  // Its entries outlive the agent, the workloads they speak of need not have.
  void tell_uplink() {
    std::vector<WorkloadSpec> here;
    for (const Workload* workload : workloads_.list()) {
      bool arrived = workload->origin == WorkloadOrigin::moved && workload->state == WorkloadState::running;
      if (arrived) here.push_back(workload->spec);
    }
    auto active = service_->list();
    uplink_.reconcile(here, [&](const std::string& name) {
      return away_network_kept(config_, name) ||
             std::any_of(active.begin(), active.end(), [&](const auto& item) { return item.workload == name; });
    });
  }

  void tell(const std::string& state) {
    if (auto status = notify_manager(state); !status)
      log::warn("the service manager was not told", {{"reason", status.error().what}});
  }

  const Config& config_;
  EventLoop& loop_;
  OrphanReaper orphans_{loop_};
  History history_;
  WorkerPool workers_;
  NodeUplink uplink_;
  Workloads workloads_;
  Core core_;
  std::unique_ptr<MigrationService> service_;
  std::optional<Requests> requests_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<MetricsServer> metrics_;
  bool ending_ = false;
};

// With this program ends whoever could put right a borrowed thread of a workload.
struct AtTheEnd {
  ~AtTheEnd() {
    if (!wait_for_borrowed_threads(kBorrowedLast))
      log::error("a borrowed thread of a workload has had no processor: it may see a wrong result of what it waits for");
  }
};

}  // namespace

Status run_agent(const Config& config) {
  MOSE_TRY(prepare_process(config));
  MOSE_ASSIGN(PeerAccess peers, PeerAccess::create(config));
  MOSE_TRY(prepare_directories(config));
  MOSE_ASSIGN(InstanceLock lock, lock_instance(config));
  MOSE_ASSIGN(auto loop, EventLoop::create());
  MOSE_ASSIGN(History history, History::open(config.node.state_dir + "/history.jsonl", config.limits.history_max));
  const AtTheEnd last;
  Agent* running = nullptr;
  // Before the first thread: they inherit the blocked signals.
  MOSE_TRY(loop->on_signals({SIGTERM, SIGINT, SIGHUP}, [&running](int number) {
    if (running != nullptr) running->on_signal(number);
  }));
  Agent agent(config, peers, *loop, std::move(history));
  running = &agent;
  MOSE_TRY(agent.start());
  loop->run();
  log::info("agent ended", {{"node", config.node.name}});
  return {};
}

}  // namespace mose::agent
