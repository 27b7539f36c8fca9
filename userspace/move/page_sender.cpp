// SPDX-License-Identifier: MIT
#include "move/page_sender.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>

#include "kernel/process_memory.h"
#include "kernel/socket.h"

namespace mose::move {
namespace {

// Once pushing, little waits in the kernel in front of an urgent answer; large enough to keep a fast link busy.
constexpr unsigned kPushUnsentMax = 1u << 20;

std::vector<uint64_t> page_sums(std::span<const std::span<const std::byte>> pieces) {
  std::vector<uint64_t> sums;
  for (const auto& piece : pieces) {
    for (size_t at = 0; at < piece.size(); at += kPageSize) sums.push_back(page_sum(piece.data() + at));
  }
  return sums;
}

}  // namespace

PageSender::PageSender(Channel& channel, PageSenderOptions options) : channel_(channel), options_(std::move(options)) {}

Status PageSender::send_pages(SpaceId space, std::span<const PageRun> runs,
                              std::span<const std::span<const std::byte>> pieces) {
  return send_hashed(space, runs, pieces, {});
}

Status PageSender::send_hashed(SpaceId space, std::span<const PageRun> runs,
                               std::span<const std::span<const std::byte>> pieces, std::span<const uint64_t> hashes) {
  if (options_.stop.stop_requested()) return fail_errno("sending pages", ECANCELED);
  PageEncoder& encoder = options_.encoder ? *options_.encoder : raw_;
  Bandwidth& bandwidth = options_.bandwidth ? *options_.bandwidth : unlimited_;
  const uint64_t pages = count_pages(runs);
  const uint64_t before = channel_.bytes_sent();
  const PageEncoder::Encoded encoded = encoder.encode(pieces);

  wire::PagesHeader header{};
  header.space = space;
  header.page_shift = kPageShift;
  header.codec = static_cast<uint8_t>(encoded.codec);
  if (encoder.by_sums()) header.flags = wire::kPagesBySums;
  header.runs = static_cast<uint32_t>(runs.size());
  header.pages = static_cast<uint32_t>(pages);
  header.round = round_;
  std::vector<wire::Run> wire_runs = to_wire(runs);
  std::vector<std::span<const std::byte>> parts;
  parts.reserve(pieces.size() + 2);
  parts.push_back(std::as_bytes(std::span(&header, 1)));
  parts.push_back(std::as_bytes(std::span(wire_runs)));
  if (encoded.bytes.empty()) {
    parts.insert(parts.end(), pieces.begin(), pieces.end());
  } else {
    parts.push_back(encoded.bytes);
  }
  std::optional<uint64_t> sum;
  if (encoder.by_sums()) {
    std::vector<uint64_t> own;
    if (hashes.empty()) own = page_sums(pieces);
    sum = sums_checksum(header, wire_runs, hashes.empty() ? own : hashes);
  }
  const Nanoseconds waited = channel_.send_blocked() + bandwidth.waited();
  MOSE_TRY(channel_.send(wire::FrameType::pages, parts, bandwidth, options_.stop, sum));
  encoder.sent(encoded.codec, pages * kPageSize, channel_.bytes_sent() - before,
               channel_.send_blocked() + bandwidth.waited() - waited);

  ++total_.frames;
  total_.pages += pages;
  total_.bytes += channel_.bytes_sent() - before;
  if (options_.sent) options_.sent(space, runs);
  if (options_.progress) options_.progress(total_.pages, total_.bytes);
  return {};
}

Result<SendStats> PageSender::run_round(unsigned round, DirtySource& source, std::span<const SpaceProcess> processes) {
  const Timestamp start = now();
  const SendStats before = total_;
  round_ = round;
  if (options_.encoder) options_.encoder->begin();
  MOSE_ASSIGN(ScanStats scan, source.round(processes, *this, options_.stop));
  wire::RoundEnd end{round, 0, total_.pages - before.pages};
  MOSE_TRY(channel_.send(wire::FrameType::round_end, std::as_bytes(std::span(&end, 1))));
  SendStats stats;
  stats.frames = total_.frames - before.frames;
  stats.pages = total_.pages - before.pages;
  stats.bytes = total_.bytes - before.bytes;
  stats.duration = now() - start;
  stats.scan = scan;
  return stats;
}

Status PageSender::send_heat(std::span<const SpaceHeat> heat, uint64_t runs_max) {
  const std::vector<std::byte> payload = encode_heat(heat, runs_max);
  if (payload.empty()) return {};
  if (options_.bandwidth) options_.bandwidth->book(payload.size());
  return channel_.send(wire::FrameType::heat, payload);
}

Status PageSender::send_map(const FinalPages& pages) {
  MOSE_ASSIGN(std::vector<std::byte> payload, encode_page_map(pages.spaces));
  if (options_.bandwidth) options_.bandwidth->book(payload.size());
  return channel_.send(wire::FrameType::page_map, payload);
}

namespace {

// Reads the pages of a set in pieces and hands them to the sink.
Status push_set(const ProcessMemory& memory, SpaceId space, const PageSet& set, UrgentGate* gate, PageSink& sink) {
  std::vector<std::byte> buffer(wire::kPagesPerFrameMax * kPageSize);
  std::vector<uint64_t> unreadable;
  std::vector<PageRun> runs;
  uint64_t pages = 0;
  auto flush = [&]() -> Status {
    if (gate) {
      gate->wait();
      PageSet left;
      for (const PageRun& run : runs) {
        const PageSet unanswered = gate->unanswered(space, run);
        for (const PageRun& piece : unanswered.runs()) left.add(piece);
      }
      runs = left.runs();
      pages = left.pages();
    }
    if (runs.empty()) return {};
    std::span<const std::byte> bytes(buffer.data(), pages * kPageSize);
    MOSE_TRY(memory.read(runs, buffer, unreadable));
    if (!unreadable.empty()) return fail("page " + std::to_string(unreadable.front()) + " cannot be read");
    std::vector<std::span<const std::byte>> pieces;
    for (size_t at = 0; const PageRun& run : runs) {
      pieces.push_back(bytes.subspan(at, run.count * kPageSize));
      at += run.count * kPageSize;
    }
    MOSE_TRY(sink.send_pages(space, runs, pieces));
    runs.clear();
    pages = 0;
    return {};
  };
  for (PageRun run : set.runs()) {
    while (run.count != 0) {
      uint64_t take = std::min<uint64_t>(run.count, wire::kPagesPerFrameMax - pages);
      runs.push_back({run.first, take});
      pages += take;
      run = {run.first + take, run.count - take};
      if (pages == wire::kPagesPerFrameMax) MOSE_TRY(flush());
    }
  }
  return flush();
}

}  // namespace

Result<SendStats> PageSender::push(const FinalPages& pages, std::span<const SpaceProcess> processes) {
  const Timestamp start = now();
  const SendStats before = total_;
  round_ = 0;
  if (options_.encoder) options_.encoder->begin();
  // Not on every kind of socket; it only makes urgent answers wait less.
  static_cast<void>(set_unsent_max(channel_.fd(), kPushUnsentMax));
  std::map<SpaceId, const SpaceProcess*> known;
  for (const SpaceProcess& process : processes) known[process.space] = &process;
  std::map<SpaceId, PageSet> left;
  size_t passes = 0;
  for (const SpacePages& space : pages.spaces) {
    left[space.space] = space.remote;
    passes = std::max(passes, space.hot.size() + 2);
  }
  for (size_t pass = 0; pass < passes; ++pass) {
    for (const SpacePages& space : pages.spaces) {
      PageSet& rest = left[space.space];
      PageSet set = rest;  // the last pass
      if (pass == 0)
        set = rest.intersect(space.first);
      else if (pass + 1 < passes)
        set = pass <= space.hot.size() ? rest.intersect(space.hot[pass - 1]) : PageSet{};
      if (set.empty()) continue;
      rest = rest.minus(set);
      auto process = known.find(space.space);
      if (process == known.end()) return fail("space " + std::to_string(space.space) + " has no process");
      MOSE_ASSIGN(ProcessMemory memory, ProcessMemory::open(*process->second));
      MOSE_TRY(push_set(memory, space.space, set, options_.gate, *this));
    }
  }
  MOSE_TRY(channel_.send(wire::FrameType::bulk_end, std::span<const std::byte>{}));
  SendStats stats;
  stats.frames = total_.frames - before.frames;
  stats.pages = total_.pages - before.pages;
  stats.bytes = total_.bytes - before.bytes;
  stats.duration = now() - start;
  return stats;
}

}  // namespace mose::move
