// SPDX-License-Identifier: MIT
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <string_view>
#include <thread>

#include "base/fd.h"
#include "kernel/netns.h"
#include "lab/names.h"

namespace mose::lab {

// One connection that counts a key up, answer by answer.
class Counting {
 public:
  explicit Counting(const std::string& netns) {
    auto place = open_file(netns, O_RDONLY);
    // Redis may still be starting.
    Status made = fail("not tried");
    for (int i = 0; i < 500 && !made; ++i) {
      if (i > 0) ::usleep(20'000);
      made = in_netns(place->get(), [&] { return connect(); });
    }
    EXPECT_TRUE(made) << made.error().what;
    timeval bound{30, 0};
    int one = 1;
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    thread_ = std::thread([this] { run(); });
  }
  ~Counting() { stop(); }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] uint64_t count() const { return count_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }  // after stop()

 private:
  Status connect() {
    socket_ = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kRedisPort)};
    inet_pton(AF_INET, kServiceAddress, &to.sin_addr);
    if (::connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return fail_errno("connect");
    return {};
  }
  void run() {
    constexpr std::string_view kRequest = "INCR straggler\r\n";
    while (!stop_ && problem_.empty()) {
      const std::string expected = ":" + std::to_string(count_ + 1) + "\r\n";
      char answer[64] = "";
      ssize_t size = -1;
      if (send(socket_.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL) > 0)
        size = recv(socket_.get(), answer, sizeof answer - 1, 0);
      if (size > 0 && expected == answer) {
        ++count_;
      } else {
        problem_ = size < 0 ? fail_errno("answer " + expected).error().what : "instead of " + expected + answer;
      }
    }
  }

  Fd socket_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> count_ = 0;
  std::string problem_;
  std::thread thread_;
};

}  // namespace mose::lab
