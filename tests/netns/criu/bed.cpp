// SPDX-License-Identifier: MIT
#include "bed.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>
#include <thread>

#include "run_lock.h"
#include "support/support.h"

namespace mose::test {
namespace fs = std::filesystem;
namespace {

constexpr const char* kPrefix = "mcriu";

void own_mount_namespace() {
  static bool done = false;
  if (done) return;
  if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    skip_process("needs the right to make mount namespaces");
  done = true;
}

Status loopback_up(int net) {
  Status status;
  std::thread([&] {
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (::setns(net, CLONE_NEWNET) < 0) {
      status = fail_errno("enter a network namespace");
      return;
    }
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0) status = fail_errno("set lo up");
  }).join();
  return status;
}

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "test bed: %s\n", result.error().what.c_str());
    std::abort();
  }
  return std::move(*result);
}
void must(Status status) {
  if (!status) {
    std::fprintf(stderr, "test bed: %s\n", status.error().what.c_str());
    std::abort();
  }
}

}  // namespace

Status copy_tree(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::remove_all(to + "/.", error);
  for (const auto& entry : fs::directory_iterator(to)) fs::remove_all(entry, error);
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing, error);
  if (error) return fail_errno("copy " + from, error.value());
  return {};
}

CriuBed::CriuBed(const PlaceOptions& options) : options_(options) {
  if (::geteuid() != 0) skip_process("needs root");
  turn_ = wait_for_turn(kPrefix);
  own_mount_namespace();
  auto mount = cgroup_mount();
  if (!mount) skip_process(mount.error().what);
  auto setup = restore::CriuSetup::prepare({});
  if (!setup) skip_process(setup.error().what);
  setup_ = std::move(*setup);
  cgroup_base_ = *mount + "/mose-test-" + kPrefix;
  base_ = std::string("/var/tmp/mose-test-") + kPrefix;
  fs::remove_all(base_);
  fs::create_directories(base_);
  prepare(a, "a");
  prepare(b, "b");
}

void CriuBed::prepare(Node& node, const char* name) {
  node.name = name;
  std::string home = base_ + "/" + name;
  node.root = home + "/root";
  node.data = home + "/data";
  node.log = home + "/log";
  node.images = home + "/images";
  for (const std::string& path : {node.root, node.data, node.log, node.images}) fs::create_directories(path);
  if (options_.root_is_filesystem && ::mount("tmpfs", node.root.c_str(), "tmpfs", 0, nullptr) < 0) must(fail_errno("mount a root"));
  if (::mount("tmpfs", node.images.c_str(), "tmpfs", 0, nullptr) < 0) must(fail_errno("mount a tmpfs for images"));
  for (const char* directory : {"/proc", "/dev", "/tmp", "/data", "/bin", "/var/log/mose-workload"}) fs::create_directories(node.root + directory);
  std::string null = node.root + "/dev/null";
  if (::mknod(null.c_str(), S_IFCHR | 0666, makedev(1, 3)) < 0) must(fail_errno("make " + null));
  fs::copy(must(helper_path("mcriu-workload")), node.root + "/bin/workload");
  node.net = must(new_namespace(NamespaceKind::net));
  node.ipc = must(new_namespace(NamespaceKind::ipc));
  node.uts = must(new_namespace(NamespaceKind::uts));
  must(loopback_up(node.net.get()));
  std::string group = cgroup_base_ + "/" + name;
  if (auto old = Cgroup::open(group)) {  // of a test that was killed
    (void)old->kill();
    (void)old->thaw();
    (void)old->wait_empty(Nanoseconds{5'000'000'000});
  }
  node.cgroup = must(Cgroup::create(group));
  node.aside = must(Cgroup::create(group + "-aside"));
}

CriuBed::~CriuBed() {
  for (Node* node : {&a, &b}) {
    for (Cgroup* group : {&node->cgroup, &node->aside}) {
      (void)group->kill();
      (void)group->thaw();
      EXPECT_TRUE(group->remove(Nanoseconds{5'000'000'000})) << group->path();
    }
    ::umount2(node->images.c_str(), MNT_DETACH);
    if (options_.root_is_filesystem) ::umount2(node->root.c_str(), MNT_DETACH);
  }
  ::rmdir(cgroup_base_.c_str());
  std::error_code error;
  fs::remove_all(base_, error);
}

Status CriuBed::start(Node& node, const std::vector<std::string>& command) {
  WorkloadLaunch launch;
  launch.net_fd = node.net.get();
  launch.ipc_fd = node.ipc.get();
  launch.uts_fd = node.uts.get();
  launch.cgroup_fd = node.cgroup.fd();
  launch.root = node.root;
  launch.root_read_only = options_.root_read_only;
  launch.binds = {{node.data, "/data", false}, {node.log, "/var/log/mose-workload", false}};
  launch.log = "/var/log/mose-workload/output.log";
  launch.command = command;
  launch.environment = {"PATH=/bin"};
  MOSE_ASSIGN(node.first, launch_workload(launch, Nanoseconds{5'000'000'000}));
  return {};
}

std::string CriuBed::log_text(const Node& node) const {
  auto text = read_file(node.log + "/output.log");
  return text ? *text : "";
}

unsigned CriuBed::ticks(const Node& node) const {
  std::string text = log_text(node);
  size_t at = text.rfind("tick ");
  return at == std::string::npos ? 0 : static_cast<unsigned>(std::strtoul(text.c_str() + at + 5, nullptr, 10));
}

Status CriuBed::wait_ticks(const Node& node, unsigned count) const {
  unsigned goal = ticks(node) + count;
  for (Timestamp deadline = now() + Nanoseconds{10'000'000'000}; now() < deadline;) {
    std::string text = log_text(node);
    if (size_t at = text.find("BAD"); at != std::string::npos) return fail("the workload says " + text.substr(at));
    if (ticks(node) >= goal) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return fail("the workload stands still at tick " + std::to_string(ticks(node)));
}

std::string CriuBed::mounts(const Node& node) const {
  std::istringstream lines(*read_file("/proc/" + std::to_string(node.first.pid()) + "/mountinfo"));
  std::set<std::string> sorted;
  std::string out, line;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string id, parent, device, root, target, flags;
    fields >> id >> parent >> device >> root >> target >> flags;
    sorted.insert(target + " " + flags + "\n");
  }
  for (const std::string& mount : sorted) out += mount;
  return out;
}

restore::Swrk::Place CriuBed::source_place(const Node& node) const {
  restore::Swrk::Place place;
  place.net_fd = node.net.get();
  place.ipc_fd = node.ipc.get();
  place.uts_fd = node.uts.get();
  time_fd_ = must(open_namespace(node.first, NamespaceKind::time));
  if (!must(same_namespace(time_fd_.get(), must(own_namespace(NamespaceKind::time)).get()))) place.time_fd = time_fd_.get();
  return place;
}

restore::Swrk::Place CriuBed::destination_place(const Node& node) const {
  restore::Swrk::Place place;
  place.net_fd = node.net.get();
  place.ipc_fd = node.ipc.get();
  place.uts_fd = node.uts.get();
  place.cgroup_fd = node.cgroup.fd();
  place.root = node.root;
  place.root_read_only = options_.root_read_only;
  place.mounts = {{"data", node.data, false}, {"log", node.log, false}};
  return place;
}

restore::Swrk::DumpRequest CriuBed::dump_request(const Node& node, int images_dir) {
  restore::Swrk::DumpRequest request;
  request.images_dir = images_dir;
  request.pid = node.first.pid();
  request.cgroup_path = node.cgroup.path();
  request.mounts = {{"/data", "data"}, {"/var/log/mose-workload", "log"}};
  return request;
}

}  // namespace mose::test
