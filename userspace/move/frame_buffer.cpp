// SPDX-License-Identifier: MIT
#include "move/frame_buffer.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mose::move {
namespace {

// One read of a payload; also what a length in a header can make us allocate before its bytes are there.
constexpr size_t kPieceBytes = 1u << 20;

// Appends up to `wanted` bytes that are there now. 0: none now.
Result<size_t> read_some(int fd, std::vector<std::byte>& to, size_t wanted) {
  size_t at = to.size();
  to.resize(at + wanted);
  ssize_t got;
  do {
    got = recv(fd, to.data() + at, wanted, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  int code = errno;
  to.resize(at + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0) return fail_errno("peer has closed the connection", ECONNRESET);
  if (code == EAGAIN) return size_t{0};
  return fail_errno("receive", code);
}

Status check_images(const wire::FrameHeader& header, uint64_t bytes_max) {
  auto type = static_cast<wire::FrameType>(header.type);
  bool images = type == wire::FrameType::images || type == wire::FrameType::standby;
  if (!images || header.length <= bytes_max) return {};
  return fail_errno(std::string(to_string(type)) + " frame of " + std::to_string(header.length) + " bytes, at most " +
                        std::to_string(bytes_max) + " are taken here (limits.images_bytes_max)",
                    EMSGSIZE);
}

Status check_type(const wire::FrameHeader& header, std::optional<wire::FrameType> only) {
  auto type = static_cast<wire::FrameType>(header.type);
  if (!only || type == *only) return {};
  return fail(std::string(to_string(type)) + " frame where only " + to_string(*only) + " is taken");
}

}  // namespace

Result<std::optional<Frame>> FrameReader::read(int fd) {
  while (!have_header_) {
    if (header_.size() == sizeof(parsed_)) {
      memcpy(&parsed_, header_.data(), sizeof(parsed_));
      MOSE_TRY(check_header(parsed_, expected_));
      MOSE_TRY(check_type(parsed_, only_));
      MOSE_TRY(check_images(parsed_, images_bytes_max_));
      have_header_ = true;
      break;
    }
    MOSE_ASSIGN(size_t got, read_some(fd, header_, sizeof(parsed_) - header_.size()));
    if (got == 0) return std::nullopt;
  }
  while (payload_.size() < parsed_.length) {
    MOSE_ASSIGN(size_t got, read_some(fd, payload_, std::min<size_t>(parsed_.length - payload_.size(), kPieceBytes)));
    if (got == 0) return std::nullopt;
  }
  Frame frame;
  frame.type = static_cast<wire::FrameType>(parsed_.type);
  frame.stream = {MigrationId{parsed_.migration}, parsed_.epoch};
  frame.payload = std::exchange(payload_, {});
  header_.clear();
  have_header_ = false;
  if (checksum(frame.payload) != parsed_.checksum) {
    return fail(std::string(to_string(frame.type)) + " frame with a wrong checksum");
  }
  return frame;
}

Status FrameWriter::push(wire::FrameType type, const StreamId& stream, std::span<const std::byte> payload) {
  if (payload.size() > payload_max(type)) {
    return fail_errno(std::string(to_string(type)) + " frame of " + std::to_string(payload.size()) + " bytes",
                      EMSGSIZE);
  }
  if (queued_bytes_ + payload.size() > kQueuedBytesMax) return fail_errno("peer does not take frames", ENOBUFS);
  queue_.push_back(encode_frame(type, stream, payload));
  queued_bytes_ += queue_.back().size();
  return {};
}

Result<bool> FrameWriter::flush(int fd) {
  while (!queue_.empty()) {
    const std::vector<std::byte>& front = queue_.front();
    ssize_t sent = ::send(fd, front.data() + done_, front.size() - done_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return false;
      return fail_errno("send");
    }
    done_ += static_cast<size_t>(sent);
    if (done_ < front.size()) continue;
    queued_bytes_ -= front.size();
    done_ = 0;
    queue_.pop_front();
  }
  return true;
}

}  // namespace mose::move
