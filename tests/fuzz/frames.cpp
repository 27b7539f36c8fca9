// SPDX-License-Identifier: MIT
#include "fuzz/frames.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/check.h"
#include "move/codec.h"
#include "move/compression.h"
#include "move/frame_buffer.h"
#include "move/hello.h"
#include "fuzz/targets.h"
#include "move/page_receiver.h"

namespace mose::fuzz {
namespace {

using namespace move;

const StreamId kStream{MigrationId{{1, 2, 3}}, 4};

// What has been decoded must be in canonical form and below every bound.
void check_set(const PageSet& set) {
  uint64_t end = 0;
  for (const PageRun& run : set.runs()) {
    MOSE_CHECK(run.count != 0 && run.first >= end && run.end() <= wire::kPageIndexMax, "decoded runs are sane");
    end = run.end();
  }
}

void feed_decoders(std::span<const std::byte> input) {
  if (auto map = decode_page_map(input)) {
    for (const SpacePages& space : *map) {
      check_set(space.present);
      check_set(space.remote);
      MOSE_CHECK(space.remote.minus(space.present).empty(), "remote is a part of present");
    }
    auto again = encode_page_map(*map);
    MOSE_CHECK(again && decode_page_map(*again)->size() == map->size(), "what was decoded can be encoded");
  }
  if (auto request = decode_request(input)) {
    MOSE_CHECK(count_pages(request->runs) <= wire::kPagesPerFrameMax, "requests are bounded");
  }
  if (auto heat = decode_heat(input)) {
    uint64_t runs = 0;
    for (const SpaceHeat& space : *heat) {
      MOSE_CHECK(space.space != 0 && !space.levels.empty() && space.levels.size() <= wire::kHeatLevelsMax,
                 "decoded heat is sane");
      for (const PageSet& level : space.levels) {
        check_set(level);
        runs += level.runs().size();
      }
    }
    MOSE_CHECK(heat->size() <= wire::kSpacesMax && runs <= wire::kHeatRunsMax, "decoded heat is bounded");
    auto again = decode_heat(encode_heat(*heat));
    MOSE_CHECK(again && again->size() == heat->size(), "what was decoded can be encoded");
  }
  static_cast<void>(decode_round_end(input));
  static_cast<void>(decode_hello(input));
  wire::PagesHeader header;
  if (input.size() >= sizeof(header)) {
    memcpy(&header, input.data(), sizeof(header));
    if (check_pages_header(header, input.size())) {
      MOSE_CHECK(header.pages <= wire::kPagesPerFrameMax && header.runs <= header.pages, "PAGES is bounded");
    }
  }
}

// The checksum that a PAGES frame must have to be taken: of a compressed one that of what comes out of it.
uint64_t checksum_of(wire::FrameType type, std::span<const std::byte> payload) {
  wire::PagesHeader header{};
  if (type != wire::FrameType::pages || payload.size() < sizeof(header)) return checksum(payload);
  memcpy(&header, payload.data(), sizeof(header));
  if (header.flags != wire::kPagesBySums || !check_pages_header(header, payload.size())) return checksum(payload);
  std::vector<wire::Run> runs(header.runs);
  const auto after = payload.subspan(sizeof(header) + runs.size() * sizeof(wire::Run));
  memcpy(runs.data(), payload.data() + sizeof(header), runs.size() * sizeof(wire::Run));
  std::vector<std::byte> contents(header.pages * kPageSize);
  if (header.codec == static_cast<uint8_t>(wire::Codec::raw)) {
    memcpy(contents.data(), after.data(), contents.size());
  } else if (!Decompressor().decompress(static_cast<wire::Codec>(header.codec), after, contents)) {
    return checksum(payload);
  }
  std::vector<uint64_t> sums;
  for (size_t at = 0; at < contents.size(); at += kPageSize) sums.push_back(page_sum(contents.data() + at));
  return sums_checksum(header, runs, sums);
}

void append_frame(std::vector<std::byte>& out, wire::FrameType type, std::span<const std::byte> payload,
                  uint64_t damage = 0) {
  const auto header =
      make_header(type, kStream, static_cast<uint32_t>(payload.size()), checksum_of(type, payload) ^ damage);
  const auto bytes = std::as_bytes(std::span(&header, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
  out.insert(out.end(), payload.begin(), payload.end());
}

// The input as frames: the first byte of each chunk names the type, the next two its length, so that mutations reach the
// handlers instead of failing at a checksum.
std::vector<std::byte> as_frames(std::span<const std::byte> input) {
  constexpr wire::FrameType kTypes[] = {wire::FrameType::pages,    wire::FrameType::page_map, wire::FrameType::round_end,
                                        wire::FrameType::bulk_end, wire::FrameType::error,    wire::FrameType::request,
                                        wire::FrameType::hello,    wire::FrameType::commit,   wire::FrameType::heat};
  std::vector<std::byte> out;
  while (input.size() >= 3) {
    auto type = kTypes[static_cast<size_t>(input[0]) % std::size(kTypes)];
    size_t length = static_cast<size_t>(input[1]) | static_cast<size_t>(input[2]) << 8;
    input = input.subspan(3);
    length = std::min({length, input.size(), static_cast<size_t>(payload_max(type))});
    append_frame(out, type, input.first(length));
    input = input.subspan(length);
  }
  return out;
}

void feed_reader(std::span<const std::byte> bytes) {
  int fds[2];
  MOSE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
  Fd ours(fds[0]), theirs(fds[1]);
  if (send(ours.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return;
  ours.reset();
  StreamSocket socket(std::move(theirs));
  FrameReader reader;
  for (;;) {
    auto frame = reader.read(socket);
    if (!frame || !*frame) break;
  }
}

// How many pages it has taken.
uint64_t feed_receiver(std::span<const std::byte> stream) {
  auto store = PageStore::create(kStream.migration, kStream.epoch, 4u << 20);
  MOSE_CHECK(store.has_value(), "page store");
  int fds[2];
  MOSE_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
  Fd ours(fds[0]);
  if (send(ours.get(), stream.data(), stream.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    close(fds[1]);
    return 0;
  }
  ours.reset();
  std::atomic<bool> ended{false};
  std::atomic<int> theirs{fds[1]};
  PageReceiverOptions options;
  options.connect = [&](Purpose purpose) -> Result<Channel> {
    if (int fd = purpose == Purpose::bulk ? theirs.exchange(-1) : -1; fd >= 0) return Channel(Fd(fd), kStream);
    return fail("no more connections");
  };
  options.on_failure = [&](const Error&) { ended = true; };
  options.on_trouble = [&](const Error&) { ended = true; };
  options.on_complete = [&] { ended = true; };
  PageReceiver receiver(**store, std::move(options));
  receiver.start();
  for (int i = 0; i < 20000 && !ended; ++i) usleep(50);
  MOSE_CHECK(ended, "a stream that ends is noticed");
  receiver.stop();
  return receiver.stats().pages;
}

}  // namespace

void feed_frames(Input input) { feed(input); }

void feed(std::span<const std::byte> input) {
  feed_decoders(input);
  feed_reader(input);
  std::vector<std::byte> frames = as_frames(input);
  feed_reader(frames);
  static_cast<void>(feed_receiver(frames));
}

bool receive(std::span<const std::byte> pages, uint64_t damage) {
  std::vector<std::byte> frames;
  append_frame(frames, wire::FrameType::pages, pages, damage);
  return feed_receiver(frames) != 0;
}

}  // namespace mose::fuzz
