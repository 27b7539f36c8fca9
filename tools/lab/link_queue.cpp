// SPDX-License-Identifier: MIT
#include "lab/link_queue.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mose::lab {
namespace {

// virtio_net_hdr, whose kernel header C++ does not take.
struct VnetHeader {
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
constexpr size_t kHeaderBytes = sizeof(VnetHeader);
static_assert(kHeaderBytes == 10);

}  // namespace

bool LinkQueue::push(std::string frame, size_t wire_bytes, int64_t now_ns) {
  int64_t leaves = now_ns;
  bool fits = held_bytes_ + frame.size() <= kLinkBytesMax;
  if (shape_.rate_bits_per_s > 0) {
    auto rate = static_cast<double>(shape_.rate_bits_per_s);
    double waiting = static_cast<double>(std::max<int64_t>(0, wire_free_ns_ - now_ns)) * rate / 8e9;
    fits = fits && waiting + static_cast<double>(wire_bytes) <= static_cast<double>(shape_.queue_bytes);
    leaves = std::max(now_ns - kLinkBurstNs, wire_free_ns_) +
             static_cast<int64_t>(static_cast<double>(wire_bytes) * 8e9 / rate);
  }
  if (!fits) {
    ++dropped_;
    return false;
  }
  wire_free_ns_ = leaves;
  held_bytes_ += frame.size();
  frames_.push_back({std::max(leaves, now_ns) + shape_.delay_ns, std::move(frame)});
  return true;
}

std::optional<int64_t> LinkQueue::next_due_ns() const {
  if (frames_.empty()) return std::nullopt;
  return frames_.front().due_ns;
}

std::string LinkQueue::pop() {
  MOSE_CHECK(!frames_.empty(), "a frame is due");
  std::string out = std::move(frames_.front().bytes);
  frames_.pop_front();
  held_bytes_ -= out.size();
  return out;
}

size_t link_queue_bytes(uint64_t rate_bits_per_s) {
  if (rate_bits_per_s == 0) return 0;
  auto bytes = static_cast<size_t>(static_cast<double>(rate_bits_per_s) * static_cast<double>(kLinkQueueNs) / 8e9);
  return std::max(bytes, kLinkQueueBytesMin);
}

size_t wire_bytes(std::string_view frame) {
  if (frame.size() <= kHeaderBytes) return 0;
  VnetHeader header;
  std::memcpy(&header, frame.data(), sizeof header);
  size_t bytes = frame.size() - kHeaderBytes;
  if (header.gso_type == 0 || header.gso_size == 0 || header.hdr_len >= bytes) return bytes;
  size_t segments = (bytes - header.hdr_len + header.gso_size - 1) / header.gso_size;
  return bytes + (segments - 1) * header.hdr_len;
}

}  // namespace mose::lab
