// SPDX-License-Identifier: MIT
#include "bed.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/fd.h"
#include "kernel/cgroup.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

[[noreturn]] void broken(const std::string& what) {
  skip_process("cannot make the test's node: " + what);
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

pid_t spawn_program(const std::vector<std::string>& arguments, const std::vector<std::pair<int, int>>& fds,
                    const std::vector<std::string>& environment) {
  std::vector<char*> argv, envp;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  for (char** entry = environ; *entry != nullptr; ++entry) envp.push_back(*entry);
  for (const std::string& entry : environment) envp.push_back(const_cast<char*>(entry.c_str()));
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (auto [ours, theirs] : fds) posix_spawn_file_actions_adddup2(&actions, ours, theirs);
  pid_t pid = 0;
  int code = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  return code == 0 ? pid : -1;
}

void must(const std::vector<std::string>& arguments) {
  Output output = run_program(arguments);
  if (output.exit_code != 0) broken(arguments[0] + " " + arguments[1] + ": " + output.error);
}

}  // namespace

Output run_program(const std::vector<std::string>& arguments, Nanoseconds bound) {
  int out[2], err[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) return {};
  Fd out_reader(out[0]), out_writer(out[1]), err_reader(err[0]), err_writer(err[1]);
  pid_t pid = spawn_program(arguments, {{out_writer.get(), 1}, {err_writer.get(), 2}}, {});
  out_writer.reset();
  err_writer.reset();
  Output output;
  if (pid < 0) return output;
  Timestamp deadline = now() + bound;
  pollfd items[2] = {{out_reader.get(), POLLIN, 0}, {err_reader.get(), POLLIN, 0}};
  std::string* targets[2] = {&output.out, &output.error};
  while (items[0].fd >= 0 || items[1].fd >= 0) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0 || poll(items, 2, static_cast<int>(left)) == 0) {
      kill(pid, SIGKILL);
      break;
    }
    for (int i = 0; i < 2; ++i) {
      if (items[i].revents == 0) continue;
      char buffer[4096];
      ssize_t count = read(items[i].fd, buffer, sizeof buffer);
      if (count <= 0)
        items[i].fd = -1;
      else
        targets[i]->append(buffer, static_cast<size_t>(count));
    }
  }
  int status = 0;
  waitpid(pid, &status, 0);
  output.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return output;
}

AgentBed::AgentBed(const std::string& name, const std::string& programs) : directory_("/tmp/mose-test-" + name) {
  if (geteuid() != 0) skip_process("needs root");
  if (access("/usr/bin/redis-server", X_OK) != 0) skip_process("needs redis-server");
  auto mount_point = cgroup_mount();
  if (!mount_point) skip_process("needs cgroup version 2");
  cgroup_ = *mount_point + "/mose-test-" + name;
  const std::string built = fs::read_symlink("/proc/self/exe").parent_path();
  bin_ = programs.empty() ? built : programs;
  clean();
  // Workloads that outlive a killed agent become ours, so that clean() can wait for them.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0) broken("unshare");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) broken("private mounts");
  if (mount("bpf", "/sys/fs/bpf", "bpf", 0, nullptr) != 0) broken("bpf file system");
  fs::create_directories(directory_);
  if (mount("tmpfs", directory_.c_str(), "tmpfs", 0, "mode=755") != 0) broken("tmpfs");
  must({"ip", "link", "set", "lo", "up"});
  must({"ip", "link", "add", "br0", "type", "bridge"});
  must({"ip", "link", "set", "br0", "up"});
  must({"ip", "addr", "add", "192.0.2.1/24", "dev", "br0"});
  make_root(built + "/mose-init");
}

AgentBed::~AgentBed() {
  kill_agent();
  clean();
}

void AgentBed::clean() {
  std::error_code ignored;
  if (fs::exists(cgroup_)) {
    for (const auto& item : fs::directory_iterator(cgroup_, ignored)) {
      if (!item.is_directory()) continue;
      if (auto group = Cgroup::open(item.path())) {
        (void)group->kill();
        (void)group->thaw();
        (void)group->remove(5s);
      }
    }
    if (auto group = Cgroup::open(cgroup_)) (void)group->remove(5s);
  }
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
  umount2(directory_.c_str(), MNT_DETACH);
  fs::remove_all(directory_, ignored);
}

// What a root needs: the programs with what they load, process 1, a few devices, and places to mount on.
void AgentBed::make_root(const std::string& init) {
  for (const char* path : {"/proc", "/dev", "/tmp", "/data", "/var/log/mose-workload", "/usr/libexec/mose", "/usr/bin",
                           "/bin", "/empty"}) {
    fs::create_directories(root() + path);
  }
  fs::copy_file(init, root() + "/usr/libexec/mose/mose-init");
  auto copy = [&](const std::string& path) {
    fs::create_directories(fs::path(root() + path).parent_path());
    fs::copy_file(path, root() + path, fs::copy_options::overwrite_existing);
  };
  for (const char* program : {"/usr/bin/redis-server", "/bin/sh", "/bin/sleep"}) {
    copy(program);
    std::istringstream lines(run_program({"ldd", program}).out);
    for (std::string word; lines >> word;) {
      if (word.front() == '/') copy(word);
    }
  }
  must({"mknod", "-m", "666", root() + "/dev/null", "c", "1", "3"});
  must({"mknod", "-m", "666", root() + "/dev/urandom", "c", "1", "9"});
}

std::string AgentBed::configuration() const {
  return fmt::format(
      "[node]\nname = \"a\"\nlisten = \"127.0.0.1:7946\"\nbridge = \"br0\"\ncgroup = \"{}\"\nstate_dir = "
      "\"{}/state\"\nruntime_dir = \"{}/run\"\n"
      "workloads_dir = \"{}/workloads.d\"\n[log]\nlevel = \"debug\"\n[tls]\nplain_text = true\n[peers.b]\naddress = \"192.0.2.200:7946\"\n",
      cgroup_, directory_, directory_, directory_);
}

std::string AgentBed::agent_log() const {
  return slurp(directory_ + "/mosed.log");
}

void AgentBed::start_agent(const std::string& more) {
  start_agent_with(configuration() + more);
}

void AgentBed::start_agent_with(const std::string& configuration_text) {
  std::string config = directory_ + "/mose.toml";
  std::ofstream(config) << configuration_text;
  // A service manager's socket, to learn when it is ready.
  std::string notify = directory_ + "/notify.sock";
  unlink(notify.c_str());
  Fd manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  notify.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(manager.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  auto log = open_file(directory_ + "/mosed.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
  ASSERT_TRUE(log);
  agent_ = spawn_program({bin_ + "/mosed", "--config", config}, {{log->get(), 1}, {log->get(), 2}},
                         {"NOTIFY_SOCKET=" + notify});
  ASSERT_GT(agent_, 0);
  pollfd item{manager.get(), POLLIN, 0};
  ASSERT_EQ(poll(&item, 1, 20000), 1) << "mosed did not become ready:\n" << agent_log();
  char text[256] = "";
  ASSERT_GT(recv(manager.get(), text, sizeof text - 1, 0), 0);
  EXPECT_TRUE(std::string(text).starts_with("READY=1")) << text;
}

void AgentBed::terminate_agent() {
  ASSERT_GT(agent_, 0);
  kill(agent_, SIGTERM);
  int status = 0;
  ASSERT_EQ(waitpid(agent_, &status, 0), agent_);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status << "\n" << agent_log();
  agent_ = 0;
}

void AgentBed::kill_agent() {
  if (agent_ <= 0) return;
  kill(agent_, SIGKILL);
  waitpid(agent_, nullptr, 0);
  agent_ = 0;
}

Output AgentBed::mose(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {bin_ + "/mose", "--socket", socket()});
  return run_program(arguments);
}

Output AgentBed::mosed_once(const std::string& text) {
  std::string path = directory_ + "/once.toml";
  std::ofstream(path) << text;
  return run_program({bin_ + "/mosed", "--config", path}, 10s);
}

bool redis_answers(const std::string& host, Nanoseconds bound) {
  for (Timestamp deadline = now() + bound; now() < deadline; std::this_thread::sleep_for(20ms)) {
    Fd connection(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval timeout{1, 0};
    setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(6379);
    inet_pton(AF_INET, host.c_str(), &address.sin_addr);
    if (connect(connection.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) continue;
    if (!write_all(connection.get(), "PING\r\n")) continue;
    char answer[16] = "";
    if (recv(connection.get(), answer, sizeof answer - 1, 0) > 0 && std::string(answer) == "+PONG\r\n") return true;
  }
  return false;
}

}  // namespace mose::test
