// SPDX-License-Identifier: MIT
#include "move/frame_buffer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mose::move {
namespace {

// What a length in a header can make us allocate before its bytes are there.
constexpr size_t kPieceBytes = 1u << 20;

// As much of `to` as is there now. 0: nothing now.
Result<size_t> read_some(StreamSocket& socket, std::span<std::byte> to) {
  size_t done = 0;
  while (done < to.size()) {
    const iovec part{to.data() + done, to.size() - done};
    MOSE_ASSIGN(Moved got, socket.read({&part, 1}));
    if (got.bytes == 0) break;
    done += got.bytes;
  }
  return done;
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

Result<std::optional<Frame>> FrameReader::read(StreamSocket& socket) {
  while (!have_header_) {
    if (filled_ == header_.size()) {
      memcpy(&parsed_, header_.data(), sizeof(parsed_));
      MOSE_TRY(check_header(parsed_, expected_));
      MOSE_TRY(check_type(parsed_, only_));
      MOSE_TRY(check_images(parsed_, images_bytes_max_));
      have_header_ = true;
      filled_ = 0;
      break;
    }
    MOSE_ASSIGN(size_t got, read_some(socket, std::span(header_).subspan(filled_)));
    if (got == 0) return std::nullopt;
    filled_ += got;
  }
  while (filled_ < parsed_.length) {
    if (filled_ == payload_.size()) payload_.resize(std::min<size_t>(parsed_.length, filled_ + kPieceBytes));
    MOSE_ASSIGN(size_t got, read_some(socket, std::span(payload_).subspan(filled_)));
    if (got == 0) return std::nullopt;
    filled_ += got;
  }
  Frame frame;
  frame.type = static_cast<wire::FrameType>(parsed_.type);
  frame.stream = {MigrationId{parsed_.migration}, parsed_.epoch};
  frame.payload = std::exchange(payload_, {});
  filled_ = 0;
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

Result<bool> FrameWriter::flush(StreamSocket& socket) {
  while (!queue_.empty()) {
    std::vector<std::byte>& front = queue_.front();
    const iovec part{front.data() + done_, front.size() - done_};
    MOSE_ASSIGN(Moved sent, socket.write({&part, 1}));
    if (sent.bytes == 0) return false;
    done_ += sent.bytes;
    if (done_ < front.size()) continue;
    queued_bytes_ -= front.size();
    done_ = 0;
    queue_.pop_front();
  }
  return socket.flush();
}

}  // namespace mose::move
