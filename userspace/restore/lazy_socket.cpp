// SPDX-License-Identifier: MIT
#include "restore/lazy_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

namespace mose::restore {
namespace {

constexpr uint32_t kFinishedWord = 0x52535446;  // "RSTF" as a number, in the host's byte order like all of it

}  // namespace

Result<LazySocket> LazySocket::listen(const std::string& directory) {
  MOSE_ASSIGN(Fd dir, open_file(directory, O_DIRECTORY | O_RDONLY));
  if (::unlinkat(dir.get(), std::string(kLazySocketName).c_str(), 0) != 0 && errno != ENOENT)
    return fail_errno("remove an old " + std::string(kLazySocketName));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket");
  // By the directory's descriptor, because a path of more than 108 bytes does not fit.
  std::string path = "/proc/thread-self/fd/" + std::to_string(dir.get()) + "/" + std::string(kLazySocketName);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0)
    return fail_errno("bind " + directory + "/" + std::string(kLazySocketName));
  if (::listen(fd.get(), 1) != 0) return fail_errno("listen on " + std::string(kLazySocketName));
  return LazySocket(std::move(fd), std::move(dir));
}

Status LazySocket::accept_one() {
  Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return fail_errno("accept CRIU's connection");
  connection_ = std::move(fd);
  listener_.reset();
  (void)::unlinkat(directory_.get(), std::string(kLazySocketName).c_str(), 0);
  directory_.reset();
  return {};
}

std::vector<LazySocket::Message> LazySocket::receive() {
  std::vector<Message> out;
  if (!connection_) {
    if (!listener_) return out;
    // A connection that has gone again before it was accepted is none.
    if (!accept_one()) return out;
  }
  while (step(out) == Step::message) {
  }
  return out;
}

LazySocket::Step LazySocket::step(std::vector<Message>& out) {
  auto end = [&](std::string reason) {
    connection_.reset();
    out.emplace_back(Ended{std::move(reason)});
    return Step::end;
  };
  // Exactly what belongs to this message: a longer read would take a descriptor's byte or the next pid with it.
  iovec part{word_ + word_size_, wants_fd_ ? 1 : sizeof word_ - word_size_};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 4)];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n = ::recvmsg(connection_.get(), &header, MSG_CMSG_CLOEXEC);
  if (n < 0 && errno == EINTR) return Step::message;
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Step::more;
  if (n < 0) return end(fail_errno("read CRIU's connection").error().what);

  std::vector<Fd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  if (n == 0) return end(word_size_ != 0 || wants_fd_ ? "the stream ends inside a message" : "");

  if (wants_fd_) {
    if (fds.size() != 1) return end("a task came with " + std::to_string(fds.size()) + " descriptors instead of one");
    wants_fd_ = false;
    out.emplace_back(Task{space_, std::move(fds.front())});
    return Step::message;
  }
  if (!fds.empty()) return end("a descriptor where a process id should be");
  word_size_ += static_cast<size_t>(n);
  if (word_size_ < sizeof word_) return Step::message;
  word_size_ = 0;
  uint32_t word;
  std::memcpy(&word, word_, sizeof word);
  if (word == kFinishedWord) {
    out.emplace_back(Finished{});
    return Step::message;
  }
  auto pid = static_cast<int32_t>(word);
  if (pid == 0 || pid == INT32_MIN) return end("process id " + std::to_string(pid));
  if (pid < 0) {
    out.emplace_back(Zombie{static_cast<SpaceId>(-pid)});
  } else {
    space_ = static_cast<SpaceId>(pid);
    wants_fd_ = true;
  }
  return Step::message;
}

}  // namespace mose::restore
