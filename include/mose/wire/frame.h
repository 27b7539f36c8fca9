/* SPDX-License-Identifier: MIT */
#pragma once

#include <array>
#include <cstdint>

// Wire protocol v1 between nodes: one TCP port per node, frames in both directions, this file and wire.proto are its
// specification. Integers are little-endian. Nothing in it assumes plain text below it.
//
// Every connection:  HELLO ->, <- HELLO (or an ERROR frame with a reason, then close). Versions overlap or the
// connection ends. The connecting end names its purpose in HELLO. Before it no other frame is taken, whatever its length.
//
// CONTROL (source connects to the destination), one migration per connection, in this order:
//   PREPARE -> ; <- PREPARED | REFUSED ; IMAGES -> ; <- READY | FAILED ; COMMIT -> ; <- COMMITTED ; <- COMPLETE ;
//   RELEASED -> ; close.  ABORT -> is allowed at any time before COMMIT and answered by ABORTED; a lost connection
//   before READY is an abort; after READY the destination keeps the tree stopped until COMMIT or ABORT arrives on a new
//   connection, which then starts with that frame (a re-sent COMMIT is answered again; by ABORTED, with the reason, where
//   the tree has ended before it was thawed, which it never will be). PING/PONG keep it alive.
// BULK (the destination's pager connects to the source): PAGES, ROUND_END after each pre-copy round, PAGE_MAP once
//   after the last one (then the set of pages is final and sealed), more PAGES with what PAGE_MAP calls remote,
//   BULK_END. With kFeatureHeat: HEAT before any round, the last one counts.
// URGENT (the destination's pager connects to the source): REQUEST -> ; <- PAGES for every page asked for.
// QUERY (either end): QUERY_VERDICT -> ; <- VERDICT.
//
// The destination treats the stream as hostile: every length is bounded before anything is allocated, a wrong checksum,
// an unknown type, a wrong migration id or an epoch that is not the connection's ends the connection.
namespace mose::wire {

inline constexpr uint32_t kMagic = 0x45534f4d;  // "MOSE"
inline constexpr uint32_t kVersionMin = 1;
inline constexpr uint32_t kVersionMax = 1;

enum class FrameType : uint16_t {
  invalid = 0,
  hello = 1,
  error = 2,
  ping = 3,
  pong = 4,
  prepare = 10,
  prepared = 11,
  refused = 12,
  images = 13,
  ready = 14,
  failed = 15,
  commit = 16,
  committed = 17,
  complete = 18,
  released = 19,
  abort = 20,
  aborted = 21,
  drained = 22,  // source -> destination: every frame that was held has been redirected
  standby = 23,   // source -> destination: images to build a stopped tree from, ahead; answered by standing
  standing = 24,  // destination -> source: it stands; or why not
  pages = 30,
  round_end = 31,
  page_map = 32,
  bulk_end = 33,
  request = 34,
  heat = 35,
  query_verdict = 40,
  verdict = 41,
};

// Before the payload of every frame.
struct FrameHeader {
  uint32_t magic;
  uint16_t type;
  uint16_t reserved;  // 0
  uint32_t length;    // bytes of payload
  uint32_t epoch;     // of the migration; a frame of another epoch is refused
  std::array<uint8_t, 16> migration;
  uint64_t checksum;  // XXH3-64 of the payload; of other bytes with kPagesBySums
};
static_assert(sizeof(FrameHeader) == 40);

// Bounds of a payload, per kind of frame, checked before allocation.
inline constexpr uint32_t kHelloPayloadMax = 64u << 10;  // anybody may send one; 2 KiB of names and CPU flags are usual
inline constexpr uint32_t kControlPayloadMax = 1u << 20;
inline constexpr uint32_t kImagesPayloadMax = 256u << 20;  // images of large trees and copied files
inline constexpr uint32_t kPagesPerFrameMax = 512;         // 2 MiB
inline constexpr uint32_t kPageMapRunsMax = 12u << 20;  // runs of both kinds together
inline constexpr uint32_t kPageMapPayloadMax = 200u << 20;
inline constexpr uint32_t kHeatRunsMax = 1u << 16;     // 1 MiB: a hint that needs more is cut off
inline constexpr uint32_t kHeatLevelsMax = 16;         // of one space
inline constexpr uint32_t kHeatPayloadMax = 2u << 20;  // each level has a run
inline constexpr uint32_t kSpacesMax = 4096;
inline constexpr uint64_t kPageIndexMax = 1ull << 45;  // 57 bits of user addresses, 4 KiB pages

enum class Codec : uint8_t { raw = 0, zero = 1, lz4 = 2, zstd = 3 };

// Bits of Hello.features: what its sender can read beyond the rest of this version. Who sends uses only what the other
// end's HELLO on the same connection has named; unknown bits are nothing.
inline constexpr uint64_t kFeaturePageSums = 1;  // kPagesBySums
inline constexpr uint64_t kFeatureLz4 = 2;       // Codec::lz4, with kPagesBySums
inline constexpr uint64_t kFeatureZstd = 4;      // Codec::zstd, with kPagesBySums
inline constexpr uint64_t kFeatureHeat = 8;      // HEAT
inline constexpr uint64_t kFeatures = kFeaturePageSums | kFeatureLz4 | kFeatureZstd | kFeatureHeat;

// A run of pages: page index and number of pages, 1 or more.
struct Run {
  uint64_t first;
  uint32_t count;
  uint32_t reserved;  // 0
};
static_assert(sizeof(Run) == 16);

// PAGES: this header, `runs` runs (ascending, without overlap, `pages` pages together), then for Codec::raw the contents
// of the pages in that order, 2^page_shift bytes each. Codec::zero: no contents, the pages are all zero or not present at
// the source, which is the same to a program. Pages that are all zero are never pushed and are not in PAGE_MAP:
// Codec::zero only answers requests.
//
// Codec::lz4 (one LZ4 block) and Codec::zstd (one frame): the same contents as one piece, compressed into what the
// header of the frame leaves after the runs; at least one byte and fewer than the contents have, else they travel raw.
// Exactly pages * 2^page_shift bytes must come out of it. Only on BULK, never in an answer to a request.
//
// kPagesBySums: the checksum in the frame's header is not that of the payload but the XXH3-64 of this header, the runs and
// the sums of the pages (u64 each, in their order). A page's sum is the XXH3-64 of its contents, uncompressed, with 1 in
// place of 0: the source has it from looking for changes, and it covers what a decompressor does. Required with lz4 and
// zstd, allowed with raw, refused with zero.
inline constexpr uint8_t kPagesBySums = 1;

struct PagesHeader {
  uint32_t space;       // SpaceId
  uint8_t kind;         // kind of region, 0 private anonymous
  uint8_t page_shift;   // 12
  uint8_t codec;        // Codec
  uint8_t flags;        // kPagesBySums
  uint32_t runs;        // 1..kPagesPerFrameMax
  uint32_t pages;       // 1..kPagesPerFrameMax
  uint32_t round;       // pre-copy round, 0 after the freeze
  uint32_t reserved2;   // 0
};
static_assert(sizeof(PagesHeader) == 24);

// ROUND_END: what the round held.
struct RoundEnd {
  uint32_t round;
  uint32_t reserved;
  uint64_t pages;
};
static_assert(sizeof(RoundEnd) == 16);

// REQUEST: this header, then `runs` runs as in PAGES. The answer is one or more PAGES frames (round 0) that together hold
// exactly the pages asked for; requests of one connection are answered in their order. No REQUEST before PAGE_MAP is in:
// the memory of a running process is nobody's final contents. A source that cannot read a page answers ERROR and closes.
struct RequestHeader {
  uint32_t space;
  uint32_t runs;        // 1..kPagesPerFrameMax, of kPagesPerFrameMax pages together at most
};
static_assert(sizeof(RequestHeader) == 8);

// PAGE_MAP: for each space one header, then `present_runs` and `remote_runs` runs {first, count} of u64, each list
// ascending and without overlap, remote a part of present; every space at most once. A present page that is not remote
// has its final contents in an earlier PAGES frame. A page that is not present is a zero page.
struct PageMapHeader {
  uint32_t space;
  uint32_t reserved;
  uint32_t present_runs;
  uint32_t remote_runs;
};
static_assert(sizeof(PageMapHeader) == 16);

// HEAT: this header for each space and level, a space's hottest first, each followed by `runs` runs as in PAGE_MAP. The
// pages that were written most often, for the order in which they are filled in; a hint, also about pages that are not
// present. At most kHeatLevelsMax levels of a space, kSpacesMax spaces, kHeatRunsMax runs together. Refused after PAGE_MAP.
struct HeatHeader {
  uint32_t space;
  uint32_t runs;        // 1..kHeatRunsMax
};
static_assert(sizeof(HeatHeader) == 8);
static_assert(kHeatRunsMax * (sizeof(HeatHeader) + 2 * sizeof(uint64_t)) <= kHeatPayloadMax);

}  // namespace mose::wire
