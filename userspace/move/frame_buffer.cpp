// SPDX-License-Identifier: MIT
#include "move/frame_buffer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mose::move {
namespace {

// One read of a payload; also what a length in a header can make us allocate before its bytes are there.
constexpr size_t kPieceBytes = 1u << 20;

// Appends up to `wanted` bytes that are there now. 0: none now.
Result<size_t> read_some(StreamSocket& socket, std::vector<std::byte>& to, size_t wanted) {
  const size_t at = to.size();
  to.resize(at + wanted);
  size_t done = 0;
  while (done < wanted) {
    const iovec part{to.data() + at + done, wanted - done};
    MOSE_ASSIGN(Moved got, socket.read({&part, 1}));
    if (got.bytes == 0) break;
    done += got.bytes;
  }
  to.resize(at + done);
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
    if (header_.size() == sizeof(parsed_)) {
      memcpy(&parsed_, header_.data(), sizeof(parsed_));
      MOSE_TRY(check_header(parsed_, expected_));
      MOSE_TRY(check_type(parsed_, only_));
      MOSE_TRY(check_images(parsed_, images_bytes_max_));
      have_header_ = true;
      break;
    }
    MOSE_ASSIGN(size_t got, read_some(socket, header_, sizeof(parsed_) - header_.size()));
    if (got == 0) return std::nullopt;
  }
  while (payload_.size() < parsed_.length) {
    MOSE_ASSIGN(size_t got, read_some(socket, payload_, std::min<size_t>(parsed_.length - payload_.size(), kPieceBytes)));
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
