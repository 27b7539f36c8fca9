// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "handover/steering.h"
#include "handover/tap_holder.h"
#include "kernel/tap.h"

// The frames of one direction that are being held: a tap whose queue in the kernel keeps them, GSO and checksum state
// intact, and the pump that puts them back in order.
//
// Life: create() early (before the freeze); steering.set(hold, tap_ifindex()) sends frames here; nothing needs to read
// until release. Then steering.set_state(drain) and drain() or pump(): every frame goes back to the host end of the
// workload's device, towards the workload (ingress) or as if it had just come from it (egress), carrying
// MOSE_STEER_MARK, and the programs pass or redirect it. New frames keep queueing behind until the tap is empty; the
// programs decide that moment, so that nothing overtakes. After drain() has returned true nothing can come any more and
// the queue may be destroyed. Destroying it earlier loses what it holds. An agent that dies does not destroy it: with a
// holder file given, adopt() of the next agent goes on with every frame.
namespace mose::handover {

// Name of the tap in which its held frames wait: "mi" or "me" and the same digits.
[[nodiscard]] std::string tap_device_name(Direction direction, const std::string& workload);

// How many frames may wait when `passed` of a drain's `limit` has: 0, as many as the hold allows, for half of it; then, by
// steps, fewer than the `waiting` of that moment, and one alone from three quarters on. So a drain that more comes to than it
// can put back ends all the same if within a quarter of its limit it can put back what waits.
[[nodiscard]] uint32_t drain_bound(uint64_t waiting, Nanoseconds passed, Nanoseconds limit);

class HoldQueue {
 public:
  // For ingress or egress of what `steering` steers, in the caller's network namespace.
  // `holder_file` (in a directory of the agent's own) names the process that keeps the frames when the agent dies;
  // empty: they die with it. A tap of that name that is there belongs to nobody any more and goes.
  [[nodiscard]] static Result<HoldQueue> create(const Steering& steering, Direction direction,
                                                const std::string& holder_file = "");
  // What an agent that died has left, with all that it holds. Fails when there is nothing.
  [[nodiscard]] static Result<HoldQueue> adopt(const Steering& steering, Direction direction,
                                               const std::string& holder_file);

  // The same where nothing may be there: an error only when frames wait in a tap that cannot be taken over.
  [[nodiscard]] static Result<std::optional<HoldQueue>> adopt_held(const Steering& steering, Direction direction,
                                                                   const std::string& holder_file);

  HoldQueue(HoldQueue&&) noexcept = default;
  HoldQueue& operator=(HoldQueue&&) noexcept = default;
  HoldQueue(const HoldQueue&) = delete;
  HoldQueue& operator=(const HoldQueue&) = delete;
  ~HoldQueue() = default;

  struct Stats {
    uint64_t reinjected = 0;  // frames put back
    uint64_t bytes = 0;
    uint64_t retries = 0;  // the kernel had no room for a frame and it was tried again
    uint64_t lost = 0;     // given to the tap but never seen in it, or refused for good; in the log, with the reason
  };

  [[nodiscard]] unsigned tap_ifindex() const { return tap_ifindex_; }
  [[nodiscard]] int poll_fd() const { return tap_.get(); }  // readable: there are frames
  [[nodiscard]] const Stats& stats() const { return stats_; }

  // Puts back at most `budget` frames without blocking; how many it were. Fewer than the budget: the tap is empty, or
  // the kernel has no room at present (call again).
  [[nodiscard]] Result<uint64_t> pump(Steering& steering, uint64_t budget);
  // From a thread of its own, with the direction in drain: pumps until the programs have nothing queued. Where more comes
  // than goes, what comes is dropped more and more from half of `limit` on (drain_bound()), counted as overflow. False: not
  // finished within `limit` all the same (the tree behind does not take what waits); the state is still drain and drain()
  // must be called again: nobody else empties the tap. The calling thread runs with real-time priority meanwhile.
  [[nodiscard]] Result<bool> drain(Steering& steering, Nanoseconds limit);
  // An agent that ends: what still waits here, with a holder, goes on waiting for adopt() of the next one. Last call.
  void leave(const Steering& steering);
  // Throws away everything that is held; how many frames. Only with the direction shut, so that nothing more can come: the
  // next hold begins with an empty queue.
  [[nodiscard]] Result<uint64_t> discard(Steering& steering);

 private:
  HoldQueue() = default;
  void use(Tap tap);
  [[nodiscard]] Status open_injector(const Steering& steering);
  [[nodiscard]] Result<size_t> next_frame();
  [[nodiscard]] Result<bool> put_back(std::span<const uint8_t> frame);
  void lose(Steering& steering, uint64_t frames, uint64_t bytes, std::string_view reason);

  Direction direction_ = Direction::ingress;
  std::string name_;
  TapHolder holder_;
  Fd tap_;
  unsigned tap_ifindex_ = 0;
  Fd injector_;  // ingress: packet socket on the host end. egress: link of steer_tap on the tap; none when it is a
                 // filter
  std::vector<uint8_t> buffer_;
  size_t pending_ = 0;  // size of a frame in buffer_ that could not be put back yet
  Stats stats_;
};

}  // namespace mose::handover
