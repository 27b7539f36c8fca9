// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "mose/wire/frame.h"
#include "move/tls.h"

// Stands between a node and its peers: TCP connections that understand frames, and do harm at a planned one.
//
// Life: listen() in the network namespace of the calling thread; every connection is passed on to `target` until the
// object goes. One rule at a time, carried out once; set_rule() replaces it, also while connections are open.
//
// Between nodes that speak TLS it is each end's other node: it ends their sessions with the certificates of both.
namespace mose::test {

enum class Direction : uint8_t { to_target, from_target };
enum class Moment : uint8_t { before, after };  // the frame has not left yet / has been passed on

struct FrameRule {
  wire::FrameType type = wire::FrameType::invalid;
  Direction direction = Direction::to_target;
  Moment moment = Moment::before;
  unsigned nth = 1;  // of that type and direction, over all connections, counted from set_rule()
  enum class Then : uint8_t {
    nothing,  // `action` alone
    cut,      // the frame's connection is ended, both halves
    swallow,  // nothing is passed on any more on any connection, new ones are taken and hear nothing: a vanished node
    delay,    // the frame waits `delay`
    damage,   // the frame goes on with a checksum that is not its own
    rewrite,  // the frame goes on as `rewrite` makes it
  };
  Then then = Then::nothing;
  Nanoseconds delay{0};
  std::function<void()> action;  // called once, on the connection's thread
  std::function<void(wire::FrameHeader&, std::string& payload)> rewrite = {};  // likewise; length and checksum are its to set
};

// Who the proxy is under TLS: to those that connect the node `target`, and to that node its peer.
struct ProxyIdentities {
  std::string target;  // the node's name
  std::shared_ptr<move::Tls> of_target, of_peer;  // null: plain text
};

class FrameProxy {
 public:
  // Both "ADDRESS:PORT" in the network namespace of the calling thread; port 0 of ours takes a free one.
  [[nodiscard]] static Result<std::unique_ptr<FrameProxy>> listen(const std::string& endpoint, const std::string& target, ProxyIdentities identities = {});
  ~FrameProxy();

  [[nodiscard]] const std::string& endpoint() const { return endpoint_; }
  void set_rule(FrameRule rule);
  // No rule, and a vanished node is back. Connections that were swallowed are ended.
  void heal();
  // Whether the rule has been carried out.
  [[nodiscard]] bool fired() const;
  // Every connection is ended.
  void cut_all();

 private:
  struct Link;
  FrameProxy(Fd listener, std::string endpoint, std::string target, ProxyIdentities identities);
  void accept_loop();
  [[nodiscard]] Status take(Fd near);
  void shake_both(Link& link) const;
  void pump(const std::shared_ptr<Link>& link, Direction direction);
  [[nodiscard]] bool forward(Link& link, Direction direction, wire::FrameHeader header);
  // The rule that this frame meets, taken.
  [[nodiscard]] std::optional<FrameRule> meet(const wire::FrameHeader& header, Direction direction);
  void carry_out(const FrameRule& rule, Link& link);
  [[nodiscard]] bool swallowing() const;

  Fd listener_, stop_;
  std::string endpoint_, target_;
  ProxyIdentities identities_;
  mutable std::mutex mutex_;
  std::optional<FrameRule> rule_;
  unsigned seen_ = 0;
  bool fired_ = false, swallowing_ = false;
  std::vector<std::shared_ptr<Link>> links_;
  std::thread acceptor_;
};

}  // namespace mose::test
