// SPDX-License-Identifier: MIT
#include "agent/control_server.h"

#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <vector>

#include "agent/control_frames.h"
#include "base/log.h"
#include "kernel/socket_peer.h"
#include "mose/control/control.pb.h"

namespace mose::agent {
namespace {

constexpr int kBacklog = 64;
constexpr size_t kOutputMax = 64u << 20;  // a follower that does not read is cut off here
constexpr size_t kReadChunk = 64u << 10;
constexpr int kReadsPerTurn = 16;  // then others have their turn

// What a group name means; an error when there is no such group.
Result<std::optional<gid_t>> group_id(const std::string& name) {
  if (name.empty()) return std::nullopt;
  const group* entry = getgrnam(name.c_str());  // once, before the loop runs
  if (entry == nullptr) return fail(fmt::format("control.group = \"{}\": there is no such group", name));
  return entry->gr_gid;
}

bool in_group(int socket, gid_t primary, gid_t wanted) {
  if (primary == wanted) return true;
  std::vector<gid_t> groups(256);
  socklen_t length = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &length) != 0) return false;
  groups.resize(length / sizeof(gid_t));
  for (gid_t group : groups) {
    if (group == wanted) return true;
  }
  return false;
}

// Root, the agent's own user, or a member of the group. Root is not enough by itself: helpers that have given their capabilities up, because
// they decode what other nodes send, are root, and workloads are; by us they would get everything back.
Status check_peer(int socket, const std::optional<gid_t>& group) {
  MOSE_ASSIGN(SocketPeer peer, socket_peer(socket));
  if (peer.uid != 0) {
    if (peer.uid == geteuid() || (group && in_group(socket, peer.gid, *group))) return {};
    return fail("only root and the configured group may talk to this agent");
  }
  if (peer.pid == 0) return {};
  auto capable = peer_is_capable(socket, peer, CAP_SYS_ADMIN);
  if (!capable && capable.error().code == ESRCH) return fail("who asked for it has left");
  if (!capable) return fail(fmt::format("it cannot be told what process {} may do: {}", peer.pid, capable.error().what));
  if (*capable) return {};
  return fail(fmt::format("process {} is root without CAP_SYS_ADMIN here: only who could do without this agent what it does may talk to it as root; "
                          "others do as members of control.group",
                          peer.pid));
}

// Says why and leaves; what does not fit into the fresh socket's buffer is lost.
void turn_away(int socket, const std::string& reason) {
  log::warn("a control connection was refused", {{"reason", reason}});
  control::v1::Response response;
  response.set_last(true);
  response.mutable_failure()->set_exit_code(1);
  response.mutable_failure()->set_reason(reason);
  std::string frame = make_frame(response.SerializeAsString());
  [[maybe_unused]] ssize_t sent = ::send(socket, frame.data(), frame.size(), MSG_NOSIGNAL);
}

Status open_to_group(const Config& config, gid_t group) {
  constexpr mode_t kPassThrough = 0710, kSocketMode = 0660;
  const std::string& socket = config.control.socket;
  std::string directory = socket.substr(0, socket.rfind('/'));
  if (chown(socket.c_str(), 0, group) != 0 || chmod(socket.c_str(), kSocketMode) != 0) {
    return fail_errno("give " + socket + " to its group");
  }
  if (directory != config.node.runtime_dir) return {};  // somebody else's directory has somebody else's rights
  if (chown(directory.c_str(), 0, group) != 0 || chmod(directory.c_str(), kPassThrough) != 0) {
    return fail_errno("give " + directory + " to the group");
  }
  return {};
}

}  // namespace

struct ControlServer::Connection {
  Fd socket;
  FrameReader reader;
  std::string output;
  size_t written = 0;
  bool watching_output = false;
  bool ending = false;  // close when the output is out; nothing more is read
};

ControlServer::ControlServer(EventLoop& loop, const Config& config, Handler handler)
    : loop_(loop), config_(config), handler_(std::move(handler)), self_(std::make_shared<ControlServer*>(this)) {}

Result<std::unique_ptr<ControlServer>> ControlServer::start(EventLoop& loop, const Config& config, Handler handler) {
  MOSE_ASSIGN(auto group, group_id(config.control.group));
  const std::string& path = config.control.socket;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return fail(path + " is too long for a socket");
  memcpy(address.sun_path, path.c_str(), path.size() + 1);

  std::unique_ptr<ControlServer> server(new ControlServer(loop, config, std::move(handler)));
  server->group_ = group;
  Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener) return fail_errno("socket");
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove " + path);
  mode_t before = umask(0177);
  int bound = bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  int code = errno;
  umask(before);
  if (bound != 0) return fail_errno("bind " + path, code);
  if (group) MOSE_TRY(open_to_group(config, *group));
  if (listen(listener.get(), kBacklog) != 0) return fail_errno("listen on " + path);
  server->listener_ = std::move(listener);
  ControlServer* self = server.get();
  MOSE_TRY(loop.watch(server->listener_.get(), EPOLLIN, [self](uint32_t) { self->accept_ready(); }));
  return server;
}

ControlServer::~ControlServer() {
  self_.reset();
  while (!connections_.empty()) close(connections_.begin()->first);
  if (listener_) {
    loop_.unwatch(listener_.get());
    unlink(config_.control.socket.c_str());
  }
}

// One a turn: the ends of dead connections are seen in between, so that they do not count against the bound.
void ControlServer::accept_ready() {
  Fd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  if (auto ok = check_peer(socket.get(), group_); !ok) return turn_away(socket.get(), ok.error().what);
  if (connections_.size() >= config_.limits.connections_max) {
    return turn_away(socket.get(), "the agent has as many connections as limits.connections_max allows; close some");
  }
  uint64_t id = next_connection_++;
  int fd = socket.get();
  auto connection = std::make_unique<Connection>();
  connection->socket = std::move(socket);
  connections_[id] = std::move(connection);
  if (auto status = loop_.watch(fd, EPOLLIN, [this, id](uint32_t events) { ready(id, events); }); !status) {
    log::warn("a control connection cannot be watched", {{"reason", status.error().what}});
    connections_.erase(id);
  }
}

void ControlServer::ready(uint64_t id, uint32_t events) {
  if (events & EPOLLOUT) flush(id);
  if (!connections_.contains(id)) return;
  if (events & EPOLLIN) {
    read_requests(id);
  } else if (events & (EPOLLHUP | EPOLLERR)) {
    close(id);
  }
}

void ControlServer::read_requests(uint64_t id) {
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    auto it = connections_.find(id);
    if (it == connections_.end()) return;
    Connection& connection = *it->second;
    char buffer[kReadChunk];
    ssize_t count = recv(connection.socket.get(), buffer, sizeof buffer, 0);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) return close(id);
    if (connection.ending) continue;
    connection.reader.append({buffer, static_cast<size_t>(count)});
    for (;;) {
      // The handler may close this connection: look it up anew each time.
      auto again = connections_.find(id);
      if (again == connections_.end() || again->second->ending) break;
      auto payload = again->second->reader.next();
      if (!payload) {
        refuse_frame(id, payload.error().what);
        break;
      }
      if (!*payload) break;
      control::v1::Request request;
      if (!request.ParseFromString(**payload)) {
        refuse_frame(id, "a request cannot be read");
        break;
      }
      handler_(request, Reply(self_, id, request.id()));
    }
  }
}

void ControlServer::refuse_frame(uint64_t id, const std::string& reason) {
  control::v1::Response response;
  response.set_last(true);
  response.mutable_failure()->set_exit_code(2);
  response.mutable_failure()->set_reason(reason);
  connections_.at(id)->ending = true;
  write(id, response.SerializeAsString());
}

void ControlServer::write(uint64_t id, const std::string& payload) {
  auto it = connections_.find(id);
  if (it == connections_.end()) return;
  if (it->second->output.size() - it->second->written + payload.size() > kOutputMax) {
    log::warn("a control connection was closed: its client does not read");
    return close(id);
  }
  it->second->output += make_frame(payload);
  flush(id);
}

void ControlServer::flush(uint64_t id) {
  auto it = connections_.find(id);
  if (it == connections_.end()) return;
  Connection& connection = *it->second;
  while (connection.written < connection.output.size()) {
    ssize_t count = ::send(connection.socket.get(), connection.output.data() + connection.written,
                           connection.output.size() - connection.written, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno != EAGAIN) return close(id);
    if (count < 0) break;
    connection.written += static_cast<size_t>(count);
  }
  bool pending = connection.written < connection.output.size();
  if (!pending) {
    connection.output.clear();
    connection.written = 0;
    if (connection.ending) {
      // The client gets the reason before the end: closing with unread input would reset the connection.
      shutdown(connection.socket.get(), SHUT_WR);
    }
  }
  if (pending != connection.watching_output) {
    connection.watching_output = pending;
    uint32_t events = EPOLLIN | (pending ? static_cast<uint32_t>(EPOLLOUT) : 0u);
    if (!loop_.change(connection.socket.get(), events)) close(id);
  }
}

void ControlServer::close(uint64_t id) {
  auto it = connections_.find(id);
  if (it == connections_.end()) return;
  loop_.unwatch(it->second->socket.get());
  connections_.erase(it);
}

void Reply::send(control::v1::Response& response, bool last) const {
  auto server = server_.lock();
  if (!server) return;
  response.set_id(request_);
  response.set_last(last);
  std::string payload = response.SerializeAsString();
  if (payload.size() > kControlFrameMax) return fail(1, "the answer is longer than a control frame may be");
  (*server)->write(connection_, payload);
}

void Reply::fail(int exit_code, const std::string& reason) const {
  control::v1::Response response;
  response.mutable_failure()->set_exit_code(static_cast<uint32_t>(exit_code));
  response.mutable_failure()->set_reason(reason);
  send(response, true);
}

bool Reply::open() const {
  auto server = server_.lock();
  if (!server) return false;
  auto it = (*server)->connections_.find(connection_);
  if (it == (*server)->connections_.end()) return false;
  // Its end may lie behind requests that are still being worked on. One that only reads on has not gone.
  pollfd socket{it->second->socket.get(), 0, 0};
  return poll(&socket, 1, 0) == 0 || (socket.revents & (POLLHUP | POLLERR)) == 0;
}

}  // namespace mose::agent
