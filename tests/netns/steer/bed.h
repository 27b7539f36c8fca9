// SPDX-License-Identifier: MIT
#pragma once

#include <netinet/in.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "handover/workload_network.h"

// A segment for tests of steering, all in namespaces that end with the process:
//
//   client ---- switch ---- node a (br0: up, host end) ---- workload's namespace
//                     `---- node b (br0: up, host end) ---- workload's namespace
namespace mose::test {

inline constexpr const char* kServiceText4 = "192.0.2.10/24";
inline constexpr const char* kServiceText6 = "2001:db8::10/64";
inline constexpr const char* kClientText4 = "192.0.2.2/24";
inline constexpr const char* kClientText6 = "2001:db8::2/64";

class Bed {
 public:
  // Skips the whole test program when the host cannot do it.
  Bed();
  virtual ~Bed();
  Bed(const Bed&) = delete;
  Bed& operator=(const Bed&) = delete;

  struct Node {
    Fd netns;
    Fd workload;        // namespace for a workload
    std::string bpffs;  // its own
    MacAddress uplink_mac{};
  };
  Node a, b;
  Fd client, segment;

  // Runs in a namespace; an error fails the test.
  void in(const Fd& netns, const std::function<Status()>& work) const;
  [[nodiscard]] virtual handover::WorkloadNetworkConfig config(const Node& node) const;
  // A workload's network made on `node` and, when `open`, in service.
  [[nodiscard]] handover::WorkloadNetwork create(Node& node, bool open = true) const;
  // Throws away the workload's namespace for a new one.
  void renew_workload(Node& node) const;
  [[nodiscard]] std::vector<std::string> pins(const Node& node) const;

 protected:
  struct Unwired {};
  explicit Bed(Unwired);  // namespaces and file systems alone
  void wait_operational(const Fd& netns, const std::string& device) const;

 private:
  void connect(const Fd& netns, const std::string& port, const MacAddress& mac, bool bridged) const;
  std::string root_;
};

[[nodiscard]] ServiceAddress service4();
[[nodiscard]] ServiceAddress service6();

// A socket made in `netns`, with buffers large enough that only steering can lose something.
[[nodiscard]] Fd udp_socket(const Fd& netns, int family, const char* bind_address, uint16_t port);
[[nodiscard]] Fd tcp_listener(const Fd& netns, const char* address, uint16_t port);
[[nodiscard]] Fd tcp_connect(const Fd& netns, const char* address, uint16_t port);

inline constexpr uint16_t kPort = 7000;

// Numbers that arrived somewhere, judged: each exactly once and in order.
struct Sequence {
  std::vector<uint64_t> seen;
  // "" or what is wrong with it as the numbers `first` to `last`.
  [[nodiscard]] std::string fault(uint64_t first, uint64_t last) const;
};

// A workload of one socket: remembers the numbers it gets, sends each back when `echo`. stop() is its freeze: what
// arrives later stays in the socket.
class UdpService {
 public:
  UdpService(const Fd& netns, int family, bool echo);
  ~UdpService() { stop(); }
  void stop();
  [[nodiscard]] const Sequence& received() const { return received_; }  // after stop()
  [[nodiscard]] uint64_t count() const { return count_.load(); }

 private:
  Fd socket_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> count_{0};
  Sequence received_;
  std::thread thread_;
};

// Sends numbers from 1 at a fixed rate whether answered or not, and remembers the answers.
class UdpClient {
 public:
  UdpClient(const Fd& netns, int family, unsigned per_second);
  ~UdpClient() { stop(); }
  void stop_sending();
  // Stops sending, then waits until `expected` answers are in or a second has passed without one.
  void finish(uint64_t expected_answers);
  // Until all is answered that was sent: what that is stands only when nothing is sent any more.
  void finish() {
    stop_sending();
    finish(sent());
  }
  void stop();
  [[nodiscard]] uint64_t sent() const { return sent_.load(); }
  [[nodiscard]] const Sequence& answers() const { return answers_; }  // after stop()

 private:
  Fd socket_;
  std::atomic<bool> stop_sending_{false}, stop_{false};
  std::atomic<uint64_t> sent_{0}, answered_{0};
  Sequence answers_;
  std::thread sender_, receiver_;
};

// Frames that a device has received or sent since the object was made, from the device's own namespace.
class Capture {
 public:
  Capture(const Fd& netns, const std::string& device);
  struct Frames {
    std::vector<std::vector<uint8_t>> in, out;
  };
  [[nodiscard]] Frames take();

 private:
  Fd socket_;
};

void sleep_ms(int ms);
// True as soon as `condition` holds, false after two seconds.
[[nodiscard]] bool eventually(const std::function<bool()>& condition);

}  // namespace mose::test
