// SPDX-License-Identifier: MIT
#include "lab/node.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace mose::lab {
namespace {

constexpr const char* kKeeperPath = "/usr/libexec/mose/mose-lab-keeper";
constexpr const char* kCgroupInNode = "/sys/fs/cgroup/unified";

Status do_mount(const char* source, const std::string& target, const char* type, unsigned long flags, const char* data) {
  if (::mount(source, target.c_str(), type, flags, data) == 0) return {};
  return fail_errno("mount " + std::string(type ? type : "bind") + " on " + target);
}

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return fail_errno("mkdir " + path);
}

// In the node's new mount namespace, before the root is entered.
Status mount_node(const std::string& root) {
  MOSE_TRY(do_mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  MOSE_TRY(do_mount(root.c_str(), root, nullptr, MS_BIND, nullptr));
  MOSE_TRY(do_mount("tmpfs", root + "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"));
  MOSE_TRY(do_mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
  MOSE_TRY(do_mount("sysfs", root + "/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  MOSE_TRY(do_mount("tmpfs", root + "/sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755"));
  // The whole hierarchy at one place: a path of a cgroup means the same on the host, in the node and in /proc/PID/cgroup.
  MOSE_TRY(make_directory(root + kCgroupInNode));
  MOSE_TRY(do_mount("cgroup2", root + kCgroupInNode, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr));
  // Every mount of bpffs is an instance of its own: pins of one node are not seen on the other, and go with it.
  MOSE_TRY(do_mount("bpf", root + "/sys/fs/bpf", "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700"));
  // Kernels without tracing have no such directory; MOSE's probes say what is lost.
  auto ignored = do_mount("tracefs", root + "/sys/kernel/tracing", "tracefs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  return {};
}

Status enter_root(const std::string& root) {
  if (::chdir(root.c_str()) != 0) return fail_errno("chdir " + root);
  // The old root is stacked on the new one and detached: no directory for it is needed.
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return fail_errno("pivot_root");
  if (::umount2(".", MNT_DETACH) != 0) return fail_errno("umount the old root");
  if (::chdir("/") != 0) return fail_errno("chdir /");
  return do_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
}

// Pid 1 of the node until it has become the keeper.
Status become_keeper(const std::string& root, const std::string& node) {
  ::setsid();
  MOSE_TRY(mount_node(root));
  if (::sethostname(node.c_str(), node.size()) != 0) return fail_errno("sethostname");
  MOSE_TRY(enter_root(root));
  int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return fail_errno("open /dev/null in the node");
  for (int fd : {0, 1, 2}) ::dup2(null, fd);
  // Not ours to close: those that our own starter left open (a lock of flock, say), which the node would hold as long as it lives.
  if (::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) != 0) return fail_errno("close_range");
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  char* argv[] = {const_cast<char*>("mose-lab-keeper"), nullptr};
  char* envp[] = {const_cast<char*>("PATH=/usr/sbin:/usr/bin:/sbin:/bin"), nullptr};
  ::execve(kKeeperPath, argv, envp);
  return fail_errno(std::string("start ") + kKeeperPath);
}

struct Report {
  Fd read, write;
};

// The parent of pid 1: lives only until that has become the keeper, and dies with us before that.
[[noreturn]] void make_node(const Names& names, const std::string& node, const std::string& cgroup, int report) {
  auto body = [&]() -> Status {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    MOSE_TRY(write_control(cgroup + "/cgroup.procs", "0"));
    MOSE_ASSIGN(auto net, Place::of_netns(names.netns_path(node)));
    MOSE_TRY(net.enter());
    if (::unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC) != 0) return fail_errno("unshare");
    pid_t first = ::fork();
    if (first < 0) return fail_errno("fork");
    if (first == 0) return become_keeper(names.node_root(node), node);
    return write_all(report, "pid " + std::to_string(first) + "\n");
  };
  auto status = body();
  if (!status) auto ignored = write_all(report, "error " + status.error().what + "\n");
  ::_exit(status ? 0 : 1);
}

}  // namespace

std::string system_cgroup(const std::string& cgroup_mount, const Names& names, const std::string& node) {
  return cgroup_mount + "/" + names.node_cgroup(node) + "/system";
}

Result<ProcessRecord> start_keeper(const Names& names, const std::string& node, const std::string& cgroup_mount) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd read(fds[0]), write(fds[1]);
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) make_node(names, node, system_cgroup(cgroup_mount, names, node), write.get());
  write.reset();
  // Ends when the keeper has been exec'ed or has failed.
  auto text = read_all(read.get(), 64u << 10);
  while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (!text) return std::unexpected(text.error());
  if (size_t at = text->find("error "); at != std::string::npos) {
    return fail("node " + node + ": " + text->substr(at + 6, text->find('\n', at) - at - 6));
  }
  if (!text->starts_with("pid ")) return fail("node " + node + " did not start");
  MOSE_ASSIGN(auto keeper, ProcessHandle::open(std::atoi(text->c_str() + 4)));
  return ProcessRecord{keeper.pid(), keeper.start_time()};
}

Result<ProcessHandle> open_record(const ProcessRecord& record) {
  return ProcessHandle::open_same(record.pid, record.start_time);
}

bool is_alive(const ProcessRecord& record) {
  auto handle = open_record(record);
  return handle && handle->alive();
}

Result<NodePlace> open_node(const LabState& state, const std::string& node) {
  auto record = state.keepers.find(node);
  if (record == state.keepers.end() || !is_alive(record->second)) {
    return fail_errno("node " + node + " of lab " + state.lab + " does not run", ESRCH);
  }
  NodePlace out;
  MOSE_ASSIGN(out.place, Place::of_process(record->second.pid));
  out.cgroup = state.cgroup + "/" + node + "/system";
  out.root = "/proc/" + std::to_string(record->second.pid) + "/root";
  return out;
}

}  // namespace mose::lab
