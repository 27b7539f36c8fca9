// SPDX-License-Identifier: MIT
#include "restore/pager_frames.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "restore/pager_client.h"

namespace mose::restore {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kReadMax = 64u << 10;

struct UnixPlace {
  Fd directory;
  std::string name;
  sockaddr_un address{};
  socklen_t length = 0;
};

Result<UnixPlace> place_of(const std::string& path) {
  size_t slash = path.rfind('/');
  UnixPlace place;
  place.name = slash == std::string::npos ? path : path.substr(slash + 1);
  std::string directory = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  MOSE_ASSIGN(place.directory, open_file(directory, O_DIRECTORY | O_RDONLY));
  // thread-self: the pager's server has a descriptor table of its own.
  std::string through = "/proc/thread-self/fd/" + std::to_string(place.directory.get()) + "/" + place.name;
  if (place.name.empty() || through.size() >= sizeof place.address.sun_path)
    return fail("socket name \"" + place.name + "\" is empty or too long");
  place.address.sun_family = AF_UNIX;
  std::memcpy(place.address.sun_path, through.data(), through.size());
  place.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + through.size() + 1);
  return place;
}

Result<Fd> unix_socket() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket");
  return fd;
}

}  // namespace

std::string pager_frame(const std::string& payload) {
  std::string out;
  for (size_t i = 0; i < kLengthBytes; ++i) out.push_back(static_cast<char>(payload.size() >> (8 * i)));
  return out + payload;
}

Result<std::optional<std::string>> take_pager_frame(std::string& buffer) {
  if (buffer.size() < kLengthBytes) return std::nullopt;
  uint32_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint32_t>(static_cast<uint8_t>(buffer[i])) << (8 * i);
  if (length > kPagerFrameMax) return fail("a frame of " + std::to_string(length) + " bytes");
  if (buffer.size() < kLengthBytes + length) return std::nullopt;
  std::string payload = buffer.substr(kLengthBytes, length);
  buffer.erase(0, kLengthBytes + length);
  return payload;
}

Status read_available(int socket, std::string& buffer) {
  // Whole frames are taken out between the calls, so that the buffer stays below one frame and one read.
  char bytes[kReadMax];
  ssize_t n = ::recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return {};
  if (n < 0) return fail_errno("read from the other end");
  if (n == 0) return fail("the other end has closed");
  buffer.append(bytes, static_cast<size_t>(n));
  return {};
}

Status write_available(int socket, std::string& buffer) {
  while (!buffer.empty()) {
    ssize_t n = ::send(socket, buffer.data(), buffer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (n < 0) return fail_errno("write to the other end");
    buffer.erase(0, static_cast<size_t>(n));
  }
  return {};
}

Result<Fd> unix_connect(const std::string& path) {
  MOSE_ASSIGN(UnixPlace place, place_of(path));
  MOSE_ASSIGN(Fd fd, unix_socket());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&place.address), place.length) != 0)
    return fail_errno("connect to " + path);
  return fd;
}

Result<Fd> unix_listen(const std::string& path) {
  MOSE_ASSIGN(UnixPlace place, place_of(path));
  if (::unlinkat(place.directory.get(), place.name.c_str(), 0) != 0 && errno != ENOENT)
    return fail_errno("remove an old " + path);
  MOSE_ASSIGN(Fd fd, unix_socket());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&place.address), place.length) != 0)
    return fail_errno("bind " + path);
  if (::listen(fd.get(), 4) != 0) return fail_errno("listen on " + path);
  return fd;
}

}  // namespace mose::restore
