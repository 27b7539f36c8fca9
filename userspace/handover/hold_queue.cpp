// SPDX-License-Identifier: MIT
#include "handover/hold_queue.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/log.h"
#include "handover/device_name.h"
#include "kernel/bpf_object.h"
#include "kernel/netlink.h"
#include "kernel/packet_socket.h"
#include "kernel/urgently.h"
#include "mose/bpf/steer.h"

namespace mose::handover {
namespace {

constexpr uint64_t kPumpBatch = 256;
// A frame that the program has counted enters the tap within microseconds. What has not come after this is lost.
constexpr Nanoseconds kLostAfter = std::chrono::milliseconds(50);
constexpr unsigned kLostSamplesMin = 10;  // of an empty tap, for a machine that stands still in between
constexpr Nanoseconds kNoRoomPause = std::chrono::microseconds(50);

// What an empty tap leaves of the count: frames that are just entering it, and frames that never will: those in the hands of
// an agent that was killed, or dropped by the tap. New frames keep coming meanwhile, so what counts is not that nothing
// moves but the least that was ever left.
class Missing {
 public:
  // `left` was read before the tap was seen empty. How many frames are lost, by now.
  uint64_t sample(uint64_t left) {
    Timestamp time = now();
    if (samples_ == 0) {
      begin_ = time;
      least_ = left;
    }
    least_ = std::min(least_, left);
    ++samples_;
    if (least_ > 0 && (time - begin_ < kLostAfter || samples_ < kLostSamplesMin)) return 0;
    samples_ = 0;
    return least_;
  }

 private:
  Timestamp begin_{};
  uint64_t least_ = 0;
  unsigned samples_ = 0;
};

// Fewer and fewer frames may wait in a drain that does not end by itself.
class Narrowing {
 public:
  explicit Narrowing(Nanoseconds limit) : limit_(limit) {}

  // `left`: how many wait.
  Status go_on(Steering& steering, Direction direction, uint64_t left) {
    const Nanoseconds passed = now() - begin_;
    if (passed < limit_ / 2) return {};
    if (waiting_ == 0) {
      waiting_ = std::max<uint64_t>(left, 1);
      log::warn("held frames come faster than they go: new ones are dropped",
                {{"workload", steering.workload()}, {"direction", to_string(direction)}, {"waiting", left}});
    }
    const uint32_t bound = drain_bound(waiting_, passed, limit_);
    if (bound == bound_) return {};
    bound_ = bound;
    return steering.bound_drain(direction, bound);
  }

 private:
  Nanoseconds limit_;
  Timestamp begin_ = now();
  uint64_t waiting_ = 0;  // when half of the limit had passed
  uint32_t bound_ = 0;
};

}  // namespace

std::string tap_device_name(Direction direction, const std::string& workload) {
  return device_name(direction == Direction::ingress ? "mi" : "me", workload);
}

uint32_t drain_bound(uint64_t waiting, Nanoseconds passed, Nanoseconds limit) {
  constexpr int64_t kSteps = 16;
  const Nanoseconds begin = limit / 2, step = std::max(limit / 4 / kSteps, Nanoseconds(1));
  if (passed < begin) return 0;
  const int64_t steps = std::min<int64_t>((passed - begin) / step, kSteps);
  return static_cast<uint32_t>(std::max<uint64_t>(waiting * static_cast<uint64_t>(kSteps - steps) / kSteps, 1));
}

Status HoldQueue::open_injector(const Steering& steering) {
  if (direction_ == Direction::ingress) {
    MOSE_ASSIGN(injector_,
                open_packet_socket(steering.config().host_ifindex, {.vnet_header = true, .mark = MOSE_STEER_MARK}));
    return {};
  }
  // From the tap's receive side to the host end's receive side: bridge, switch and programs see what they would have
  // seen, which sending out of the uplink would not give (nor reach a peer on this node).
  if (steering.config().attach == TcAttach::clsact) {
    return bpf::attach_clsact(steering.tap_program(), tap_ifindex_, bpf::TcPoint::ingress, 1);
  }
  MOSE_ASSIGN(injector_, bpf::attach_tcx(steering.tap_program(), tap_ifindex_, bpf::TcPoint::ingress));
  return {};
}

void HoldQueue::use(Tap tap) {
  tap_ = std::move(tap.fd);
  tap_ifindex_ = tap.ifindex;
  buffer_.resize(kTapFrameMax);
}

Result<HoldQueue> HoldQueue::create(const Steering& steering, Direction direction, const std::string& holder_file) {
  if (direction == Direction::uplink) return fail("nothing is held on the uplink");
  HoldQueue queue;
  queue.direction_ = direction;
  queue.name_ = tap_device_name(direction, steering.workload());
  if (!holder_file.empty()) {
    TapHolder::end_left(holder_file);
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.delete_link(queue.name_));  // of a holder whose file is gone
  }
  MOSE_ASSIGN(Tap tap, create_tap(queue.name_, kTapQueueLength));
  queue.use(std::move(tap));
  if (!holder_file.empty()) {
    MOSE_ASSIGN(queue.holder_, TapHolder::start(queue.tap_.get(), holder_file));
  }
  MOSE_TRY(queue.open_injector(steering));
  return queue;
}

Result<HoldQueue> HoldQueue::adopt(const Steering& steering, Direction direction, const std::string& holder_file) {
  HoldQueue queue;
  queue.direction_ = direction;
  queue.name_ = tap_device_name(direction, steering.workload());
  MOSE_ASSIGN(auto left, TapHolder::take_over(holder_file));
  queue.holder_ = std::move(left.holder);
  auto tap = adopt_tap(std::move(left.tap), queue.name_);
  Status opened = tap ? Status{} : std::unexpected(tap.error());
  if (tap) {
    queue.use(std::move(*tap));
    opened = queue.open_injector(steering);
  }
  if (!opened) {
    queue.holder_.leave();  // with the frames, for another attempt
    return std::unexpected(opened.error());
  }
  return queue;
}

Result<std::optional<HoldQueue>> HoldQueue::adopt_held(const Steering& steering, Direction direction,
                                                       const std::string& holder_file) {
  auto queue = adopt(steering, direction, holder_file);
  if (queue) return std::move(*queue);
  MOSE_ASSIGN(uint64_t held, steering.held_now(direction));
  if (held > 0) return context(std::to_string(held) + " held frames cannot be taken over", std::move(queue).error());
  MOSE_ASSIGN(uint64_t lost, steering.queued_now(direction));
  if (lost > 0) {
    log::warn("held frames have gone with their queue", {{"workload", steering.workload()},
                                                         {"direction", to_string(direction)},
                                                         {"frames", lost},
                                                         {"reason", queue.error().what}});
  }
  return std::nullopt;
}

// Size of the next frame in buffer_, 0 when the tap is empty.
Result<size_t> HoldQueue::next_frame() {
  for (;;) {
    ssize_t got = read(tap_.get(), buffer_.data(), buffer_.size());
    if (got >= 0) return static_cast<size_t>(got);
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return size_t{0};
    return fail_errno("read held frames from " + name_);
  }
}

// False: no room at present. Returns only after the stack has taken the frame as far as it goes at once.
Result<bool> HoldQueue::put_back(std::span<const uint8_t> frame) {
  if (direction_ == Direction::ingress) return send_frame(injector_.get(), frame);
  for (;;) {
    if (write(tap_.get(), frame.data(), frame.size()) >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) return false;
    return fail_errno("put a frame of " + std::to_string(frame.size()) + " bytes back by " + name_);
  }
}

void HoldQueue::lose(Steering& steering, uint64_t frames, uint64_t bytes, std::string_view reason) {
  stats_.lost += frames;
  steering.add_drained(direction_, frames, bytes);
  log::warn("held frames are lost", {{"workload", steering.workload()},
                                     {"direction", to_string(direction_)},
                                     {"frames", frames},
                                     {"reason", reason}});
}

Result<uint64_t> HoldQueue::pump(Steering& steering, uint64_t budget) {
  uint64_t done = 0;
  while (done < budget) {
    if (pending_ == 0) {
      MOSE_ASSIGN(pending_, next_frame());
      if (pending_ == 0) break;
    }
    auto put = put_back(std::span(buffer_).first(pending_));
    if (put && !*put) {
      ++stats_.retries;
      break;
    }
    if (!put && (put.error().code == EINVAL || put.error().code == EMSGSIZE)) {
      // This frame alone is refused, today and tomorrow.
      lose(steering, 1, pending_ - kVnetHeaderSize, put.error().what);
      pending_ = 0;
      ++done;
      continue;
    }
    if (!put) return std::unexpected(put.error());
    const uint64_t bytes = pending_ - kVnetHeaderSize;
    ++stats_.reinjected;
    stats_.bytes += bytes;
    pending_ = 0;
    steering.add_drained(direction_, 1, bytes);
    ++done;
  }
  return done;
}

Result<bool> HoldQueue::drain(Steering& steering, Nanoseconds limit) {
  MOSE_ASSIGN(SteerPolicy policy, steering.policy(direction_));
  if (policy.state == SteerState::hold || policy.state == SteerState::hold_new) {
    return fail(std::string("drain of ") + to_string(direction_) +
                ": the programs still hold, set them to drain first");
  }
  Urgently urgently;
  Missing missing;
  Narrowing narrowing(limit);
  for (Timestamp deadline = now() + limit;;) {
    MOSE_ASSIGN(uint64_t done, pump(steering, kPumpBatch));
    MOSE_ASSIGN(uint64_t left, steering.queued_now(direction_));
    if (left == 0 && pending_ == 0) return true;
    if (now() >= deadline) return false;
    MOSE_TRY(narrowing.go_on(steering, direction_, left));
    if (pending_ != 0) {
      timespec pause{.tv_sec = 0, .tv_nsec = kNoRoomPause.count()};
      nanosleep(&pause, nullptr);
    } else if (done < kPumpBatch) {
      MOSE_ASSIGN(pending_, next_frame());
      if (pending_ != 0) continue;
      if (uint64_t lost = missing.sample(left); lost > 0) {
        lose(steering, lost, 0, "given to the tap but not in its queue");
        continue;
      }
      pollfd wait{.fd = tap_.get(), .events = POLLIN};
      (void)poll(&wait, 1, 1);
    }
  }
}

Result<uint64_t> HoldQueue::discard(Steering& steering) {
  MOSE_ASSIGN(SteerPolicy policy, steering.policy(direction_));
  if (policy.state != SteerState::shut) {
    return fail(std::string("frames of ") + to_string(direction_) + " are thrown away only when it is shut");
  }
  uint64_t frames = 0;
  for (Missing missing;;) {
    MOSE_ASSIGN(uint64_t left, steering.queued_now(direction_));
    MOSE_ASSIGN(size_t frame, pending_ != 0 ? Result<size_t>(pending_) : next_frame());
    pending_ = 0;
    if (frame != 0) {
      steering.add_drained(direction_, 1, frame - kVnetHeaderSize);
      ++frames;
      continue;
    }
    if (left == 0) return frames;
    if (uint64_t lost = missing.sample(left); lost > 0) {
      lose(steering, lost, 0, "given to the tap but not in its queue");
      continue;
    }
    pollfd wait{.fd = tap_.get(), .events = POLLIN};
    (void)poll(&wait, 1, 1);
  }
}

void HoldQueue::leave(const Steering& steering) {
  auto policy = steering.policy(direction_);
  if (!policy || policy->state != SteerState::pass) holder_.leave();
}

}  // namespace mose::handover
