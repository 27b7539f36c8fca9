// SPDX-License-Identifier: MIT
// mose-exec: enters namespaces, joins a cgroup and arranges mounts, then becomes another program. The agent has many
// threads and never changes a namespace of its own; everything that must happen between fork and exec happens here, in a
// process with one thread. With --workload it makes a new workload instead (see run_workload), with --canary it is the
// process of the agent's self-test.
//
// Nothing is undone on failure: namespaces and mounts made here end with this process. Exit status 125 and one sentence
// on standard error name the step that failed.

#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr int kExitFailed = 125;
constexpr int kCloneNewTime = 0x80;
constexpr int kCapPerfmon = 38, kCapBpf = 39, kCapCheckpointRestore = 40;  // younger than some headers
constexpr int kErrorFd = 511;  // standard error as we got it, also after it has become the workload's log

struct Bind {
  std::string source, target;
  bool read_only = false;
  int tree = -1;  // detached clone of the source mount
};

struct Options {
  int net = -1, ipc = -1, uts = -1, time = -1, mnt = -1, cgroup = -1, send_mounts = -1, pid_fd = -1;
  bool private_mounts = false, workload = false, root_ro = false, all_capabilities = false;
  std::vector<std::string> tmpfs, environment;
  std::vector<Bind> binds;
  int death_signal = 0;
  long parent = 0;
  std::string directory, root, log;
  char** command = nullptr;
};

int failure_fd = -1;  // the workload's first process tells its launcher here that it could not start

[[noreturn]] void fail_text(const std::string& text) {
  std::string line = "mose-exec: " + text + "\n";
  bool told = ::write(kErrorFd, line.data(), line.size()) >= 0;
  if (failure_fd >= 0 && ::write(failure_fd, "f", 1) < 0) told = false;
  ::_exit(told ? kExitFailed : kExitFailed + 1);
}

[[noreturn]] void fail(const std::string& step) { fail_text(step + ": " + std::strerror(errno)); }

int number(const char* text, const char* option) {
  char* end = nullptr;
  errno = 0;
  long value = std::strtol(text, &end, 10);
  if (errno || *end || end == text || value < 0 || value > INT_MAX)
    fail_text(std::string(option) + " needs a number, not \"" + text + "\"");
  return static_cast<int>(value);
}

enum Option {
  kNet = 1000, kIpc, kUts, kTime, kMnt, kCgroup, kSendMounts, kPidFd, kPrivate, kWorkload, kRootRo, kTmpfs, kEnv, kBind,
  kBindRo, kDeathSignal, kParent, kChdir, kRoot, kLog, kAllCapabilities,
};

constexpr option kOptions[] = {
    {"net-fd", required_argument, nullptr, kNet},
    {"ipc-fd", required_argument, nullptr, kIpc},
    {"uts-fd", required_argument, nullptr, kUts},
    {"time-fd", required_argument, nullptr, kTime},
    {"mnt-fd", required_argument, nullptr, kMnt},
    {"cgroup-fd", required_argument, nullptr, kCgroup},
    {"send-mounts-fd", required_argument, nullptr, kSendMounts},
    {"pid-fd", required_argument, nullptr, kPidFd},
    {"private-mounts", no_argument, nullptr, kPrivate},
    {"workload", no_argument, nullptr, kWorkload},
    {"root-ro", no_argument, nullptr, kRootRo},
    {"tmpfs", required_argument, nullptr, kTmpfs},
    {"env", required_argument, nullptr, kEnv},
    {"bind", required_argument, nullptr, kBind},        // --bind SOURCE TARGET
    {"bind-ro", required_argument, nullptr, kBindRo},
    {"pdeathsig", required_argument, nullptr, kDeathSignal},
    {"parent", required_argument, nullptr, kParent},
    {"chdir", required_argument, nullptr, kChdir},
    {"root", required_argument, nullptr, kRoot},
    {"log", required_argument, nullptr, kLog},
    {"all-capabilities", no_argument, nullptr, kAllCapabilities},
    {nullptr, 0, nullptr, 0},
};

Options parse(int argc, char** argv) {
  Options o;
  for (int c; (c = ::getopt_long(argc, argv, "+", kOptions, nullptr)) != -1;) {
    switch (c) {
      case kNet: o.net = number(optarg, "--net-fd"); break;
      case kIpc: o.ipc = number(optarg, "--ipc-fd"); break;
      case kUts: o.uts = number(optarg, "--uts-fd"); break;
      case kTime: o.time = number(optarg, "--time-fd"); break;
      case kMnt: o.mnt = number(optarg, "--mnt-fd"); break;
      case kCgroup: o.cgroup = number(optarg, "--cgroup-fd"); break;
      case kSendMounts: o.send_mounts = number(optarg, "--send-mounts-fd"); break;
      case kPidFd: o.pid_fd = number(optarg, "--pid-fd"); break;
      case kPrivate: o.private_mounts = true; break;
      case kWorkload: o.workload = true; break;
      case kRootRo: o.root_ro = true; break;
      case kTmpfs: o.tmpfs.emplace_back(optarg); break;
      case kEnv: o.environment.emplace_back(optarg); break;
      case kBind:
      case kBindRo:
        if (optind >= argc) fail_text("--bind needs SOURCE and TARGET");
        o.binds.push_back({optarg, argv[optind++], c == kBindRo});
        break;
      case kDeathSignal: o.death_signal = number(optarg, "--pdeathsig"); break;
      case kParent: o.parent = number(optarg, "--parent"); break;
      case kChdir: o.directory = optarg; break;
      case kRoot: o.root = optarg; break;
      case kLog: o.log = optarg; break;
      case kAllCapabilities: o.all_capabilities = true; break;
      default: fail_text("unknown option");
    }
  }
  if (optind >= argc) fail_text("no program given");
  o.command = argv + optind;
  if (o.workload && o.root.empty()) fail_text("--workload needs --root");
  return o;
}

void die_with_parent(const Options& o) {
  if (o.death_signal == 0) return;
  if (::prctl(PR_SET_PDEATHSIG, o.death_signal) < 0) fail("ask for a signal at the parent's death");
  // It may have died before we asked; then nobody would ever tell us.
  if (o.parent != 0 && ::getppid() != o.parent) fail_text("the parent has died already");
}

// A detached clone of one mount (not of those below it), private so that nothing propagates from or to the host.
int clone_mount(const std::string& path, bool read_only) {
  int tree = ::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (tree < 0) fail("open mount source " + path);
  mount_attr attributes{};
  attributes.propagation = MS_PRIVATE;
  if (read_only) attributes.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0) fail("prepare mount of " + path);
  return tree;
}

void open_binds(Options& o) {
  for (Bind& bind : o.binds) bind.tree = clone_mount(bind.source, bind.read_only);
}

void join_cgroup(const Options& o) {
  if (o.cgroup < 0) return;
  int fd = ::openat(o.cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || ::write(fd, "0", 1) != 1) fail("join the cgroup");
  ::close(fd);
}

void enter(int fd, int type, const char* name) {
  if (fd >= 0 && ::setns(fd, type) < 0) fail(std::string("enter the ") + name + " namespace");
}

void enter_namespaces(const Options& o) {
  enter(o.net, CLONE_NEWNET, "net");
  enter(o.ipc, CLONE_NEWIPC, "ipc");
  enter(o.uts, CLONE_NEWUTS, "uts");
  enter(o.time, kCloneNewTime, "time");
  enter(o.mnt, CLONE_NEWNS, "mount");
}

void make_private() {
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) fail("make mounts private");
}

void make_target(const std::string& path, bool directory) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
    std::string part = path.substr(0, at);
    if (::mkdir(part.c_str(), 0755) < 0 && errno != EEXIST) fail("make " + part);
  }
  if (directory) {
    if (::mkdir(path.c_str(), 0755) < 0 && errno != EEXIST) fail("make " + path);
    return;
  }
  int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail("make " + path);
  ::close(fd);
}

bool is_directory(int fd) {
  struct stat st{};
  if (::fstat(fd, &st) < 0) fail("look at a mount source");
  return S_ISDIR(st.st_mode);
}

void attach(const Bind& bind, int target, const char* path, unsigned flags) {
  if (::move_mount(bind.tree, "", target, path, MOVE_MOUNT_F_EMPTY_PATH | flags) < 0)
    fail("mount " + bind.source + " on " + bind.target);
}

void send_mount_namespace(int socket) {
  int fd = ::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open the mount namespace");
  char byte = 1;
  iovec data{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) != 1) fail("send the mount namespace");
  ::close(fd);
  ::close(socket);
}

// Helper descriptors must not reach the program: all that were given for ourselves.
void close_own(const Options& o) {
  for (int fd : {o.net, o.ipc, o.uts, o.time, o.mnt, o.cgroup}) {
    if (fd >= 0) ::close(fd);
  }
}

[[noreturn]] void run_program(Options& o) {
  open_binds(o);
  join_cgroup(o);
  enter_namespaces(o);
  if (o.private_mounts) {
    if (::unshare(CLONE_NEWNS) < 0) fail("make a mount namespace");
    make_private();
  } else if (!o.tmpfs.empty() || !o.binds.empty()) {
    fail_text("mounts need --private-mounts");
  }
  for (const std::string& path : o.tmpfs) {
    if (::mount("tmpfs", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700") < 0) fail("mount tmpfs on " + path);
  }
  for (const Bind& bind : o.binds) {
    make_target(bind.target, is_directory(bind.tree));
    attach(bind, AT_FDCWD, bind.target.c_str(), 0);
  }
  if (o.send_mounts >= 0) send_mount_namespace(o.send_mounts);
  close_own(o);
  if (!o.directory.empty() && ::chdir(o.directory.c_str()) < 0) fail("change to " + o.directory);
  ::execv(o.command[0], o.command);
  fail(std::string("execute ") + o.command[0]);
}

// A path of the workload, resolved as the workload will: no link in its root leads outside.
int open_in_root(int root, const std::string& path) {
  struct {
    uint64_t flags, mode, resolve;
  } how{O_PATH | O_CLOEXEC, 0, 0x10 /* RESOLVE_IN_ROOT */};
  return static_cast<int>(::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how));
}

// Capabilities by which root in a workload would reach the node in spite of its namespaces: take mounts away or make them, open files by
// handle (past all mounts), disks and other devices by nodes of its own, the kernel's memory, its programs and its clock.
constexpr int kNodesAlone[] = {
    CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH, CAP_MKNOD, CAP_SYS_RAWIO, CAP_SYS_MODULE, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_SYSLOG, CAP_SYS_PACCT,
    CAP_SYS_TTY_CONFIG, CAP_AUDIT_CONTROL, CAP_AUDIT_READ, CAP_MAC_ADMIN, CAP_MAC_OVERRIDE, CAP_LINUX_IMMUTABLE, CAP_WAKE_ALARM,
    CAP_BLOCK_SUSPEND, kCapPerfmon, kCapBpf, kCapCheckpointRestore,
};

// Neither its program nor what that executes gets them.
void leave_capabilities() {
  for (int capability : kNodesAlone) {
    // EINVAL: younger than the kernel.
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL) fail("give up capabilities");
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (::syscall(SYS_capget, &header, sets) < 0) fail("read the capabilities");
  sets[0].inheritable = sets[1].inheritable = 0;
  if (::syscall(SYS_capset, &header, sets) < 0) fail("give up inheritable capabilities");
}

// The agent is to be the last that is ended for lack of memory; what it starts is not. Where somebody else has set a floor it stays so.
void be_ended_like_others() {
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t written = ::write(fd, "0", 1);
  ::close(fd);
}

// Whoever is root may set the node's kernel by the files in there, without any capability: name a program that it runs as root outside
// (core_pattern), stop it (sysrq-trigger), move its interrupts. So nothing in it can be written, not a list of what is known to be dangerous:
// other kernels have other files, and a mount over one that the next node lacks could not be restored. The flag is the mount's, not the file
// system's: CRIU dumps and restores it at no cost, and the kernel keeps it locked in user namespaces and for every other /proc made in one.
void mount_proc(bool read_only) {
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount("proc", "/proc", "proc", kFlags, nullptr) < 0) fail("mount /proc");
  if (!read_only) return;
  if (::mount(nullptr, "/proc", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr) < 0) fail("make /proc read-only");
}

// Inside the new pid and mount namespaces. What is left when the command starts: the root, the declared mounts, /proc.
[[noreturn]] void become_workload(Options& o, Bind& root) {
  if (::setsid() < 0) fail("start a session");
  make_private();
  // "/" itself names the mount below whatever is attached to it: the new root then needs another place to stand.
  const std::string place = o.root == "/" ? "/proc" : o.root;
  attach(root, AT_FDCWD, place.c_str(), 0);
  if (::chdir(place.c_str()) < 0) fail("change to " + place);
  int here = ::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (here < 0) fail("open " + o.root);
  for (const Bind& bind : o.binds) {
    int target = open_in_root(here, bind.target);
    if (target < 0) fail("mount point " + bind.target + " in the workload's root");
    attach(bind, target, "", MOVE_MOUNT_T_EMPTY_PATH);
    ::close(target);
  }
  if (::syscall(SYS_pivot_root, ".", ".") < 0) fail("pivot to " + o.root);
  if (::umount2(".", MNT_DETACH) < 0) fail("leave the old root");
  if (::chdir("/") < 0) fail("change to /");
  mount_proc(!o.all_capabilities);

  // Opened inside, so that CRIU finds their mounts in the workload's namespace.
  ::umask(022);
  int input = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (input < 0) fail("open /dev/null in the workload's root (a device node made there is needed)");
  int output = o.log.empty() ? input : ::open(o.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0) fail("open the log " + o.log);
  if (::dup2(input, 0) < 0 || ::dup2(output, 1) < 0 || ::dup2(output, 2) < 0) fail("set standard input and output");
  if (::syscall(SYS_close_range, 3u, ~0u, 1u << 2 /* CLOSE_RANGE_CLOEXEC */) < 0) fail("close descriptors");
  if (::chdir(o.directory.empty() ? "/" : o.directory.c_str()) < 0) fail("change to " + o.directory);
  std::vector<char*> environment;
  environment.reserve(o.environment.size() + 1);
  for (std::string& entry : o.environment) environment.push_back(entry.data());
  environment.push_back(nullptr);
  if (!o.all_capabilities) leave_capabilities();
  ::execve(o.command[0], o.command, environment.data());
  fail(std::string("execute ") + o.command[0] + " in the workload's root");
}

// The launcher stays until the command has been exec'ed, writes the number of the workload's first process and ends, so
// that the workload is nobody's child whose death could touch it.
int run_workload(Options& o) {
  be_ended_like_others();
  open_binds(o);
  Bind root{o.root, "/", o.root_ro, clone_mount(o.root, o.root_ro)};
  join_cgroup(o);
  enter_namespaces(o);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) fail("make a pipe");
  if (::unshare(CLONE_NEWPID | CLONE_NEWNS) < 0) fail("make pid and mount namespaces");
  pid_t child = ::fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    ::close(ends[0]);
    failure_fd = ends[1];
    become_workload(o, root);
  }
  ::close(ends[1]);
  char byte;
  ssize_t n;
  do {
    n = ::read(ends[0], &byte, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 0) {  // end of file means that exec has closed the other end
    ::waitpid(child, nullptr, 0);
    return kExitFailed;
  }
  std::string text = std::to_string(child) + "\n";
  if (o.pid_fd >= 0 && ::write(o.pid_fd, text.data(), text.size()) < 0) fail("report the process number");
  return 0;
}

// The process that the agent's self-test dumps: holds memory that only this process knows, says so, and on SIGUSR1
// checks it and says the result. Standard output is a file that the agent reads.
int run_canary() {
  constexpr size_t kBytes = 8u << 20;
  auto* memory = static_cast<uint64_t*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) return 1;
  constexpr size_t kWords = kBytes / sizeof(uint64_t);
  for (size_t i = 0; i < kWords; ++i) memory[i] = i * 0x9e3779b97f4a7c15ull + 1;
  sigset_t asked;
  sigemptyset(&asked);
  sigaddset(&asked, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &asked, nullptr);
  if (::write(1, "ready\n", 6) < 0) return 1;
  while (::sigwaitinfo(&asked, nullptr) < 0) {
  }
  bool intact = true;
  for (size_t i = 0; i < kWords; ++i) intact = intact && memory[i] == i * 0x9e3779b97f4a7c15ull + 1;
  return ::write(1, intact ? "intact\n" : "damaged\n", intact ? 7 : 8) < 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--canary") == 0) return run_canary();
  if (::dup3(2, kErrorFd, O_CLOEXEC) < 0) return kExitFailed;
  Options o = parse(argc, argv);
  die_with_parent(o);
  if (!o.workload) run_program(o);
  return run_workload(o);
}
