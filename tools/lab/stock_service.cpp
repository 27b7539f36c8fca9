// SPDX-License-Identifier: MIT
#include "lab/stock_service.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "kernel/process.h"
#include "lab/child_process.h"
#include "lab/image_copy.h"
#include "lab/names.h"
#include "lab/topology.h"

namespace mose::lab {
namespace {

constexpr const char* kDirectory = "/run/stock";
constexpr const char* kImages = "/run/stock/images";
constexpr const char* kRoot = "/run/stock/root";
constexpr const char* kKernelCache = "/run/criu.kdat";  // what CRIU has found out of the kernel
constexpr const char* kPidFile = "/run/stock/restored.pid";
constexpr const char* kHostEnd = "stock0";
constexpr const char* kServiceMac = "02:4d:6f:00:01:65";
constexpr int kNetFd = 20;  // number of the network namespace's descriptor in `criu restore`
constexpr const char* kLazySocket = "lazy-pages.socket";  // as CRIU binds it, in its working directory
constexpr Nanoseconds kCheckBound = std::chrono::minutes(1);
constexpr Nanoseconds kKillBound = std::chrono::seconds(10);

Status run_ip_here(const Place* place, const std::string& batch) {
  ProgramSpec spec;
  spec.argv = {"ip", "-batch", "-"};
  spec.place = place;
  MOSE_ASSIGN(auto result, run_program(spec, batch, kKillBound));
  if (result.exit_code == 0) return {};
  return fail("ip: " + result.err);
}

Status make_empty(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (!error) std::filesystem::create_directories(path, error);
  if (error) return fail_errno("mkdir " + path, error.value());
  return {};
}

// A network namespace and a veth pair into it; the child holds the namespace while we make the pair.
Result<Fd> make_network() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd read(fds[0]), write(fds[1]);
  pid_t holder = ::fork();
  if (holder < 0) return fail_errno("fork");
  if (holder == 0) {
    read.reset();
    char byte = ::unshare(CLONE_NEWNET) == 0 && prepare_netns() ? '+' : '-';
    if (::write(write.get(), &byte, 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  write.reset();
  char byte = '-';
  auto make = [&]() -> Result<Fd> {
    if (::read(read.get(), &byte, 1) != 1 || byte != '+') return fail("no network namespace for the baseline");
    std::string pid = std::to_string(holder);
    MOSE_TRY(run_ip_here(nullptr, std::string("link add name ") + kHostEnd + " type veth peer name eth0 address " +
                                      kServiceMac + " netns " + pid + "\n"));
    return open_file("/proc/" + pid + "/ns/net", O_RDONLY);
  };
  auto net = make();
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  return net;
}

// First process of the service until it has become its program: only "/" and /proc in its mount namespace.
Status become_service(const std::vector<std::string>& command) {
  ::setsid();
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return fail_errno("mount / private");
  if (::chdir(kRoot) != 0) return fail_errno("chdir to the root");
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return fail_errno("pivot_root");
  if (::umount2(".", MNT_DETACH) != 0) return fail_errno("umount the old root");
  if (::chdir("/") != 0 || ::mount("proc", "/proc", "proc", 0, nullptr) != 0) return fail_errno("mount /proc");
  // Opened inside: CRIU looks up every open file in the mount namespace of the service.
  int null = ::open("/dev/null", O_RDWR);
  if (null < 0) return fail_errno("open /dev/null");
  for (int fd : {0, 1, 2}) ::dup2(null, fd);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& a : command) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  char* envp[] = {const_cast<char*>("PATH=/usr/bin:/bin"), nullptr};
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  ::execve(argv[0], argv.data(), envp);
  return fail_errno("start " + command[0]);
}

}  // namespace

Status StockService::prepare(const std::string& peer) {
  if (::access(kRoot, F_OK) != 0) {
    MOSE_TRY(make_empty(kDirectory));
    MOSE_TRY(make_empty(kRoot));
    if (::mount("/", kRoot, nullptr, MS_BIND, nullptr) != 0) return fail_errno("bind the root");
    // Warms the kernel-feature cache in /run; its verdict on features that are not used here does not matter.
    made_cache_ = ::access(kKernelCache, F_OK) != 0;
    ProgramSpec check;
    check.argv = {stock_criu_path(), "check"};
    MOSE_ASSIGN(auto ignored, run_program(check, "", kCheckBound));
  }
  MOSE_TRY(make_empty(kImages));
  MOSE_ASSIGN(net_, make_network());
  struct stat info;
  if (::fstat(net_.get(), &info) != 0) return fail_errno("fstat");
  net_inode_ = info.st_ino;
  Place place;
  MOSE_ASSIGN(place.net, duplicate(net_.get()));
  std::string client = std::string(kClientAddress) + " lladdr " + kClientMac;
  MOSE_TRY(run_ip_here(&place, std::string("addr add ") + kStockAddress + "/" + kPrefixLength +
                                   " dev eth0\nlink set eth0 up\nneigh add " + client + " dev eth0 nud permanent\n"));
  // CRIU's page server takes the host's congestion control, and bbr makes it several times slower between two nodes of
  // one rack: the same as what carries MOSE's pages.
  MOSE_TRY(run_ip_here(nullptr, std::string("link set ") + kHostEnd + " master " + kBridge + " up\nroute replace " + peer + " dev " +
                                    kBridge + " congctl cubic\n"));
  peer_ = peer;
  MOSE_ASSIGN(listener_, listen_for_images());
  return {};
}

Status StockService::launch(const std::vector<std::string>& command) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return fail_errno("pipe2");
  Fd read(fds[0]), write(fds[1]);
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    Status status;
    if (::setns(net_.get(), CLONE_NEWNET) != 0) status = fail_errno("setns");
    if (status && ::unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) != 0) status = fail_errno("unshare");
    pid_t first = status ? ::fork() : -1;
    if (first == 0) status = become_service(command);
    (void)write_all(write.get(), first > 0 ? "pid " + std::to_string(first) + "\n" : "error " + status.error().what);
    ::_exit(0);
  }
  write.reset();
  MOSE_ASSIGN(std::string text, read_all(read.get(), 64u << 10));
  ::waitpid(child, nullptr, 0);
  if (size_t at = text.find("error "); at != std::string::npos) return fail(text.substr(at + 6));
  pid_ = text.starts_with("pid ") ? std::atoi(text.c_str() + 4) : 0;
  if (pid_ <= 0) return fail("the service did not start");
  return activate();
}

CriuCall StockService::dump_call() const {
  const std::string log = std::string(kImages) + "/dump.log";
  return {{"dump", "-t", std::to_string(pid_), "-D", kImages, "-o", log, "-v1", "--tcp-established", "--manage-cgroups=ignore",
           "--file-validation", "filesize", "--external", "net[" + std::to_string(net_inode_) + "]:extnet", "--network-lock",
           "nftables"},
          log,
          {}};
}

Status StockService::dump() {
  MOSE_TRY(run_criu(dump_call()));
  pid_ = 0;
  return {};
}

Status StockService::dump_lazily() {
  CriuCall call = dump_call();
  call.arguments.insert(call.arguments.end(), {"--lazy-pages", "--address", "0.0.0.0", "--port", kStockPagePort});
  MOSE_ASSIGN(page_server_, BackgroundCriu::start(std::move(call)));
  return page_server_.wait_ready();
}

Status StockService::send_images(const std::string& address) { return lab::send_images(kImages, address); }
Status StockService::receive_images() { return lab::receive_images(listener_.get(), kImages); }

CriuCall StockService::restore_call() const {
  const std::string log = std::string(kImages) + "/restore.log";
  return {{"restore", "-D", kImages, "-o", log, "-v1", "-d", "--tcp-established", "--manage-cgroups=ignore", "--file-validation",
           "filesize", "--inherit-fd", "fd[" + std::to_string(kNetFd) + "]:extnet", "--root", kRoot, "--pidfile", kPidFile,
           "--network-lock", "nftables"},
          log,
          {{net_.get(), kNetFd}}};
}

Status StockService::restore_by(const CriuCall& call) {
  ::unlink(kPidFile);
  MOSE_TRY(run_criu(call));
  MOSE_ASSIGN(std::string pid, read_file(kPidFile));
  pid_ = std::atoi(pid.c_str());
  if (pid_ <= 0) return fail("criu restore wrote no pid");
  return {};
}

Status StockService::restore() { return restore_by(restore_call()); }

Status StockService::restore_lazily(const std::string& source) {
  const std::string log = std::string(kImages) + "/lazy-pages.log";
  MOSE_ASSIGN(lazy_pages_, BackgroundCriu::start({{"lazy-pages", "--page-server", "--address", source, "--port", kStockPagePort, "-D", kImages,
                                                   "-o", log, "-v1"},
                                                  log,
                                                  {}}));
  MOSE_TRY(lazy_pages_.wait_listening(kLazySocket));
  CriuCall call = restore_call();
  call.arguments.emplace_back("--lazy-pages");
  return restore_by(call);
}

Status StockService::finish() {
  if (lazy_pages_) return lazy_pages_.wait_ended();
  if (!page_server_) return {};
  MOSE_TRY(page_server_.wait_ended());
  pid_ = 0;  // it has killed the tree
  return {};
}

Status StockService::activate() {
  return in_net_announce(net_.get(), kStockAddress, kServiceMac);
}

Status StockService::retire() {
  // The pair goes with either end; CRIU's lock in nftables goes with the namespace.
  auto status = run_ip_here(nullptr, std::string("link del ") + kHostEnd + "\n");
  net_.reset();
  listener_.reset();
  return status;
}

Status StockService::stop() {
  lazy_pages_ = {};
  page_server_ = {};
  if (pid_ <= 0) return {};
  auto process = ProcessHandle::open(pid_);
  pid_ = 0;
  if (process) {
    auto killed = process->signal(SIGKILL);
    MOSE_TRY(process->wait_ended(kKillBound));
  }
  return net_ ? retire() : Status{};
}

void StockService::forget() {
  if (!peer_.empty()) (void)run_ip_here(nullptr, "route del " + peer_ + " dev " + kBridge + "\n");
  ::umount2(kRoot, MNT_DETACH);
  if (::rmdir(kRoot) != 0 && errno != ENOENT) return;  // it is the node's own root that is still there
  std::error_code ignored;
  std::filesystem::remove_all(kDirectory, ignored);
  if (made_cache_) ::unlink(kKernelCache);
}

uint64_t StockService::image_bytes() const {
  uint64_t sum = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kImages, error)) sum += entry.file_size(error);
  return sum;
}

}  // namespace mose::lab
