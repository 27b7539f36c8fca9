// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/dirty_source.h"
#include "model/migration.h"
#include "model/page_set.h"
#include "mose/wire/frame.h"

// Bytes <-> values of include/mose/wire/frame.h. Everything that arrives is hostile until it has passed here: lengths
// are bounded before anything is allocated, runs are checked for order, overlap and overflow.
namespace mose::move {

// Which migration a connection belongs to: in every frame.
struct StreamId {
  MigrationId migration;
  uint32_t epoch = 0;
  bool operator==(const StreamId&) const = default;
};

// One frame in memory (control frames; page frames are received in place, see channel.h).
struct Frame {
  wire::FrameType type = wire::FrameType::invalid;
  StreamId stream;
  std::vector<std::byte> payload;
};

[[nodiscard]] const char* to_string(wire::FrameType type);
[[nodiscard]] std::span<const std::byte> as_bytes(std::string_view text);
[[nodiscard]] std::string_view as_text(std::span<const std::byte> bytes);

// XXH3-64 of the parts one behind the other.
[[nodiscard]] uint64_t checksum(std::span<const std::span<const std::byte>> parts);
[[nodiscard]] uint64_t checksum(std::span<const std::byte> payload);

[[nodiscard]] wire::FrameHeader make_header(wire::FrameType type, const StreamId& stream, uint32_t length,
                                            uint64_t sum);
// Header and payload as one text, for small frames.
[[nodiscard]] std::vector<std::byte> encode_frame(wire::FrameType type, const StreamId& stream,
                                                  std::span<const std::byte> payload);
// Magic, reserved field, known type, length within the type's bound and, when given, migration and epoch.
[[nodiscard]] Status check_header(const wire::FrameHeader& header, const std::optional<StreamId>& expected);
// Largest payload of a type; 0 for types without one and for unknown types.
[[nodiscard]] uint32_t payload_max(wire::FrameType type);
[[nodiscard]] bool known_type(uint16_t type);

[[nodiscard]] std::vector<wire::Run> to_wire(std::span<const PageRun> runs);
[[nodiscard]] uint64_t count_pages(std::span<const PageRun> runs);

// What kPagesBySums sums up.
[[nodiscard]] uint64_t page_sum(const std::byte* page);
[[nodiscard]] uint64_t sums_checksum(const wire::PagesHeader& header, std::span<const wire::Run> runs,
                                     std::span<const uint64_t> sums);

// PAGES: bounds of the header against the payload's length; then the runs against the header.
[[nodiscard]] Status check_pages_header(const wire::PagesHeader& header, uint64_t payload_length);
// Runs of a PAGES or REQUEST: non-empty, ascending, disjoint, below kPageIndexMax, `pages` together (0: up to the bound).
[[nodiscard]] Result<std::vector<PageRun>> decode_runs(std::span<const wire::Run> runs, uint64_t pages);

struct PageRequest {
  SpaceId space = 0;
  std::vector<PageRun> runs;
};
[[nodiscard]] std::vector<std::byte> encode_request(const PageRequest& request);
[[nodiscard]] Result<PageRequest> decode_request(std::span<const std::byte> payload);
[[nodiscard]] Result<wire::RoundEnd> decode_round_end(std::span<const std::byte> payload);

// `first` of SpacePages does not travel. An error when there are more than kPageMapRunsMax runs.
[[nodiscard]] Result<std::vector<std::byte>> encode_page_map(std::span<const SpacePages> spaces);
// Spaces distinct; runs non-empty, ascending, disjoint, below kPageIndexMax; remote a part of present.
[[nodiscard]] Result<std::vector<SpacePages>> decode_page_map(std::span<const std::byte> payload);

// Hottest first, at most `runs_max` runs and what the frame allows; the coolest are left out.
[[nodiscard]] std::vector<std::byte> encode_heat(std::span<const SpaceHeat> heat,
                                                 uint64_t runs_max = wire::kHeatRunsMax);
// Spaces distinct, runs of each level as in PAGE_MAP. Levels of a space may overlap: it is a hint.
[[nodiscard]] Result<std::vector<SpaceHeat>> decode_heat(std::span<const std::byte> payload);

}  // namespace mose::move
