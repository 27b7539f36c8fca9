// SPDX-License-Identifier: MIT
// Takes the place of `criu` on a node of the fault tests and does harm at a planned moment of a dump or a restore.
//
// It becomes the real CRIU (the file of its own name and ".real") for everything but `swrk FD`. For that it starts the
// real one on a socket of its own and passes messages both ways. The plan (file "plan" in $MOSE_FAULT_DIR, default
// kFaultDir, read when the request comes) holds at most one line, which is carried out once:
//
//   ROLE POINT MOMENT ACTION
//   ROLE    dump | restore
//   POINT   request | a hook's name | response
//   MOMENT  before (not yet passed on), answered (a hook: the agent's answer has come, CRIU has not got it), after
//   ACTION  kill-agent | kill-criu | stop-criu (SIGSTOP: it hangs and never ends by itself) | refuse (of a hook, "answered":
//           CRIU hears no instead of what the agent has said, and fails) | hold (wait until the file "go" is there, at
//           most kHoldMax: somebody else does the harm)
//
// What was done is appended to the file "done" before it is done: a killed agent takes this process with it.
//
// Static and without a library of ours, so that nothing but the file has to be brought into a node. The real CRIU dies
// with this process, and this process ends as the real one ends; when the agent hangs up, so do we.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr const char* kFaultDir = "/var/lib/mose-fault";
constexpr const char* kRealSuffix = ".real";
constexpr int kOwnFdMin = 800;  // ours lie above the numbers that a request may name
constexpr int kCriuSocket = 3;  // of the RPC socket in the real CRIU
constexpr int kKeptLine = 4;    // a restoring CRIU has a copy of its line's other end, as the agent gives it one
constexpr const char* kRestoreSetting = "MOSE_CRIU_EXIT_KILL";
constexpr size_t kMessageMax = 1u << 20;
constexpr int kExitFailed = 125;
constexpr unsigned kHoldStepUs = 500, kHoldMax = 10'000'000;

// CRIU's message types and field numbers.
constexpr uint64_t kDump = 1, kRestore = 2, kNotify = 6;
constexpr uint32_t kFieldType = 1, kFieldOptions = 2, kFieldNotify = 5, kFieldScript = 1;
constexpr uint32_t kFieldImagesDir = 1, kFieldWorkDir = 17;

[[noreturn]] void give_up(const char* what) {
  std::fprintf(stderr, "criu_interposer: %s: %s\n", what, std::strerror(errno));
  std::_Exit(kExitFailed);
}

// ---- As much of protobuf as is needed to read names and numbers

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;      // varint
  std::string_view bytes;  // length-delimited
};

std::optional<uint64_t> read_varint(std::string_view& in) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !in.empty(); shift += 7) {
    auto byte = static_cast<uint8_t>(in.front());
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  return {};
}

std::optional<Field> read_field(std::string_view& in) {
  auto key = read_varint(in);
  if (!key) return {};
  Field out;
  out.number = static_cast<uint32_t>(*key >> 3);
  uint32_t wire = *key & 7;
  size_t length = wire == 1 ? 8 : wire == 5 ? 4 : 0;
  if (wire == 0 || wire == 2) {
    auto value = read_varint(in);
    if (!value) return {};
    out.value = *value;
    if (wire == 2) length = *value;
  }
  if (length > in.size()) return {};
  out.bytes = in.substr(0, length);
  in.remove_prefix(length);
  return out;
}

std::optional<Field> find_field(std::string_view message, uint32_t number) {
  while (!message.empty()) {
    auto field = read_field(message);
    if (!field) return {};
    if (field->number == number) return field;
  }
  return {};
}

uint64_t message_type(std::string_view message) {
  auto type = find_field(message, kFieldType);
  return type ? type->value : 0;
}

// ---- The plan

struct Fault {
  std::string role, point, moment, action;
};

class Plan {
 public:
  Plan() {
    const char* dir = std::getenv("MOSE_FAULT_DIR");
    dir_ = dir ? dir : kFaultDir;
  }

  void load() {
    fault_.reset();
    std::ifstream in(dir_ + "/plan");
    Fault read;
    if (in >> read.role >> read.point >> read.moment >> read.action) fault_ = read;
  }

  // The planned action, once over all processes that know of it: whoever removes the file carries it out.
  std::string take(const std::string& role, const std::string& point, const char* moment) {
    if (!fault_ || fault_->role != role || fault_->point != point || fault_->moment != moment) return {};
    if (::unlink((dir_ + "/plan").c_str()) != 0) return {};
    std::string line = role + " " + point + " " + moment + " " + fault_->action + "\n";
    int fd = ::open((dir_ + "/done").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || ::write(fd, line.data(), line.size()) < 0)
      std::fprintf(stderr, "criu_interposer: the deed cannot be noted\n");
    ::close(fd);
    return fault_->action;
  }

  void wait_for_go() const {
    for (unsigned waited = 0; waited < kHoldMax && ::unlink((dir_ + "/go").c_str()) != 0; waited += kHoldStepUs)
      ::usleep(kHoldStepUs);
  }

 private:
  std::string dir_;
  std::optional<Fault> fault_;
};

// ---- The real CRIU and the two sockets

int above(int fd) {
  int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, kOwnFdMin);
  if (moved < 0) give_up("move a descriptor");
  ::close(fd);
  return moved;
}

std::string real_criu() {
  char path[PATH_MAX];
  ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (n <= 0) give_up("find myself");
  return std::string(path, static_cast<size_t>(n)) + kRealSuffix;
}

// Line "0::PATH" of /proc/PID/cgroup.
std::string cgroup_of(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/cgroup");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("0::")) return line.substr(3);
  }
  return {};
}

std::string cgroup_mount() {
  std::ifstream in("/proc/self/mounts");
  for (std::string device, target, type, rest; in >> device >> target >> type && std::getline(in, rest);) {
    if (type == "cgroup2") return target;
  }
  return {};
}

class Relay {
 public:
  explicit Relay(int agent_socket) : agent_pid_(::getppid()), agent_(above(agent_socket)) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) give_up("make a socket");
    criu_ = above(ends[0]);
    start(ends[1]);
    buffer_.resize(kMessageMax);
  }

  [[noreturn]] void run() {
    for (;;) {
      pollfd fds[3] = {{agent_, POLLIN, 0}, {agent_ >= 0 ? criu_ : -1, POLLIN, 0}, {pidfd_, POLLIN, 0}};
      if (::poll(fds, 3, -1) < 0 && errno != EINTR) give_up("poll");
      if (fds[1].revents & POLLIN)
        from_criu();
      else if (fds[2].revents)
        end_like_criu();  // restored tasks may hold its socket open: its end shows here only
      if (agent_ >= 0 && fds[0].revents) from_agent();
      if (fds[1].revents && !(fds[1].revents & POLLIN)) end_like_criu();
    }
  }

 private:
  void start(int socket) {
    std::string path = real_criu();
    pid_t parent = ::getpid();
    int exec_done[2];  // its other end goes with the exec
    if (::pipe2(exec_done, O_CLOEXEC) < 0) give_up("pipe2");
    child_ = ::fork();
    if (child_ < 0) give_up("fork");
    if (child_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) std::_Exit(kExitFailed);
      if (socket == kCriuSocket) {
        ::fcntl(socket, F_SETFD, 0);
      } else if (::dup2(socket, kCriuSocket) < 0) {
        give_up("dup2");
      }
      if (::getenv(kRestoreSetting) != nullptr && ::dup2(criu_, kKeptLine) < 0) give_up("dup2");
      char number[] = {'0' + kCriuSocket, '\0'};
      char verb[] = "swrk";
      char* argv[] = {path.data(), verb, number, nullptr};
      ::execv(path.c_str(), argv);
      give_up(path.c_str());
    }
    ::close(socket);
    // A harm done before that would hit a copy of ourselves which does not die with us yet.
    ::close(exec_done[1]);
    char none;
    while (::read(exec_done[0], &none, 1) < 0 && errno == EINTR) {
    }
    ::close(exec_done[0]);
    pidfd_ = static_cast<int>(::syscall(SYS_pidfd_open, child_, 0));
    if (pidfd_ < 0) give_up("pidfd_open");
    pidfd_ = above(pidfd_);
  }

  const std::string& act(const std::string& action) {
    if (action == "kill-agent") {
      // Either we die with it, or CRIU finds that nobody is there any more. Nothing is passed on meanwhile.
      ::kill(agent_pid_, SIGKILL);
      // A restoring CRIU finds nothing: it has a copy of that end, and dies with us.
      if (role_ == "restore") agent_ = -1;
      else lose_agent();
    }
    if (action == "kill-criu") {
      ::kill(child_, SIGKILL);
      end_like_criu();
    }
    if (action == "stop-criu") ::kill(child_, SIGSTOP);
    if (action == "hold") {
      plan_.wait_for_go();
      plan_.load();  // there may be another by now
    }
    return action;
  }

  // 0: the other end has gone.
  std::string_view receive(int fd) {
    ssize_t n;
    do {
      n = ::recv(fd, buffer_.data(), buffer_.size(), 0);
    } while (n < 0 && errno == EINTR);
    return {buffer_.data(), n > 0 ? static_cast<size_t>(n) : 0};
  }

  void pass(int fd, std::string_view message) {
    if (agent_ >= 0 && ::send(fd, message.data(), message.size(), MSG_NOSIGNAL) < 0 && errno != EPIPE &&
        errno != ECONNRESET) {
      give_up("pass a message on");
    }
  }

  void lose_agent() {
    ::close(agent_);
    agent_ = -1;
    ::shutdown(criu_, SHUT_RDWR);
  }

  void from_agent() {
    std::string_view message = receive(agent_);
    if (message.empty()) return lose_agent();
    uint64_t type = message_type(message);
    if (type == kDump || type == kRestore) {
      role_ = type == kDump ? "dump" : "restore";
      plan_.load();
      adopt_directories(message);
      act(plan_.take(role_, "request", "before"));
      pass(criu_, message);
      act(plan_.take(role_, "request", "after"));
      return;
    }
    // A NOTIFY without success, as protobuf writes it.
    constexpr char kRefusal[] = {8, static_cast<char>(kNotify), 24, 0};
    if (type == kNotify && act(plan_.take(role_, hook_, "answered")) == "refuse") message = {kRefusal, sizeof kRefusal};
    follow_cgroup();
    pass(criu_, message);
    if (type == kNotify) act(plan_.take(role_, hook_, "after"));
  }

  void from_criu() {
    std::string_view message = receive(criu_);
    if (message.empty()) end_like_criu();
    std::string point = "response";
    if (message_type(message) == kNotify) {
      auto notify = find_field(message, kFieldNotify);
      auto script = notify ? find_field(notify->bytes, kFieldScript) : std::nullopt;
      point = hook_ = script ? std::string(script->bytes) : "";
    }
    act(plan_.take(role_, point, "before"));
    pass(agent_, message);
    if (point == "response") act(plan_.take(role_, point, "after"));
  }

  // CRIU opens the directories of a request through /proc/PID/fd of whoever made its socket, which is us.
  void adopt_directories(std::string_view request) {
    auto options = find_field(request, kFieldOptions);
    if (!options) return;
    for (uint32_t field : {kFieldImagesDir, kFieldWorkDir}) {
      auto number = find_field(options->bytes, field);
      if (!number) continue;
      int wanted = static_cast<int>(number->value);
      std::string path = "/proc/" + std::to_string(agent_pid_) + "/fd/" + std::to_string(wanted);
      int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (fd < 0 || wanted >= kOwnFdMin) give_up("open the images directory");
      if (fd != wanted) {
        if (::dup2(fd, wanted) < 0) give_up("dup2");
        ::close(fd);
      }
    }
  }

  // The agent knows our number only: where it has put us, the real one must be before it goes on.
  void follow_cgroup() {
    std::string mine = cgroup_of("self"), child = std::to_string(child_);
    if (mine.empty() || mine == cgroup_of(child)) return;
    std::ofstream procs(cgroup_mount() + mine + "/cgroup.procs");
    procs << child << std::flush;
    if (!procs) give_up("move CRIU to our cgroup");
  }

  [[noreturn]] void end_like_criu() {
    int status = 0;
    while (::waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
      ::signal(WTERMSIG(status), SIG_DFL);
      ::raise(WTERMSIG(status));
    }
    std::_Exit(WEXITSTATUS(status));
  }

  pid_t agent_pid_, child_ = -1;
  int agent_, criu_ = -1, pidfd_ = -1;
  std::string role_, hook_, buffer_;
  Plan plan_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "swrk") == 0) {
    Relay relay(std::atoi(argv[2]));
    relay.run();
  }
  std::string path = real_criu();
  argv[0] = path.data();
  ::execv(path.c_str(), argv);
  give_up(path.c_str());
}
