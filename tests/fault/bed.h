// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "client/figures.h"
#include "frame_proxy.h"
#include "lab/lab.h"
#include "lab/load_process.h"
#include "lab/names.h"
#include "tree_watch.h"

// The stage of the fault tests: one lab with a live Redis and a client on it, CRIU replaced by the interposer, and a proxy
// between the agents. Everything is real; the harm comes from outside.
//
// Life: up() once; then cases; the lab goes with the object.
namespace mose::test {

inline constexpr const char* kLab = "t-fault";
inline constexpr const char* kWorkload = "redis";
inline constexpr Nanoseconds kRestartPause = std::chrono::milliseconds(300);  // a service manager's, after a death

// One place of the bed; `peer` of "a" is "b".
[[nodiscard]] inline std::string peer_of(const std::string& node) { return node == "a" ? "b" : "a"; }

struct Harm {  // a line of the interposer's plan
  std::string role, point, moment, action;
};

struct BedOptions {
  double megabytes = 20;   // of the Redis that the client loads
  uint32_t probes = 2;     // connections that ask for ever other keys, each a thousand times a second
  bool neighbour = false;  // a second, small server in the workload, at kNeighbourPort (neighbour_server.cpp)
};
inline constexpr uint16_t kNeighbourPort = 6380;

class FaultBed {
 public:
  // Skips the test process (77) where a prerequisite is missing.
  [[nodiscard]] static Result<std::unique_ptr<FaultBed>> up(const BedOptions& options = {});
  ~FaultBed();

  lab::LoadProcess& load() { return *load_; }
  TreeWatch& watch() { return *watch_; }
  // In front of that node: what its peer sends to it passes here first, and the answers.
  FrameProxy& proxy_of(const std::string& node) { return *proxies_.at(node); }
  [[nodiscard]] std::string cgroup(const std::string& node) const;
  [[nodiscard]] std::string root(const std::string& node) const;  // the node's "/" as seen from here
  // Beginning of `log_since()` of a case.
  void mark_logs();
  [[nodiscard]] std::string log_since(const std::string& node) const;

  // ---- Agents
  [[nodiscard]] bool agent_alive(const std::string& node) const;
  void kill_agent(const std::string& node) const;  // any thread
  void stop_agent(const std::string& node) const;  // as a service manager does; any thread
  void hang_agent(const std::string& node, bool hanging) const;  // SIGSTOP or SIGCONT; any thread
  // Every write of the agent to a file fails (EFBIG), whatever file system it is on; false: as before. Any thread.
  void fail_writes(const std::string& node, bool failing) const;
  // Starts what is dead.
  [[nodiscard]] Status start_agents();

  // ---- Interposer
  void plan(const std::string& node, const Harm& harm);
  [[nodiscard]] bool harm_done(const std::string& node) const;
  void go(const std::string& node);
  void clear_plans();

  // ---- What an operator does, through the control socket
  struct Started {
    std::string id;
    std::string refusal;  // instead of an id
    int exit_code = 0;
  };
  // Waits while the agent still prepares CRIU. No id and no refusal: the agent died first.
  struct Wish {
    std::string strategy;            // empty: the agent's choice
    uint64_t max_bandwidth_bps = 0;  // 0: unlimited
    bool standby = false;
    std::string tracker;      // empty: the agent's choice
    uint32_t rounds_max = 0;  // 0: the default
  };
  [[nodiscard]] Started migrate(const std::string& from, const std::string& to, const Wish& wish);
  [[nodiscard]] Started migrate(const std::string& from, const std::string& to) { return migrate(from, to, Wish()); }
  [[nodiscard]] Status cancel(const std::string& node, const std::string& id);
  void recover(const std::string& node, const std::string& id);
  // Migrations under way: "ID role phase" each; an error when the agent does not answer.
  [[nodiscard]] Result<std::vector<std::string>> under_way(const std::string& node);
  // The one migration under way at that node as `mose status --json` has it; an error when the agent does not answer, null
  // when there is none.
  [[nodiscard]] Result<nlohmann::json> progress(const std::string& node);
  // Pages that only the source has, of the workload that runs at that node; 0: none is missing, or it does not run yet.
  [[nodiscard]] uint64_t missing_pages(const std::string& node);
  // Of pre-copy, of the one migration under way at that node; 0: there is none, or it is in no round yet.
  [[nodiscard]] unsigned round(const std::string& node);
  // The run object of a migration that has ended.
  [[nodiscard]] Result<std::string> report(const std::string& node, const std::string& id);
  // One more connection of the client to the service.
  [[nodiscard]] Result<Fd> connect_client(uint16_t port = lab::kRedisPort);
  // State of the workload at that node ("running", "away", ...), empty: unknown there.
  [[nodiscard]] Result<std::string> workload_state(const std::string& node);
  // Ends when both agents have nothing under way and the workload runs at exactly one node; that node. What is still under way
  // after `operator_comes` (0: half of `bound`) is recovered; `recovered` says whether that was so.
  [[nodiscard]] Result<std::string> settle(Nanoseconds bound, bool* recovered = nullptr, Nanoseconds operator_comes = Nanoseconds(0));

  // Numbers of the node's pagers; the guardians are not among them.
  [[nodiscard]] std::vector<int> pagers(const std::string& node) const { return pager_processes(node, false); }
  [[nodiscard]] std::vector<int> guardians(const std::string& node) const { return pager_processes(node, true); }

  // And of its CRIUs, with the interposer before each.
  [[nodiscard]] std::vector<int> crius(const std::string& node) const;

  // What a node has that it should not have when the workload is elsewhere (`owner` false) or nothing is under way.
  [[nodiscard]] std::vector<std::string> leftovers(const std::string& node, bool owner);

  // The service's connections as the kernels of both ends see them, for whoever reads of a case that failed.
  [[nodiscard]] std::string connections() const;

  // Runs `mose` in the node; for what only the command line does.
  [[nodiscard]] Result<ProcessHandle> start_command(const std::string& node, const std::vector<std::string>& words, int out);
  // The same to its end, with what it has written.
  struct Said {
    int exit_code = -1;
    std::string text;
  };
  [[nodiscard]] Result<Said> command(const std::string& node, const std::vector<std::string>& words);
  // Every process of the node is killed at once, the frozen ones too; only the end of the bed follows.
  void kill_node(const std::string& node) const;
  // In a forked child that has entered the node.
  [[nodiscard]] Status in_node(const std::string& node, const std::function<Status()>& what);
  // Size of the node's /run ("8m"), where images and page stores lie.
  [[nodiscard]] Status set_run_size(const std::string& node, const std::string& size);
  // The node and the proxies say nothing any more, not even in their kernels; false: they are back.
  [[nodiscard]] Status vanish(const std::string& node, bool gone);

 private:
  explicit FaultBed(const BedOptions& options) : options_(options), names_(kLab) {}
  [[nodiscard]] Status build();
  [[nodiscard]] Status install(const std::string& node);
  [[nodiscard]] Result<std::shared_ptr<move::Tls>> identity_of(const std::string& node) const;
  [[nodiscard]] Status start_proxies();
  [[nodiscard]] Status start_workload();
  [[nodiscard]] std::string fault_dir(const std::string& node) const;
  [[nodiscard]] std::vector<int> processes(const std::string& node) const;
  [[nodiscard]] std::vector<int> pager_processes(const std::string& node, bool guardians) const;

  BedOptions options_;
  lab::Names names_;
  std::optional<lab::LabLock> lock_;
  lab::LabState state_;
  std::map<std::string, std::unique_ptr<FrameProxy>> proxies_;
  std::optional<lab::LoadProcess> load_;
  std::unique_ptr<TreeWatch> watch_;
  std::map<std::string, size_t> log_marks_;
};

}  // namespace mose::test
