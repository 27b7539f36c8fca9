// SPDX-License-Identifier: MIT
#include "lab/stock_end.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lab/stock_service.h"

namespace mose::lab {
namespace {

constexpr size_t kLineMax = 64u << 10;
constexpr Nanoseconds kStepBound = std::chrono::minutes(5);

Result<std::string> read_line(int socket) {
  std::string line(kLineMax, '\0');
  ssize_t n = ::recv(socket, line.data(), line.size(), 0);
  if (n < 0) return fail_errno("recv");
  line.resize(static_cast<size_t>(n));
  return line;
}

Status write_line(int socket, const std::string& line) {
  if (::send(socket, line.data(), line.size(), MSG_NOSIGNAL) >= 0) return {};
  return fail_errno("send");
}

Result<std::string> carry_out(StockService& service, const std::string& step) {
  size_t blank = step.find(' ');
  std::string verb = step.substr(0, blank), word = blank == std::string::npos ? "" : step.substr(blank + 1);
  auto plain = [](Status s) -> Result<std::string> {
    if (!s) return std::unexpected(s.error());
    return "";
  };
  if (verb == "prepare") return plain(service.prepare(word));
  if (verb == "launch") return plain(service.launch(redis_command()));
  if (verb == "dump") return plain(service.dump());
  if (verb == "send") return plain(service.send_images(word));
  if (verb == "receive") return plain(service.receive_images());
  if (verb == "restore") return plain(service.restore());
  if (verb == "dump-lazily") return plain(service.dump_lazily());
  if (verb == "restore-lazily") return plain(service.restore_lazily(word));
  if (verb == "finish") return plain(service.finish());
  if (verb == "activate") return plain(service.activate());
  if (verb == "retire") return plain(service.retire());
  if (verb == "stop") return plain(service.stop());
  if (verb == "image-bytes") return std::to_string(service.image_bytes());
  return fail("unknown step " + verb);
}

[[noreturn]] void serve(int socket) {
  StockService service;
  while (true) {
    auto step = read_line(socket);
    if (!step || step->empty()) {
      (void)service.stop();
      service.forget();
      ::_exit(0);
    }
    auto result = carry_out(service, *step);
    if (!write_line(socket, result ? "ok " + *result : "error " + result.error().what)) ::_exit(1);
  }
}

}  // namespace

std::vector<std::string> redis_command() {
  return {"/usr/bin/redis-server", "--port",     std::to_string(kRedisPort), "--bind", "0.0.0.0", "--protected-mode", "no",
          "--save",                "",           "--appendonly",             "no",     "--dir",   "/tmp",             "--daemonize",
          "no",                    "--loglevel", "warning"};
}

Result<StockEnd> StockEnd::start(const LabState& state, const std::string& node) {
  MOSE_ASSIGN(auto place, open_node(state, node));
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return fail_errno("socketpair");
  Fd ours(sockets[0]), theirs(sockets[1]);
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    ours.reset();
    auto arrived = write_control(place.cgroup + "/cgroup.procs", "0");
    if (arrived) arrived = place.place.enter();
    // Only a child is in the node's pid namespace.
    pid_t inner = arrived ? ::fork() : -1;
    if (inner == 0) serve(theirs.get());
    theirs.reset();
    if (inner > 0) ::waitpid(inner, nullptr, 0);
    ::_exit(0);
  }
  MOSE_ASSIGN(auto process, ProcessHandle::open(child));
  return StockEnd(std::move(ours), std::move(process));
}

StockEnd::~StockEnd() {
  if (!process_) return;
  socket_.reset();  // the end of its input: it stops the service and ends
  constexpr Nanoseconds kEndBound = std::chrono::seconds(10);
  if (!process_.reap(kEndBound)) {
    auto killed = process_.signal(SIGKILL);
    auto reaped = process_.reap(kEndBound);
  }
}

Status StockEnd::request(const std::string& step) { return write_line(socket_.get(), step); }

Result<std::string> StockEnd::answer() {
  pollfd p{socket_.get(), POLLIN, 0};
  int ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(kStepBound).count());
  int n;
  while ((n = ::poll(&p, 1, ms)) < 0 && errno == EINTR) {
  }
  if (n <= 0) return fail_errno("the node", ETIMEDOUT);
  MOSE_ASSIGN(std::string line, read_line(socket_.get()));
  if (line.starts_with("ok ")) return line.substr(3);
  if (line.starts_with("error ")) return fail(line.substr(6));
  return fail("the node's end of the baseline has ended");
}

Result<std::string> StockEnd::call(const std::string& step) {
  MOSE_TRY(request(step));
  auto out = answer();
  if (!out) return context(step, out.error());
  return out;
}

}  // namespace mose::lab
