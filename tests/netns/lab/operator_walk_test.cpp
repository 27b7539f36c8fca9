// SPDX-License-Identifier: MIT
// docs/operator.md, typed on two nodes that have nothing of MOSE: every block of the page in its order, what each prints compared
// with what the page says, while a client of the service counts.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "bed.h"
#include "counting.h"
#include "kernel/cgroup.h"
#include "kernel/netns.h"
#include "lab/inventory.h"
#include "lab/node.h"
#include "lab/node_root.h"
#include "lab/topology.h"
#include "walk_page.h"
#include "walk_terminal.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Json = nlohmann::json;
constexpr const char* kLab = "t-operator";
constexpr Nanoseconds kBlockBound = std::chrono::seconds(60);

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The changes of the host by whatever runs before it are counted, and the one in /root/cut fails.
constexpr const char* kCountedIp = R"sh(#!/bin/bash
PATH=${PATH#*:}
case "$*" in *" show "*) exec ip "$@" ;; esac
n=$(($(cat /root/changes) + 1))
echo $n > /root/changes
[ $n != "$(cat /root/cut)" ] || exit 1
exec ip "$@"
)sh";

// As a machine of a hoster has them: the gateways lie outside of what its addresses span, or need the device.
constexpr const char* kUplinkRoutes =
    "addr flush dev eth0\naddr add 198.51.100.11/24 dev eth0\naddr add 192.0.2.11/32 dev eth0\naddr add 2001:db8::11/64 dev eth0 nodad\n"
    "route add 203.0.113.7 dev eth0 scope link\nroute add 203.0.113.128/25 via 203.0.113.7 dev eth0\n"
    "route add default via 203.0.113.1 dev eth0 onlink metric 100\nroute add default via fe80::1 dev eth0 metric 512\n";

// What a Debian has and a node of the lab has not.
lab::RootAdditions debian() {
  lab::RootAdditions out;
  for (const char* name : {"curl", "tar", "pkill", "setsid", "sed", "cut", "mktemp", "realpath", "rmdir", "mknod", "unshare", "grep", "tail", "head"}) {
    for (const char* directory : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"}) {
      if (::access((std::string(directory) + name).c_str(), X_OK) != 0) continue;
      out.programs.push_back(std::string(directory) + name);
      break;
    }
  }
  return out;
}

// What systemd does with the two units, on a node that has no systemd: they say what is started, and after which pause again.
constexpr const char* kSystemctl = R"sh(#!/bin/bash
unit=/usr/lib/systemd/system/mosed.service enabled=/etc/mosed.enabled
value() { sed -n "s/^$1=//p" $unit; }
case "$*" in
"enable --now mose-bridge" | "start mose-bridge")
  unit=/etc/systemd/system/mose-bridge.service
  [ "$(value Type)" = oneshot ] && [ "$(value Before)" = mosed.service ] || exit 1
  touch /etc/mose-bridge.enabled
  eval "$(value ExecStart)" ;;
"enable --now mosed" | "start mosed")
  [ "$(value Restart)" = always ] || exit 1
  mkdir -p -m "$(value RuntimeDirectoryMode)" "/run/$(value RuntimeDirectory)"
  mkdir -p -m "$(value StateDirectoryMode)" "/var/lib/$(value StateDirectory)"
  touch $enabled
  limit=$(value StartLimitIntervalSec)
  setsid bash -c "while [ -e $enabled ] && [ \$((n++)) -lt 5 -o '$limit' = 0 ]; do $(value ExecStart) >> /var/log/mosed.log 2>&1; sleep $(value RestartSec); done" < /dev/null > /dev/null 2>&1 &
  for i in {1..100}; do mose ping > /dev/null 2>&1 && exit 0; sleep 0.2; done
  exit 1 ;;
"disable --now mosed")
  rm $enabled
  pkill -TERM -x mosed
  for i in {1..100}; do mose ping > /dev/null 2>&1 || exit 0; sleep 0.1; done
  exit 1 ;;
*) echo "systemctl: $*?" >&2; exit 1 ;;
esac
)sh";

// ssh and scp of the operator's machine: what they carry is real, the way is not theirs.
constexpr const char* kSsh = R"sh(#!/bin/bash
case $1 in root@198.51.100.11) node=a ;; root@198.51.100.12) node=b ;; *) echo "ssh: $1?" >&2; exit 255 ;; esac
shift
exec nsenter -t "$(cat "$HOME/keeper.$node")" -m -u -i -n -p -- /bin/sh -c "$*"
)sh";
constexpr const char* kScp = R"sh(#!/bin/bash
set -e
to=${@: -1}
for file in "${@:1:$#-1}"; do
  tar -C "$(dirname "$file")" -c "$(basename "$file")" | ssh "${to%%:*}" tar -C "${to#*:}" -x
done
)sh";

class OperatorWalk : public ::testing::Test {
 protected:
  OperatorWalk() : turn_(take_turn(kLab)), names_(kLab) {
    need_criu_and_redis();
    (void)lab::down(names_);
    fs::remove_all(operators());
  }
  ~OperatorWalk() override {
    terminals_.clear();
    EXPECT_TRUE(lab::down(names_));
    fs::remove_all(operators());
    EXPECT_THAT(traces(kLab), testing::IsEmpty());
  }

  static std::string operators() { return "/tmp/mose-test-operator"; }
  std::string root(const std::string& node) const { return names_.node_root(node); }

  void make_machines() {
    auto made = lab::up(bare_lab(kLab));
    ASSERT_TRUE(made) << made.error().what;
    state_ = std::move(*made);
    for (const std::string node : lab::kNodes) {
      auto bare = make_bare(node);
      ASSERT_TRUE(bare) << bare.error().what;
    }
    make_operators_machine();
  }

  // Nothing of MOSE, and one network device with the node's address.
  Status make_bare(const std::string& node) {
    const std::string up = lab::kUplink;
    MOSE_TRY(lab::run_ip(names_.netns(node), "link set dev " + up + " nomaster\nlink del dev br0\nlink set dev " + up + " down\nlink set dev " + up +
                                                 " name eth0\nlink set dev eth0 up\naddr add " + lab::node_address(node) + "/" + lab::kPrefixLength +
                                                 " dev eth0\n"));
    MOSE_TRY(lab::add_to_node_root(root(node), debian()));
    for (const char* path : {"/etc/mose", "/usr/bin/mose", "/usr/bin/mosed", "/var/lib/mose", "/var/log/mose-workload"}) fs::remove_all(root(node) + path);
    for (const auto& helper : fs::directory_iterator(root(node) + "/usr/libexec/mose")) {
      if (helper.path().filename() != "mose-lab-keeper") fs::remove(helper.path());
    }
    write(root(node) + "/usr/bin/systemctl", kSystemctl, 0755);
    // Two nodes on one machine share the hierarchy of its control groups.
    write(root(node) + "/etc/mose/conf.d/50-one-machine.toml", "[node]\ncgroup = \"" + workloads(node) + "\"\n", 0644);
    return {};
  }

  void make_operators_machine() {
    write(operators() + "/bin/ssh", kSsh, 0755);
    write(operators() + "/bin/scp", kScp, 0755);
    fs::create_directory_symlink(MOSE_BUILD, operators() + "/build");
    for (const char* node : lab::kNodes) note_keeper(node);
  }
  void note_keeper(const std::string& node) { write(operators() + "/keeper." + node, std::to_string(state_.keepers.at(node).pid) + "\n", 0600); }

  static void write(const std::string& path, const std::string& text, mode_t mode) {
    fs::create_directories(fs::path(path).parent_path());
    std::ofstream(path) << text;
    ::chmod(path.c_str(), mode);
  }
  std::string workloads(const std::string& node) const { return state_.cgroup + "/" + node + "/workloads"; }

  WalkTerminal* terminal(const std::string& place) {
    auto& open = terminals_[place];
    if (open) return open.get();
    const bool ops = place == "ops";
    auto node = ops ? Result<lab::NodePlace>(lab::NodePlace{}) : lab::open_node(state_, place);
    if (node && ops) {
      auto net = lab::Place::of_netns(names_.netns_path("client"));
      if (net) node->place = std::move(*net);
    }
    if (!node) return nullptr;
    const std::string path = "/usr/sbin:/usr/bin:/sbin:/bin";
    const std::string with_shims = operators() + "/bin:" + fs::path(MOSE_CMAKE).parent_path().string() + ":" + path;
    auto opened = WalkTerminal::open({&node->place, node->cgroup, ops ? operators() : "/root", ops ? with_shims : path});
    EXPECT_TRUE(opened) << opened.error().what;
    if (opened) open = std::move(*opened);
    return open.get();
  }

  void type(const WalkStep& step) {
    WalkTerminal* on = terminal(step.place);
    ASSERT_NE(on, nullptr) << step.place << " is not there";
    auto said = on->type(step.body, kBlockBound);
    ASSERT_FALSE(said.ended) << "a command failed, or they took too long; printed:\n" << said.text << log_of(step.place);
    EXPECT_TRUE(prints_as(step.printed, said.text)) << "the page says:\n" << step.printed << "and it printed:\n" << said.text;
  }
  std::string log_of(const std::string& place) const {
    std::string log = text_of(root(place) + "/var/log/mosed.log");
    return log.size() > 3000 ? log.substr(log.size() - 3000) : log;
  }

  // Everything that runs on it ends at once, and what lies in its memory goes; its disk stays.
  void power_off(const std::string& node) {
    auto keeper = lab::open_record(state_.keepers.at(node));
    ASSERT_TRUE(keeper);
    auto group = Cgroup::open(state_.cgroup + "/" + node);
    ASSERT_TRUE(group);
    ASSERT_TRUE(group->kill());
    ASSERT_TRUE(keeper->wait_ended(std::chrono::seconds(10)));
    ASSERT_TRUE(group->wait_empty(std::chrono::seconds(10)));
    terminals_.erase(node);
    for (const auto& item : fs::directory_iterator(workloads(node))) {
      if (item.is_directory()) fs::remove(item.path());
    }
    auto cut = lab::run_ip(names_.netns("sw"), "link set dev p" + node + " down\n");
    ASSERT_TRUE(cut) << cut.error().what;
    for (const std::string& device : devices(node)) {
      if (!device.starts_with("mv") && device != "br0") continue;
      ASSERT_TRUE(lab::run_ip(names_.netns(node), "link del dev " + device + "\n"));
    }
  }
  void power_on(const std::string& node) {
    auto mount = cgroup_mount();
    ASSERT_TRUE(mount);
    auto keeper = lab::start_keeper(names_, node, *mount);
    ASSERT_TRUE(keeper) << keeper.error().what;
    state_.keepers[node] = *keeper;
    ASSERT_TRUE(lab::save_state(names_, state_));
    note_keeper(node);
    auto back = lab::run_ip(names_.netns("sw"), "link set dev p" + node + " up\n");
    ASSERT_TRUE(back) << back.error().what;
    // As the network manager knows it.
    ASSERT_TRUE(lab::run_ip(names_.netns(node), "addr replace " + lab::node_address(node) + "/" + lab::kPrefixLength + " dev eth0\nlink set dev eth0 up\n"));
    WalkTerminal* service_manager = terminal(node);
    ASSERT_NE(service_manager, nullptr);
    for (const char* unit : {"mose-bridge", "mosed"}) {
      if (!fs::exists(root(node) + "/etc/" + unit + ".enabled")) continue;
      ASSERT_FALSE(service_manager->type(std::string("systemctl start ") + unit, kBlockBound).ended) << log_of(node);
    }
  }
  // As the node sees them.
  std::vector<std::string> devices(const std::string& node) const {
    std::vector<std::string> out;
    auto place = lab::Place::of_netns(names_.netns_path(node));
    lab::ProgramSpec spec;
    spec.argv = {"ip", "-brief", "link"};
    spec.place = place ? &*place : nullptr;
    auto list = lab::run_program(spec, "", std::chrono::seconds(10));
    std::istringstream lines(list ? list->out : "");
    for (std::string line; std::getline(lines, line);) out.push_back(line.substr(0, line.find_first_of(" @")));
    return out;
  }

  void take(const WalkStep& step) {
    switch (step.kind) {
      case WalkStep::Kind::by_hand: return;
      case WalkStep::Kind::write_file: return write(root(step.place) + step.file, step.body, 0644);
      case WalkStep::Kind::power_off: return power_off(step.place);
      case WalkStep::Kind::power_on: return power_on(step.place);
      case WalkStep::Kind::type: return type(step);
    }
  }

  // A client of the service counts from the first `mose run` on, on one connection, until a plug is pulled that ends the service.
  void follow(const WalkStep& step) {
    if (step.kind == WalkStep::Kind::power_off) {
      ASSERT_NE(client_, nullptr);
      client_->stop();
      EXPECT_EQ(client_->problem(), "");
      EXPECT_GT(client_->count(), 1000u);
    }
    take(step);
    if (!HasFatalFailure() && !client_ && step.body.find("mose run redis") != std::string::npos) {
      client_ = std::make_unique<lab::Counting>(names_.netns_path("client"));
    }
  }

  // But for what was installed, the configuration, and what an agent keeps for good.
  void check_nothing_left(const lab::Inventory& before) {
    std::vector<std::string> left;
    const Timestamp deadline = now() + std::chrono::seconds(5);
    do {
      auto after = lab::settled_inventory(state_);
      ASSERT_TRUE(after) << after.error().what;
      left.clear();
      for (const auto& [item, count] : lab::additions(before, *after)) {
        if (!is_expected(item)) left.push_back(item.node + ": " + item.kind + " " + item.what);
      }
    } while (!left.empty() && now() < deadline);
    EXPECT_THAT(left, testing::IsEmpty());
  }
  static bool is_expected(const lab::Item& item) {
    if (!lab::kept_reason(item).empty() || (item.kind == "device" && item.what == "br0")) return true;
    if (item.kind != "file") return false;
    for (const char* installed : {"/etc/", "/usr/", "/var/log/", "/run/mount"}) {
      if (item.what.starts_with(installed)) return true;
    }
    static const std::set<std::string> kept = {"/run/mose", "/run/mose/mosed.lock", "/var/lib/mose", "/var/lib/mose/mosed.lock", "/var/lib/mose/calibration", "/var/lib/mose/journal",
                                               "/var/lib/mose/workloads", "/var/lib/mose/history.jsonl"};
    return kept.contains(item.what);
  }

  // Every move of a's history that came as far as having figures was by TLS with b.
  void check_encrypted() const {
    std::istringstream history(text_of(root("a") + "/var/lib/mose/history.jsonl"));
    unsigned complete = 0;
    for (std::string line; std::getline(history, line);) {
      Json report = Json::parse(line, nullptr, false);
      if (report["source_node"] != "a" || report["outcome"] != "complete") continue;
      ++complete;
      EXPECT_EQ(report["tls"]["version"], "TLSv1.3") << report;
      EXPECT_EQ(report["tls"]["peer"], "b") << report;
    }
    EXPECT_GE(complete, 3u);
  }

  Fd turn_;
  lab::Names names_;
  lab::LabState state_;
  std::map<std::string, std::unique_ptr<WalkTerminal>> terminals_;
  std::unique_ptr<lab::Counting> client_;
};

// Cut off at each of its steps, and run again.
TEST_F(OperatorWalk, TheBridgeIsMadeWithAllThatTheDeviceHadHoweverOftenItIsBegun) {
  std::string problem;
  auto steps = read_walk(text_of(fs::path(MOSE_SOURCE_DIR) / "docs/operator.md"), problem);
  ASSERT_TRUE(steps) << problem;
  auto script = std::ranges::find_if(*steps, [](const WalkStep& step) { return step.place == "a" && step.file == "/usr/local/sbin/mose-bridge"; });
  ASSERT_NE(script, steps->end());
  make_machines();
  if (HasFatalFailure()) return;
  take(*script);
  write(root("a") + "/root/counted/ip", kCountedIp, 0755);
  WalkTerminal* on = terminal("a");
  ASSERT_NE(on, nullptr);
  bool ended = false;
  auto said = [&](const std::string& command) {
    auto out = ended ? WalkTerminal::Said{true, ""} : on->type("{ set +e +o pipefail; } 2> /dev/null; " + command, kBlockBound);
    ended = out.ended;
    return out.text;
  };
  auto state_of = [&](const std::string& device) {
    return said("ip -o address show dev " + device + " scope global | sed -E 's/.* (inet6? [^ ]+) .*/\\1/'; for f in -4 -6; do ip $f route show dev " + device +
                " | grep -v 'proto kernel' | sed -E 's/ (linkdown|pref medium)//g'; done");
  };
  auto network = open_file(names_.netns_path("a"), O_RDONLY);
  ASSERT_TRUE(network);
  auto with_ipv6 = in_netns(network->get(), [] {  // the lab's nodes begin without
    Status written;
    for (const char* of : {"all", "default", "eth0"})
      if (written) written = write_control(std::string("/proc/sys/net/ipv6/conf/") + of + "/disable_ipv6", "0");
    return written;
  });
  ASSERT_TRUE(with_ipv6) << with_ipv6.error().what;
  int changes = 1;
  for (int cut = 1; changes >= cut - 1 && cut < 100; ++cut) {  // until the last one runs to its end
    SCOPED_TRACE("cut off at change " + std::to_string(cut));
    auto fresh = lab::run_ip(names_.netns("a"), kUplinkRoutes);
    ASSERT_TRUE(fresh) << fresh.error().what;
    const std::string before = state_of("eth0");
    ASSERT_FALSE(ended) << before;
    ASSERT_THAT(before, testing::AllOf(HasSubstr("inet6 2001:db8::11/64"), HasSubstr("onlink"), HasSubstr("default via fe80::1")));
    said("echo 0 > /root/changes; echo " + std::to_string(cut) + " > /root/cut; PATH=/root/counted:$PATH sh -e /usr/local/sbin/mose-bridge > /dev/null 2>&1 || :");
    changes = std::atoi(said("cat /root/changes").c_str());
    EXPECT_EQ(said("sh -e /usr/local/sbin/mose-bridge && echo made"), "made\n");
    EXPECT_EQ(state_of("br0"), before);
    EXPECT_EQ(state_of("eth0"), "");
    EXPECT_EQ(said("cat /sys/class/net/br0/address"), said("cat /sys/class/net/eth0/address"));
    EXPECT_EQ(said("[ -e /sys/class/net/br0/brif/eth0 ] && echo a port"), "a port\n");
    EXPECT_EQ(said("sh -e /usr/local/sbin/mose-bridge && echo again"), "again\n");
    EXPECT_EQ(state_of("br0"), before);
    ASSERT_TRUE(lab::run_ip(names_.netns("a"), "link set dev eth0 nomaster\nlink del dev br0\n"));
    if (HasFailure()) return;
  }
  EXPECT_GE(changes, 15) << "not all were counted";
}

TEST_F(OperatorWalk, EveryBlockOfThePageDoesWhatThePageSays) {
  std::string problem;
  auto steps = read_walk(text_of(fs::path(MOSE_SOURCE_DIR) / "docs/operator.md"), problem);
  ASSERT_TRUE(steps) << problem;
  EXPECT_EQ(std::ranges::count(*steps, WalkStep::Kind::by_hand, &WalkStep::kind), 2) << "only building and installing packages is";
  make_machines();
  if (HasFatalFailure()) return;
  auto before = lab::settled_inventory(state_);
  ASSERT_TRUE(before) << before.error().what;
  for (const WalkStep& step : *steps) {
    SCOPED_TRACE("docs/operator.md, line " + std::to_string(step.line) + ":\n" + step.body);
    const Timestamp began = now();
    follow(step);
    if (HasFatalFailure()) return;
    std::printf("line %3zu %-4s %6.1f s\n", step.line, step.place.c_str(), std::chrono::duration<double>(now() - began).count());
    std::fflush(stdout);
  }

  terminals_.clear();
  check_nothing_left(*before);
  check_encrypted();
}

TEST(WalkPage, OutputThatDiffersIsNoticed) {
  EXPECT_TRUE(prints_as("", ""));
  EXPECT_FALSE(prints_as("", "something\n"));
  EXPECT_TRUE(prints_as("pid …, up\n", "pid 17, up\n"));
  EXPECT_FALSE(prints_as("pid …, up\n", "pid 17, down\n"));
  EXPECT_TRUE(prints_as("…\nend\n", "end\n"));
  EXPECT_TRUE(prints_as("…\nend\n", "one\ntwo\nend\n"));
  EXPECT_FALSE(prints_as("…\nend\n", "end\nmore\n"));
  EXPECT_FALSE(prints_as("one\n…\n", "two\n"));
  EXPECT_FALSE(prints_as("a*\n", "ab\n")) << "only the page's own sign means anything";
}

TEST(WalkPage, ABlockThatNobodyTypesIsNoticed) {
  std::string problem;
  EXPECT_FALSE(read_walk("```sh\nls\n```\n", problem));
  EXPECT_THAT(problem, HasSubstr("line 1"));
  EXPECT_FALSE(read_walk("```text\nalone\n```\n", problem));
  EXPECT_FALSE(read_walk("```sh c\nls\n```\n", problem)) << "there is no such machine";
  EXPECT_FALSE(read_walk("```sh a\nls\n", problem)) << "it has no end";
  auto steps = read_walk("Words.\n\n```sh a\nls\n```\n```text\nfile\n```\n\n```toml b /etc/x\nk = 1\n```\n", problem);
  ASSERT_TRUE(steps) << problem;
  ASSERT_EQ(steps->size(), 2u);
  EXPECT_EQ((*steps)[0].printed, "file\n");
  EXPECT_EQ((*steps)[1].file, "/etc/x");
}

}  // namespace
}  // namespace mose::test
