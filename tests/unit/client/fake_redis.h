// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace mose::test {

// A server on loopback that knows SET, GET and INCR, and can be told to misbehave. One thread; ends with the object.
class FakeRedis {
 public:
  FakeRedis();
  ~FakeRedis();
  FakeRedis(const FakeRedis&) = delete;
  FakeRedis& operator=(const FakeRedis&) = delete;

  [[nodiscard]] uint16_t port() const { return port_; }
  // Answers nothing while it is true.
  std::atomic<bool> silent{false};
  // Resets every connection once.
  std::atomic<bool> reset_all{false};
  void set(const std::string& key, const std::string& value);
  void erase(const std::string& key);

 private:
  struct Peer {
    Fd socket;
    std::string input;
  };
  void run();
  void serve(Peer& peer);
  std::string carry_out(const std::vector<std::string>& words);

  Fd listener_;
  uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
  std::thread thread_;
};

}  // namespace mose::test
