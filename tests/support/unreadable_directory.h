// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "base/fd.h"

// A directory that can be opened and whose entries nobody can read: readdir fails with EPERM, as it would with another error of a
// disk. Needs root.
namespace mose::test {

class UnreadableDirectory {
 public:
  explicit UnreadableDirectory(const std::string& path) : notify_(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY)) {
    if (!notify_) return;
    if (::fanotify_mark(notify_.get(), FAN_MARK_ADD, FAN_ACCESS_PERM | FAN_ONDIR, AT_FDCWD, path.c_str()) != 0) return;
    denier_ = std::thread([this] { deny(); });
  }
  ~UnreadableDirectory() {
    stop_ = true;
    if (denier_.joinable()) denier_.join();
  }
  UnreadableDirectory(const UnreadableDirectory&) = delete;
  UnreadableDirectory& operator=(const UnreadableDirectory&) = delete;

  // False: this kernel, or this user, cannot do that.
  [[nodiscard]] bool works() const { return denier_.joinable(); }

 private:
  void deny() {
    char buffer[4096];
    while (!stop_) {
      pollfd p{notify_.get(), POLLIN, 0};
      if (::poll(&p, 1, 20) <= 0) continue;
      ssize_t bytes = ::read(notify_.get(), buffer, sizeof buffer);
      auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer);
      for (; FAN_EVENT_OK(event, bytes); event = FAN_EVENT_NEXT(event, bytes)) {
        const fanotify_response answer{event->fd, FAN_DENY};
        (void)!::write(notify_.get(), &answer, sizeof answer);
        ::close(event->fd);
      }
    }
  }

  Fd notify_;
  std::atomic<bool> stop_{false};
  std::thread denier_;
};

}  // namespace mose::test
