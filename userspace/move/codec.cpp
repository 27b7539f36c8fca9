// SPDX-License-Identifier: MIT
#include "move/codec.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "base/check.h"
#include "base/xxh3.h"

namespace mose::move {
namespace {

using wire::FrameType;

// One row per type: its name and the bound of its payload.
struct TypeRow {
  FrameType type;
  const char* name;
  uint32_t payload_max;
};
constexpr uint32_t kPagesPayloadMax =
    sizeof(wire::PagesHeader) + wire::kPagesPerFrameMax * (sizeof(wire::Run) + kPageSize);
constexpr uint32_t kRequestPayloadMax =
    sizeof(wire::RequestHeader) + wire::kPagesPerFrameMax * sizeof(wire::Run);
constexpr TypeRow kTypes[] = {
    {FrameType::hello, "HELLO", wire::kHelloPayloadMax},
    {FrameType::error, "ERROR", wire::kControlPayloadMax},
    {FrameType::ping, "PING", 0},
    {FrameType::pong, "PONG", 0},
    {FrameType::prepare, "PREPARE", wire::kControlPayloadMax},
    {FrameType::prepared, "PREPARED", wire::kControlPayloadMax},
    {FrameType::refused, "REFUSED", wire::kControlPayloadMax},
    {FrameType::images, "IMAGES", wire::kImagesPayloadMax},
    {FrameType::ready, "READY", wire::kControlPayloadMax},
    {FrameType::failed, "FAILED", wire::kControlPayloadMax},
    {FrameType::commit, "COMMIT", wire::kControlPayloadMax},
    {FrameType::committed, "COMMITTED", wire::kControlPayloadMax},
    {FrameType::complete, "COMPLETE", wire::kControlPayloadMax},
    {FrameType::released, "RELEASED", wire::kControlPayloadMax},
    {FrameType::drained, "DRAINED", wire::kControlPayloadMax},
    {FrameType::standby, "STANDBY", wire::kImagesPayloadMax},
    {FrameType::standing, "STANDING", wire::kControlPayloadMax},
    {FrameType::abort, "ABORT", wire::kControlPayloadMax},
    {FrameType::aborted, "ABORTED", wire::kControlPayloadMax},
    {FrameType::pages, "PAGES", kPagesPayloadMax},
    {FrameType::round_end, "ROUND_END", sizeof(wire::RoundEnd)},
    {FrameType::page_map, "PAGE_MAP", wire::kPageMapPayloadMax},
    {FrameType::bulk_end, "BULK_END", 0},
    {FrameType::request, "REQUEST", kRequestPayloadMax},
    {FrameType::heat, "HEAT", wire::kHeatPayloadMax},
    {FrameType::query_verdict, "QUERY_VERDICT", wire::kControlPayloadMax},
    {FrameType::verdict, "VERDICT", wire::kControlPayloadMax},
};

const TypeRow* find_row(FrameType type) {
  auto it = std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeRow& row) { return row.type == type; });
  return it == std::end(kTypes) ? nullptr : it;
}

template <typename T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

// Takes values from the front of a payload; never reads beyond it.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  [[nodiscard]] bool take(T& value) {
    if (bytes_.size() < sizeof(T)) return false;
    memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return true;
  }
  [[nodiscard]] size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

// A run of PAGE_MAP and HEAT on the wire: two u64.
struct MapRun {
  uint64_t first;
  uint64_t count;
};

void append_runs(std::vector<std::byte>& out, const PageSet& set) {
  for (const PageRun& run : set.runs()) append(out, MapRun{run.first, run.count});
}

// `end` is the end of the run before; runs must leave no doubt about their order.
Status check_run(uint64_t first, uint64_t count, uint64_t end) {
  if (count == 0) return fail("empty run of pages");
  if (first >= wire::kPageIndexMax || count > wire::kPageIndexMax - first) return fail("run of pages beyond any address");
  if (first < end) return fail("runs of pages overlap or are out of order");
  return {};
}

Result<PageSet> take_runs(Cursor& cursor, uint32_t count) {
  if (cursor.left() / sizeof(MapRun) < count) return fail("fewer runs of pages than their count says");
  PageSet set;
  uint64_t end = 0;
  for (uint32_t i = 0; i < count; ++i) {
    MapRun run{};
    if (!cursor.take(run)) return fail("fewer runs of pages than their count says");
    MOSE_TRY(check_run(run.first, run.count, end));
    end = run.first + run.count;
    set.add({run.first, run.count});
  }
  return set;
}

}  // namespace

const char* to_string(FrameType type) {
  const TypeRow* row = find_row(type);
  return row ? row->name : "unknown";
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint64_t checksum(std::span<const std::span<const std::byte>> parts) {
  if (parts.size() == 1) return checksum(parts[0]);
  alignas(64) XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (const auto& part : parts) XXH3_64bits_update(&state, part.data(), part.size());
  return XXH3_64bits_digest(&state);
}

uint64_t checksum(std::span<const std::byte> payload) { return XXH3_64bits(payload.data(), payload.size()); }

wire::FrameHeader make_header(FrameType type, const StreamId& stream, uint32_t length, uint64_t sum) {
  wire::FrameHeader header{};
  header.magic = wire::kMagic;
  header.type = static_cast<uint16_t>(type);
  header.length = length;
  header.epoch = stream.epoch;
  header.migration = stream.migration.bytes;
  header.checksum = sum;
  return header;
}

std::vector<std::byte> encode_frame(FrameType type, const StreamId& stream, std::span<const std::byte> payload) {
  MOSE_CHECK(payload.size() <= payload_max(type), "a frame we make is within its bound");
  std::vector<std::byte> out;
  out.reserve(sizeof(wire::FrameHeader) + payload.size());
  append(out, make_header(type, stream, static_cast<uint32_t>(payload.size()), checksum(payload)));
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

bool known_type(uint16_t type) { return find_row(static_cast<FrameType>(type)) != nullptr; }

uint32_t payload_max(FrameType type) {
  const TypeRow* row = find_row(type);
  return row ? row->payload_max : 0;
}

Status check_header(const wire::FrameHeader& header, const std::optional<StreamId>& expected) {
  // A TLS record of a handshake: 22, 3, 1 or 3.
  if ((header.magic & 0xffff) == 0x0316) {
    return std::unexpected(Error{
        EPROTONOSUPPORT, "peer speaks TLS and this node plain text: either both have [tls] with certificates or both plain_text = true"});
  }
  if (header.magic != wire::kMagic) return fail("peer does not speak MOSE's protocol");
  if (header.reserved != 0) return fail("reserved field of a frame is set");
  if (!known_type(header.type)) return fail("frame of unknown type " + std::to_string(header.type));
  auto type = static_cast<FrameType>(header.type);
  if (header.length > payload_max(type)) {
    return fail(std::string(to_string(type)) + " frame of " + std::to_string(header.length) + " bytes, at most " +
                std::to_string(payload_max(type)) + " are allowed");
  }
  if (expected && header.migration != expected->migration.bytes) return fail("frame of another migration");
  if (expected && header.epoch != expected->epoch) {
    return fail("frame of epoch " + std::to_string(header.epoch) + ", this is epoch " +
                std::to_string(expected->epoch));
  }
  return {};
}

std::vector<wire::Run> to_wire(std::span<const PageRun> runs) {
  std::vector<wire::Run> out;
  out.reserve(runs.size());
  for (const PageRun& run : runs) out.push_back({run.first, static_cast<uint32_t>(run.count), 0});
  return out;
}

uint64_t count_pages(std::span<const PageRun> runs) {
  uint64_t pages = 0;
  for (const PageRun& run : runs) pages += run.count;
  return pages;
}

uint64_t page_sum(const std::byte* page) {
  const uint64_t sum = XXH3_64bits(page, kPageSize);
  return sum == 0 ? 1 : sum;
}

uint64_t sums_checksum(const wire::PagesHeader& header, std::span<const wire::Run> runs,
                       std::span<const uint64_t> sums) {
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)), std::as_bytes(runs),
                                              std::as_bytes(sums)};
  return checksum(parts);
}

Status check_pages_header(const wire::PagesHeader& header, uint64_t payload_length) {
  if (header.space == 0) return fail("PAGES without a space");
  if (header.kind != 0) return fail("PAGES of unknown kind " + std::to_string(header.kind));
  if (header.page_shift != kPageShift) return fail("PAGES with pages of another size");
  if (header.reserved2 != 0) return fail("reserved field of PAGES is set");
  if (header.codec > static_cast<uint8_t>(wire::Codec::zstd)) return fail("PAGES with unknown codec");
  const auto codec = static_cast<wire::Codec>(header.codec);
  const bool compressed = codec == wire::Codec::lz4 || codec == wire::Codec::zstd;
  const bool by_sums = header.flags == wire::kPagesBySums;
  if (header.flags != 0 && !by_sums) return fail("PAGES with unknown flags");
  if ((compressed && !by_sums) || (codec == wire::Codec::zero && by_sums)) {
    return fail("PAGES whose checksum does not fit its codec");
  }
  if (header.runs == 0 || header.runs > wire::kPagesPerFrameMax) return fail("PAGES with a wrong number of runs");
  if (header.pages < header.runs || header.pages > wire::kPagesPerFrameMax) {
    return fail("PAGES with a wrong number of pages");
  }
  const uint64_t before = sizeof(header) + uint64_t{header.runs} * sizeof(wire::Run);
  const uint64_t contents = header.pages * kPageSize;
  const bool fits = compressed ? payload_length > before && payload_length - before < contents
                               : payload_length == before + (codec == wire::Codec::raw ? contents : 0);
  if (!fits) return fail("PAGES whose length does not fit its header");
  return {};
}

Result<std::vector<PageRun>> decode_runs(std::span<const wire::Run> runs, uint64_t pages) {
  std::vector<PageRun> out;
  out.reserve(runs.size());
  uint64_t end = 0;
  uint64_t sum = 0;
  for (const wire::Run& run : runs) {
    if (run.reserved != 0) return fail("reserved field of a run is set");
    MOSE_TRY(check_run(run.first, run.count, end));
    end = run.first + run.count;
    sum += run.count;
    if (sum > wire::kPagesPerFrameMax) return fail("runs of too many pages");
    out.push_back({run.first, run.count});
  }
  if (pages != 0 && sum != pages) return fail("runs do not add up to the pages of the header");
  return out;
}

std::vector<std::byte> encode_request(const PageRequest& request) {
  MOSE_CHECK(request.runs.size() <= wire::kPagesPerFrameMax, "a request is within its bound");
  std::vector<std::byte> out;
  append(out, wire::RequestHeader{request.space, static_cast<uint32_t>(request.runs.size())});
  for (const wire::Run& run : to_wire(request.runs)) append(out, run);
  return out;
}

Result<PageRequest> decode_request(std::span<const std::byte> payload) {
  Cursor cursor(payload);
  wire::RequestHeader header{};
  if (!cursor.take(header)) return fail("REQUEST is too short");
  if (header.space == 0) return fail("REQUEST without a space");
  if (header.runs == 0 || header.runs > wire::kPagesPerFrameMax) return fail("REQUEST with a wrong number of runs");
  if (cursor.left() != header.runs * sizeof(wire::Run)) return fail("REQUEST whose length does not fit its header");
  std::vector<wire::Run> runs(header.runs);
  memcpy(runs.data(), payload.data() + sizeof(header), runs.size() * sizeof(wire::Run));
  PageRequest request;
  request.space = header.space;
  MOSE_ASSIGN(request.runs, decode_runs(runs, 0));
  return request;
}

Result<wire::RoundEnd> decode_round_end(std::span<const std::byte> payload) {
  wire::RoundEnd end{};
  if (payload.size() != sizeof(end)) return fail("ROUND_END of a wrong length");
  memcpy(&end, payload.data(), sizeof(end));
  if (end.reserved != 0) return fail("reserved field of ROUND_END is set");
  return end;
}

Result<std::vector<std::byte>> encode_page_map(std::span<const SpacePages> spaces) {
  uint64_t runs = 0;
  for (const SpacePages& space : spaces) runs += space.present.runs().size() + space.remote.runs().size();
  if (runs > wire::kPageMapRunsMax || spaces.size() > wire::kSpacesMax) {
    return fail("memory is too fragmented: " + std::to_string(runs) + " runs of pages in " +
                std::to_string(spaces.size()) + " processes");
  }
  std::vector<std::byte> out;
  out.reserve(spaces.size() * sizeof(wire::PageMapHeader) + runs * sizeof(MapRun));
  for (const SpacePages& space : spaces) {
    append(out, wire::PageMapHeader{space.space, 0, static_cast<uint32_t>(space.present.runs().size()),
                                    static_cast<uint32_t>(space.remote.runs().size())});
    append_runs(out, space.present);
    append_runs(out, space.remote);
  }
  return out;
}

Result<std::vector<SpacePages>> decode_page_map(std::span<const std::byte> payload) {
  Cursor cursor(payload);
  std::vector<SpacePages> spaces;
  std::set<SpaceId> seen;
  while (cursor.left() != 0) {
    wire::PageMapHeader header{};
    if (!cursor.take(header)) return fail("PAGE_MAP ends within a space");
    if (header.reserved != 0) return fail("reserved field of PAGE_MAP is set");
    if (header.space == 0 || !seen.insert(header.space).second) return fail("PAGE_MAP names a space twice or none");
    if (spaces.size() == wire::kSpacesMax) return fail("PAGE_MAP of too many spaces");
    SpacePages pages;
    pages.space = header.space;
    MOSE_ASSIGN(pages.present, take_runs(cursor, header.present_runs));
    MOSE_ASSIGN(pages.remote, take_runs(cursor, header.remote_runs));
    if (!pages.remote.minus(pages.present).empty()) return fail("PAGE_MAP with remote pages that are not present");
    spaces.push_back(std::move(pages));
  }
  return spaces;
}

std::vector<std::byte> encode_heat(std::span<const SpaceHeat> heat, uint64_t runs_max) {
  std::vector<std::byte> out;
  uint64_t left = std::min<uint64_t>(runs_max, wire::kHeatRunsMax);
  heat = heat.first(std::min<size_t>(heat.size(), wire::kSpacesMax));
  size_t levels = 0;
  for (const SpaceHeat& space : heat) levels = std::max(levels, space.levels.size());
  levels = std::min<size_t>(levels, wire::kHeatLevelsMax);
  // By level, so that what does not fit is the coolest of all.
  for (size_t level = 0; level < levels; ++level) {
    for (const SpaceHeat& space : heat) {
      if (level >= space.levels.size() || space.levels[level].empty()) continue;
      if (left == 0) return out;
      const auto& runs = space.levels[level].runs();
      const uint64_t taken = std::min<uint64_t>(runs.size(), left);
      left -= taken;
      append(out, wire::HeatHeader{space.space, static_cast<uint32_t>(taken)});
      for (uint64_t i = 0; i < taken; ++i) append(out, MapRun{runs[i].first, runs[i].count});
    }
  }
  return out;
}

Result<std::vector<SpaceHeat>> decode_heat(std::span<const std::byte> payload) {
  Cursor cursor(payload);
  std::map<SpaceId, std::vector<PageSet>> spaces;
  uint64_t runs = 0;
  while (cursor.left() != 0) {
    wire::HeatHeader header{};
    if (!cursor.take(header)) return fail("HEAT ends within a level");
    if (header.space == 0 || header.runs == 0) return fail("HEAT of no space or no pages");
    runs += header.runs;
    if (runs > wire::kHeatRunsMax) return fail("HEAT of too many runs");
    if (spaces.size() == wire::kSpacesMax && !spaces.contains(header.space)) return fail("HEAT of too many spaces");
    auto& levels = spaces[header.space];
    if (levels.size() == wire::kHeatLevelsMax) return fail("HEAT of too many levels");
    MOSE_ASSIGN(PageSet level, take_runs(cursor, header.runs));
    levels.push_back(std::move(level));
  }
  std::vector<SpaceHeat> heat;
  heat.reserve(spaces.size());
  for (auto& [space, levels] : spaces) heat.push_back({space, std::move(levels)});
  return heat;
}

}  // namespace mose::move
