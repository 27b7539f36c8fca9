// SPDX-License-Identifier: MIT
#include "bed.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "agent/control_client.h"
#include "handover/workload_network.h"
#include "kernel/netns.h"
#include "kernel/spawn.h"
#include "lab/agent.h"
#include "lab/child_process.h"
#include "lab/node.h"
#include "lab/node_root.h"
#include "lab/stock_end.h"
#include "lab/topology.h"
#include "mose/control/control.pb.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using control::v1::Request;
using control::v1::Response;

constexpr Nanoseconds kCallBound = std::chrono::seconds(5);
constexpr Nanoseconds kRunBound = std::chrono::seconds(20);
constexpr Nanoseconds kCriuBound = std::chrono::seconds(10);  // an agent that has just started proves its CRIU first
constexpr uint32_t kConnections = 4;
constexpr const char* kFaultDir = "/var/lib/mose-fault";
constexpr int kLockSeconds = 60;
constexpr const char* kProxyAddress = "198.51.100.3";  // of the switch: taken away, it is as if the node were gone

void pause_ms(int ms) { ::usleep(static_cast<useconds_t>(ms) * 1000); }

// The prefix that the lab has copied into its nodes.
std::string criu_path() {
  const char* prefix = std::getenv("MOSE_PREFIX");
  return std::string(prefix ? prefix : "/opt/mose") + "/criu/bin/criu";
}

std::string proxy_endpoint(const std::string& node) {
  return std::string(kProxyAddress) + (node == "a" ? ":7411" : ":7412");
}

constexpr const char* kNeighbourProgram = "/usr/bin/mlab-neighbour";

std::vector<std::string> workload_command(bool neighbour) {
  std::vector<std::string> redis = lab::redis_command();
  if (!neighbour) return redis;
  auto quoted = [](const std::vector<std::string>& words) {
    std::string line;
    for (const std::string& word : words) line += "'" + word + "' ";
    return line;
  };
  return {"/bin/sh", "-c", quoted({kNeighbourProgram, std::to_string(kNeighbourPort)}) + "& exec " + quoted(redis)};
}

// What stays the same over all cases, so that a hung CRIU is noticed in time.
std::string extra_config(const std::string& node) {
  return "[peers." + peer_of(node) + "]\naddress = \"" + proxy_endpoint(peer_of(node)) + "\"\n\n[limits]\ndump_time_max = \"3s\"\nrestore_time_max = \"3s\"\n";
}

// A refusal is an answer.
Result<Response> answer_of(const lab::LabState& state, const std::string& node, Request request, Nanoseconds bound = kCallBound) {
  MOSE_ASSIGN(std::string socket, lab::control_socket(state, node));
  MOSE_ASSIGN(auto client, agent::ControlClient::connect(socket, kCallBound));
  Response response;
  MOSE_TRY(client.call(request, response, bound));
  return response;
}

Result<Response> call(const lab::LabState& state, const std::string& node, const Request& request, Nanoseconds bound = kCallBound) {
  MOSE_ASSIGN(Response response, answer_of(state, node, request, bound));
  if (response.has_failure()) return fail(response.failure().reason());
  return response;
}

Result<Response> status_of(const lab::LabState& state, const std::string& node) {
  Request request;
  request.mutable_status();
  return call(state, node, request);
}

}  // namespace

// ---- Making it

Result<std::unique_ptr<FaultBed>> FaultBed::up(const BedOptions& options) {
  if (::geteuid() != 0) skip_process("fault tests need root");
  if (::access(criu_path().c_str(), X_OK) != 0) skip_process("CRIU is not installed (" + criu_path() + ")");
  if (::access("/usr/bin/redis-server", X_OK) != 0) skip_process("redis-server is not installed");
  std::unique_ptr<FaultBed> bed(new FaultBed(options));
  MOSE_ASSIGN(auto lock, lab::LabLock::acquire(bed->names_, kLockSeconds));
  bed->lock_.emplace(std::move(lock));
  MOSE_TRY(bed->build());
  return bed;
}

FaultBed::~FaultBed() {
  load_.reset();
  watch_.reset();
  proxies_.clear();
  if (auto s = lab::down(names_); !s) std::fprintf(stderr, "lab down: %s\n", s.error().what.c_str());
}

Status FaultBed::build() {
  MOSE_TRY(lab::down(names_));  // of a run that crashed
  lab::LabOptions options;
  options.lab = kLab;
  options.agents = false;
  MOSE_ASSIGN(state_, lab::up(options));
  for (const char* node : lab::kNodes) MOSE_TRY(install(node));
  MOSE_TRY(start_proxies());
  MOSE_TRY(start_agents());
  return start_workload();
}

Status FaultBed::install(const std::string& node) {
  std::error_code error;
  std::string criu = root(node) + criu_path();
  MOSE_ASSIGN(std::string interposer, helper_path("criu-interposer"));
  fs::rename(criu, criu + ".real", error);
  if (error) return fail_errno("put CRIU aside", error.value());
  fs::copy_file(interposer, criu, error);
  if (error) return fail_errno("install the interposer", error.value());
  if (options_.neighbour) {
    MOSE_ASSIGN(std::string neighbour, helper_path("mlab-neighbour"));
    fs::copy_file(neighbour, root(node) + kNeighbourProgram, error);
    if (error) return fail_errno("install the neighbour", error.value());
  }
  fs::create_directories(fault_dir(node), error);
  std::string config = root(node) + "/etc/mose/conf.d/50-fault.toml";
  MOSE_ASSIGN(Fd file, open_file(config, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(file.get(), extra_config(node));
}

// As the node's agent has them.
Result<std::shared_ptr<move::Tls>> FaultBed::identity_of(const std::string& node) const {
  const std::string pki = root(node) + lab::kPkiDirectory + "/";
  return move::Tls::load({pki + node + ".crt", pki + node + ".key", pki + "ca.crt", pki + "revoked.pem"});
}

// Their threads live in the switch's network namespace, and so does whatever they open.
Status FaultBed::start_proxies() {
  MOSE_TRY(lab::run_ip(names_.netns("sw"), std::string("addr add ") + kProxyAddress + "/" + lab::kPrefixLength + " dev br0\n"));
  MOSE_ASSIGN(auto place, lab::Place::of_netns(names_.netns_path("sw")));
  std::map<std::string, ProxyIdentities> identities;
  for (const char* node : lab::kNodes) {
    MOSE_ASSIGN(auto own, identity_of(node));
    MOSE_ASSIGN(auto peer, identity_of(peer_of(node)));
    identities[node] = {node, std::move(own), std::move(peer)};
  }
  Status result;
  std::thread([&] {
    if (::setns(place.net.get(), CLONE_NEWNET) != 0) {
      result = fail_errno("setns");
      return;
    }
    for (const char* node : lab::kNodes) {
      auto proxy = FrameProxy::listen(proxy_endpoint(node), lab::node_address(node) + ":" + std::to_string(lab::kPeerPort), identities[node]);
      if (!proxy) {
        result = std::unexpected(proxy.error());
        return;
      }
      proxies_[node] = std::move(*proxy);
    }
  }).join();
  return result;
}

Status FaultBed::start_workload() {
  Request request;
  auto& run = *request.mutable_run();
  run.set_name(kWorkload);
  run.add_addresses(std::string(lab::kServiceAddress) + "/" + lab::kPrefixLength);
  for (const std::string& word : workload_command(options_.neighbour)) run.add_command(word);
  if (auto ran = call(state_, "a", request, kRunBound); !ran) return context("mose run", ran.error());
  lab::LoadRequest load;
  load.server = lab::kServiceAddress;
  load.megabytes = options_.megabytes;
  load.connections = kConnections;
  load.probes = options_.probes;
  MOSE_ASSIGN(auto process, lab::LoadProcess::start(names_, load));
  load_.emplace(std::move(process));
  MOSE_TRY(load_->prepare());
  MOSE_TRY(load_->resume());
  watch_ = std::make_unique<TreeWatch>(cgroup("a"), cgroup("b"), "redis-");
  return {};
}

std::string FaultBed::cgroup(const std::string& node) const {
  return state_.cgroup + "/" + node + "/workloads/" + kWorkload;
}

std::string FaultBed::root(const std::string& node) const {
  return "/proc/" + std::to_string(state_.keepers.at(node).pid) + "/root";
}

void FaultBed::mark_logs() {
  for (const char* node : lab::kNodes) {
    std::error_code error;
    auto size = fs::file_size(names_.agent_log(node), error);
    log_marks_[node] = error ? 0 : size;
  }
}

std::string FaultBed::log_since(const std::string& node) const {
  std::string text = read_file(names_.agent_log(node)).value_or("");
  auto mark = log_marks_.find(node);
  return mark == log_marks_.end() || mark->second > text.size() ? text : text.substr(mark->second);
}

// ---- Agents

bool FaultBed::agent_alive(const std::string& node) const {
  auto it = state_.agents.find(node);
  return it != state_.agents.end() && lab::is_alive(it->second);
}

void FaultBed::kill_agent(const std::string& node) const {
  auto agent = lab::open_record(state_.agents.at(node));
  if (agent) (void)agent->signal(SIGKILL);
}

void FaultBed::stop_agent(const std::string& node) const {
  auto agent = lab::open_record(state_.agents.at(node));
  if (agent) (void)agent->signal(SIGTERM);
}

void FaultBed::hang_agent(const std::string& node, bool hanging) const {
  auto agent = lab::open_record(state_.agents.at(node));
  if (agent) (void)agent->signal(hanging ? SIGSTOP : SIGCONT);
}

void FaultBed::fail_writes(const std::string& node, bool failing) const {
  const int pid = state_.agents.at(node).pid;
  rlimit limit{};
  if (::prlimit(pid, RLIMIT_FSIZE, nullptr, &limit) != 0) return;
  limit.rlim_cur = failing ? 0 : limit.rlim_max;
  (void)::prlimit(pid, RLIMIT_FSIZE, &limit, nullptr);
}

Status FaultBed::start_agents() {
  for (const char* node : lab::kNodes) {
    if (agent_alive(node)) continue;
    MOSE_ASSIGN(state_.agents[node], lab::start_agent(names_, state_, node));
    MOSE_TRY(lab::save_state(names_, state_));
  }
  return {};
}

// ---- Interposer

std::string FaultBed::fault_dir(const std::string& node) const { return root(node) + kFaultDir; }

void FaultBed::plan(const std::string& node, const Harm& harm) {
  // A restarted agent proves CRIU on a canary first: the harm is not meant for that one.
  auto proven = [&] {
    std::string text = read_file(names_.agent_log(node)).value_or("");
    size_t last = text.rfind("agent ready");
    return last != std::string::npos && text.find("CRIU is ready", last) != std::string::npos;
  };
  for (Timestamp deadline = now() + kCriuBound; !proven() && now() < deadline;) pause_ms(10);
  std::ofstream(fault_dir(node) + "/plan.new") << harm.role << ' ' << harm.point << ' ' << harm.moment << ' ' << harm.action << '\n';
  if (::rename((fault_dir(node) + "/plan.new").c_str(), (fault_dir(node) + "/plan").c_str()) != 0) std::perror("plan");
}

bool FaultBed::harm_done(const std::string& node) const { return ::access((fault_dir(node) + "/done").c_str(), F_OK) == 0; }
void FaultBed::go(const std::string& node) { std::ofstream(fault_dir(node) + "/go").flush(); }

void FaultBed::clear_plans() {
  std::error_code ignored;
  for (const char* node : lab::kNodes) {
    for (const char* name : {"/plan", "/done", "/go"}) fs::remove(fault_dir(node) + name, ignored);
    proxies_.at(node)->heal();
  }
}

// ---- Operator

FaultBed::Started FaultBed::migrate(const std::string& from, const std::string& to, const Wish& wish) {
  Timestamp deadline = now() + kCriuBound;
  for (;;) {
    Started out;
    Request request;
    auto& migrate = *request.mutable_migrate();
    migrate.set_workload(kWorkload);
    migrate.set_node(to);
    migrate.set_detach(true);
    migrate.set_strategy(wish.strategy);
    migrate.set_max_bandwidth_bps(wish.max_bandwidth_bps);
    migrate.set_standby(wish.standby ? "auto" : "never");
    migrate.set_tracker(wish.tracker);
    migrate.set_rounds_max(wish.rounds_max);
    auto response = answer_of(state_, from, request);
    if (!response) return out;
    if (response->has_started()) out.id = response->started().migration_id();
    if (response->has_failure()) {
      out.refusal = response->failure().reason();
      out.exit_code = static_cast<int>(response->failure().exit_code());
      if (out.refusal.find("being prepared") != std::string::npos && now() < deadline) {
        pause_ms(50);
        continue;
      }
    }
    return out;
  }
}

Status FaultBed::cancel(const std::string& node, const std::string& id) {
  Request request;
  request.mutable_cancel()->set_migration_id(id);
  MOSE_TRY(call(state_, node, request));
  return {};
}

void FaultBed::recover(const std::string& node, const std::string& id) {
  Request request;
  request.mutable_recover()->set_migration_id(id);
  request.mutable_recover()->set_act(true);
  (void)answer_of(state_, node, request);
}

Result<std::vector<std::string>> FaultBed::under_way(const std::string& node) {
  MOSE_ASSIGN(Response said, status_of(state_, node));
  std::vector<std::string> out;
  for (const auto& m : said.migration_list().migrations()) out.push_back(m.migration_id() + " " + m.role() + " " + m.phase());
  return out;
}

uint64_t FaultBed::missing_pages(const std::string& node) {
  auto said = status_of(state_, node);
  uint64_t pages = 0;
  if (said) for (const auto& m : said->migration_list().migrations()) pages += m.memory().missing_pages();
  return pages;
}

unsigned FaultBed::round(const std::string& node) {
  auto said = status_of(state_, node);
  return !said || said->migration_list().migrations().empty() ? 0 : said->migration_list().migrations(0).round();
}

Result<std::string> FaultBed::report(const std::string& node, const std::string& id) {
  Request request;
  request.mutable_show()->set_migration_id(id);
  MOSE_ASSIGN(Response response, call(state_, node, request));
  return response.json().text();
}

Result<Fd> FaultBed::connect_client(uint16_t port) {
  MOSE_ASSIGN(Fd netns, open_file(names_.netns_path("client"), O_RDONLY));
  return in_netns_get<Fd>(netns.get(), [port]() -> Result<Fd> {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    inet_pton(AF_INET, lab::kServiceAddress, &address.sin_addr);
    Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("socket");
    timeval bound{.tv_sec = 5, .tv_usec = 0};
    setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return fail_errno("connect to the service");
    return socket;
  });
}

Result<std::string> FaultBed::workload_state(const std::string& node) {
  Request request;
  request.mutable_workloads();
  MOSE_ASSIGN(Response response, call(state_, node, request));
  for (const auto& w : response.workload_list().workloads()) {
    if (w.name() == kWorkload) return w.state();
  }
  return std::string();
}

Result<std::string> FaultBed::settle(Nanoseconds bound, bool* recovered, Nanoseconds operator_comes) {
  Timestamp begin = now(), deadline = begin + bound;
  const Timestamp help = begin + (operator_comes.count() == 0 ? bound / 2 : operator_comes);
  bool helped = false;
  std::string picture;
  while (now() < deadline) {
    std::string owner;
    unsigned owners = 0, busy = 0;
    picture.clear();
    for (const char* node : lab::kNodes) {
      auto list = under_way(node);
      auto state = workload_state(node);
      picture += std::string(node) + ": " + (state ? *state : state.error().what) + "; ";
      if (!list || !state) {
        ++busy;
        continue;
      }
      for (const std::string& line : *list) {
        ++busy;
        picture += line + "; ";
        if (!helped && now() > help) {
          recover(node, line.substr(0, line.find(' ')));
          if (recovered != nullptr) *recovered = true;
        }
      }
      if (*state == "running" && group_may_run(cgroup(node))) {
        owner = node;
        ++owners;
      }
    }
    helped = helped || now() > help;
    if (busy == 0 && owners == 1) return owner;
    pause_ms(20);
  }
  return fail("not settled: " + picture);
}

Result<ProcessHandle> FaultBed::start_command(const std::string& node, const std::vector<std::string>& words, int out) {
  MOSE_ASSIGN(auto place, lab::open_node(state_, node));
  lab::ProgramSpec spec;
  spec.argv = {"/usr/bin/mose"};
  spec.argv.insert(spec.argv.end(), words.begin(), words.end());
  spec.place = &place.place;
  spec.cgroup = place.cgroup;
  spec.out = out;
  spec.err = out;
  return lab::start_program(spec);
}

Result<FaultBed::Said> FaultBed::command(const std::string& node, const std::vector<std::string>& words) {
  Fd out(::memfd_create("said", MFD_CLOEXEC));
  if (!out) return fail_errno("memfd_create");
  MOSE_ASSIGN(auto process, start_command(node, words, out.get()));
  MOSE_ASSIGN(auto end, process.reap(kRunBound));
  MOSE_ASSIGN(std::string text, read_file("/proc/self/fd/" + std::to_string(out.get())));
  return Said{end.value, std::move(text)};
}

Result<nlohmann::json> FaultBed::progress(const std::string& node) {
  MOSE_ASSIGN(Said said, command(node, {"status", "--json"}));
  auto status = nlohmann::json::parse(said.text, nullptr, false);
  if (!status.is_object() || !status["migrations"].is_array()) return fail("mose status: " + said.text);
  return status["migrations"].empty() ? nlohmann::json() : status["migrations"].front();
}

// The first process of its pid namespace takes all others with it.
void FaultBed::kill_node(const std::string& node) const {
  // A machine that is dead says nothing. The kernel of this one lives on, a moment longer than the programs that keep its workload silent.
  (void)lab::run_ip(names_.netns(node), "link set dev " + handover::host_device_name(kWorkload) + " down\n");
  (void)::kill(state_.keepers.at(node).pid, SIGKILL);
}

Status FaultBed::in_node(const std::string& node, const std::function<Status()>& what) {
  MOSE_ASSIGN(auto place, lab::open_node(state_, node));
  return lab::in_place(place.place, [&] { return what(); });
}

Status FaultBed::set_run_size(const std::string& node, const std::string& size) {
  return in_node(node, [&]() -> Status {
    std::string options = "mode=755,size=" + size;
    if (::mount("tmpfs", "/run", "tmpfs", MS_REMOUNT | MS_NOSUID | MS_NODEV, options.c_str()) != 0) return fail_errno("remount /run");
    return {};
  });
}

Status FaultBed::vanish(const std::string& node, bool gone) {
  std::string address = std::string("addr ") + (gone ? "del " : "add ") + kProxyAddress + "/" + lab::kPrefixLength + " dev br0\n";
  return lab::run_ip(names_.netns("sw"), "link set dev p" + node + (gone ? " down\n" : " up\n") + address);
}

}  // namespace mose::test
