// SPDX-License-Identifier: MIT
#include "agent/control_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "mose/control/control.pb.h"

namespace mose::agent {
namespace {

// Waits for `events`; true when they came.
Result<bool> wait_for(int fd, short events, const Timestamp* deadline) {
  int timeout = -1;
  if (deadline != nullptr) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - now()).count();
    timeout = left > 0 ? static_cast<int>(left) : 0;
  }
  pollfd item{fd, events, 0};
  int count = poll(&item, 1, timeout);
  if (count < 0) return fail_errno("wait for the agent");
  return count > 0;
}

std::unexpected<Error> not_running(const std::string& path, int code) {
  std::string why = strerror(code);
  std::string hint = code == EACCES || code == EPERM ? "; run as root or as a member of the configured group"
                                                     : "; start mosed, or give --socket";
  return std::unexpected(Error{code, fmt::format("agent not running at {}: {}{}", path, why, hint)});
}

}  // namespace

Result<ControlClient> ControlClient::connect(const std::string& path, Nanoseconds bound) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return not_running(path, ENAMETOOLONG);
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("socket");
  // A full backlog of a unix socket answers EAGAIN and cannot be polled for: try again until the bound.
  Timestamp deadline = now() + bound;
  constexpr useconds_t kRetryUs = 10'000;
  while (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    int code = errno;
    if (code == EINTR) continue;
    if (code != EAGAIN) return not_running(path, code);
    if (now() >= deadline) return not_running(path, ETIMEDOUT);
    usleep(kRetryUs);
  }
  return ControlClient(std::move(socket), path);
}

Result<uint64_t> ControlClient::send(control::v1::Request& request) {
  request.set_id(next_id_++);
  std::string payload = request.SerializeAsString();
  if (payload.size() > kControlFrameMax) return fail("the request is too long");
  std::string frame = make_frame(payload);
  std::string_view rest = frame;
  while (!rest.empty()) {
    ssize_t count = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      rest.remove_prefix(static_cast<size_t>(count));
    } else if (errno == EAGAIN) {
      if (auto ready = wait_for(socket_.get(), POLLOUT, nullptr); !ready && ready.error().code != EINTR) {
        return std::unexpected(ready.error());
      }
    } else if (errno == EPIPE || errno == ECONNRESET) {
      break;  // an agent that turns a client away has said why: receive() gives that, or the end
    } else if (errno != EINTR) {
      return fail_errno("send to the agent at " + path_);
    }
  }
  return request.id();
}

Status ControlClient::receive(control::v1::Response& response, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  for (;;) {
    MOSE_ASSIGN(auto payload, reader_.next());
    if (payload) {
      if (!response.ParseFromString(*payload)) return fail("the agent's answer cannot be read: is it another version?");
      return {};
    }
    MOSE_ASSIGN(bool ready, wait_for(socket_.get(), POLLIN, bound > Nanoseconds(0) ? &deadline : nullptr));
    if (!ready) return fail_errno("the agent at " + path_ + " does not answer", ETIMEDOUT);
    char buffer[64 << 10];
    ssize_t count = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    if (count > 0) {
      reader_.append({buffer, static_cast<size_t>(count)});
    } else if (count == 0) {
      return fail_errno("the agent at " + path_ + " has closed the connection", ECONNRESET);
    } else if (errno != EAGAIN && errno != EINTR) {
      return fail_errno("read from the agent at " + path_);
    }
  }
}

Status ControlClient::call(control::v1::Request& request, control::v1::Response& response, Nanoseconds bound) {
  MOSE_ASSIGN(uint64_t id, send(request));
  do {
    response.Clear();
    MOSE_TRY(receive(response, bound));
  } while ((response.id() != id && response.id() != 0) || !response.last());
  return {};
}

}  // namespace mose::agent
