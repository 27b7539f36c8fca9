// SPDX-License-Identifier: MIT
#include "agent/notify.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"

namespace mose::agent {
namespace {

std::optional<uint64_t> number_from_environment(const char* name) {
  const char* text = getenv(name);
  if (text == nullptr) return std::nullopt;
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text, text + strlen(text), value);
  if (error != std::errc() || *end != '\0') return std::nullopt;
  return value;
}

}  // namespace

Status notify_manager(std::string_view state) {
  const char* path = getenv("NOTIFY_SOCKET");
  if (path == nullptr || *path == '\0') return {};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  size_t length = strlen(path);
  if (length >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) {
    return fail(std::string("NOTIFY_SOCKET = \"") + path + "\" is not a socket's address");
  }
  memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';  // abstract name
  Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return fail_errno("socket");
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address), size) < 0) {
    return fail_errno(std::string("notify ") + path);
  }
  return {};
}

std::optional<Nanoseconds> watchdog_period() {
  auto period = number_from_environment("WATCHDOG_USEC");
  auto process = number_from_environment("WATCHDOG_PID");
  if (!period || *period == 0 || (process && *process != static_cast<uint64_t>(getpid()))) return std::nullopt;
  return std::chrono::microseconds(*period / 2);
}

}  // namespace mose::agent
