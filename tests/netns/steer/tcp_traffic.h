// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"

// TCP programs for tests of steering: a service, and clients that do not wait for answers before they go on.
namespace mose::test {

// Accepts on kPort of `address` and sends back what it gets, until the client closes. One thread.
class EchoService {
 public:
  EchoService(const Fd& netns, const char* address);
  ~EchoService() { stop(); }
  EchoService(const EchoService&) = delete;
  EchoService& operator=(const EchoService&) = delete;
  void stop();
  [[nodiscard]] size_t connections() const { return open_.load(); }
  [[nodiscard]] uint64_t accepted() const { return accepted_.load(); }

 private:
  void run();
  void serve(int fd);
  Fd listener_, epoll_;
  std::map<int, Fd> sockets_;
  std::atomic<bool> stop_{false};
  std::atomic<size_t> open_{0};
  std::atomic<uint64_t> accepted_{0};
  std::thread thread_;
};

// One connection; a 100-byte request each millisecond whether answered or not.
class EchoClient {
 public:
  EchoClient(const Fd& netns, const char* address);
  ~EchoClient() { stop(); }
  void stop();
  // Longest time from a request to its answer since the last call.
  [[nodiscard]] Nanoseconds take_longest();
  [[nodiscard]] uint64_t sent() const { return sent_.load(); }
  [[nodiscard]] uint64_t answered() const { return answered_.load(); }
  [[nodiscard]] std::string fault() const { return fault_; }  // after stop(): "" or what came wrong

 private:
  void send_all();
  void receive_all();
  Fd socket_;
  std::atomic<bool> stop_sending_{false}, stop_{false};
  std::atomic<uint64_t> sent_{0}, answered_{0};
  std::atomic<int64_t> longest_ns_{0};
  std::string fault_;
  std::thread sender_, receiver_;
};

// New connections at a fixed rate; each asks once, waits for its answer and closes.
class ConnectionChurn {
 public:
  ConnectionChurn(const Fd& netns, const char* address, unsigned per_second);
  ~ConnectionChurn() { stop(); }
  void stop_connecting() { stop_connecting_ = true; }
  void stop();  // those under way end first
  [[nodiscard]] uint64_t begun() const { return begun_.load(); }
  [[nodiscard]] uint64_t answered() const { return answered_.load(); }
  [[nodiscard]] std::vector<std::string> failures() const { return failures_; }  // after stop()
  [[nodiscard]] Nanoseconds longest() const { return longest_; }                 // after stop()

 private:
  struct Connection {
    Fd socket;
    Timestamp begun;
    bool asked = false;
  };
  void run(unsigned per_second);
  void begin();
  void on_ready(int fd, uint32_t events);
  void fail(int fd, const std::string& what);

  Fd netns_, epoll_;
  std::string address_;
  std::map<int, Connection> connections_;
  std::atomic<bool> stop_connecting_{false}, stop_{false};
  std::atomic<uint64_t> begun_{0}, answered_{0};
  std::vector<std::string> failures_;
  Nanoseconds longest_{0};
  std::thread thread_;
};

}  // namespace mose::test
