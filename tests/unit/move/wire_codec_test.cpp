// SPDX-License-Identifier: MIT
#include "move/codec.h"

#include <gtest/gtest.h>

#include <cstring>

#include "stream.h"

namespace mose::move {
namespace {

wire::FrameHeader good_header() { return make_header(wire::FrameType::commit, kStream, 10, 0); }

TEST(FrameHeader, OfThisMigrationAndEpochIsAccepted) {
  EXPECT_TRUE(check_header(good_header(), kStream));
  EXPECT_TRUE(check_header(good_header(), std::nullopt));
}

TEST(FrameHeader, ThatIsWrongIsRefusedWithItsReason) {
  struct Row {
    const char* what;
    void (*spoil)(wire::FrameHeader&);
    const char* reason;
  };
  const Row rows[] = {
      {"magic", [](wire::FrameHeader& h) { h.magic ^= 1; }, "does not speak"},
      {"reserved", [](wire::FrameHeader& h) { h.reserved = 1; }, "reserved"},
      {"unknown type", [](wire::FrameHeader& h) { h.type = 999; }, "unknown type 999"},
      {"type 0", [](wire::FrameHeader& h) { h.type = 0; }, "unknown type 0"},
      {"length", [](wire::FrameHeader& h) { h.length = wire::kControlPayloadMax + 1; }, "at most"},
      {"migration", [](wire::FrameHeader& h) { h.migration[5] = 9; }, "another migration"},
      {"epoch", [](wire::FrameHeader& h) { h.epoch = 5; }, "epoch 5"},
  };
  for (const Row& row : rows) {
    wire::FrameHeader header = good_header();
    row.spoil(header);
    Status status = check_header(header, kStream);
    ASSERT_FALSE(status) << row.what;
    EXPECT_NE(status.error().what.find(row.reason), std::string::npos) << status.error().what;
  }
}

TEST(FrameHeader, BoundsEveryTypeByItsOwnLimit) {
  EXPECT_EQ(payload_max(wire::FrameType::ping), 0u);
  EXPECT_EQ(payload_max(wire::FrameType::bulk_end), 0u);
  EXPECT_EQ(payload_max(wire::FrameType::hello), wire::kHelloPayloadMax);
  EXPECT_EQ(payload_max(wire::FrameType::images), wire::kImagesPayloadMax);
  EXPECT_EQ(payload_max(wire::FrameType::page_map), wire::kPageMapPayloadMax);
  EXPECT_GE(payload_max(wire::FrameType::pages), 512 * kPageSize);
  EXPECT_LT(payload_max(wire::FrameType::pages), 513 * kPageSize + 16 * 1024);
}

TEST(Checksum, OfPartsIsThatOfTheWhole) {
  std::vector<std::byte> bytes(10000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  std::span<const std::byte> all(bytes);
  std::span<const std::byte> parts[] = {all.first(1), all.subspan(1, 0), all.subspan(1, 5000), all.subspan(5001)};
  EXPECT_EQ(checksum(parts), checksum(all));
}

wire::PagesHeader good_pages() {
  wire::PagesHeader header{};
  header.space = 1;
  header.page_shift = 12;
  header.runs = 2;
  header.pages = 5;
  return header;
}
constexpr uint64_t kGoodPagesLength = sizeof(wire::PagesHeader) + 2 * sizeof(wire::Run) + 5 * kPageSize;

TEST(PagesHeader, ThatFitsItsPayloadIsAccepted) {
  EXPECT_TRUE(check_pages_header(good_pages(), kGoodPagesLength));
  wire::PagesHeader zero = good_pages();
  zero.codec = 1;
  EXPECT_TRUE(check_pages_header(zero, sizeof(zero) + 2 * sizeof(wire::Run)));
}

TEST(PagesHeader, CompressedContentsAreShorterThanThePagesAndHaveSums) {
  constexpr uint64_t kBefore = sizeof(wire::PagesHeader) + 2 * sizeof(wire::Run);
  for (uint8_t codec : {2, 3}) {
    wire::PagesHeader header = good_pages();
    header.codec = codec;
    EXPECT_FALSE(check_pages_header(header, kBefore + 1)) << "without sums";
    header.flags = wire::kPagesBySums;
    EXPECT_TRUE(check_pages_header(header, kBefore + 1));
    EXPECT_TRUE(check_pages_header(header, kGoodPagesLength - 1));
    EXPECT_FALSE(check_pages_header(header, kBefore));
    EXPECT_FALSE(check_pages_header(header, kGoodPagesLength));
  }
  wire::PagesHeader zero = good_pages();
  zero.codec = 1;
  zero.flags = wire::kPagesBySums;
  EXPECT_FALSE(check_pages_header(zero, kBefore));
}

TEST(PagesHeader, ThatIsWrongIsRefused) {
  void (*spoils[])(wire::PagesHeader&) = {
      [](wire::PagesHeader& h) { h.space = 0; },       [](wire::PagesHeader& h) { h.kind = 1; },
      [](wire::PagesHeader& h) { h.page_shift = 21; }, [](wire::PagesHeader& h) { h.codec = 4; },
      [](wire::PagesHeader& h) { h.flags = 2; },       [](wire::PagesHeader& h) { h.reserved2 = 1; },
      [](wire::PagesHeader& h) { h.runs = 0; },        [](wire::PagesHeader& h) { h.runs = 513; },
      [](wire::PagesHeader& h) { h.runs = UINT32_MAX; }, [](wire::PagesHeader& h) { h.pages = 0; },
      [](wire::PagesHeader& h) { h.pages = 1; },       [](wire::PagesHeader& h) { h.pages = 513; },
      [](wire::PagesHeader& h) { h.pages = UINT32_MAX; }, [](wire::PagesHeader& h) { h.pages = 4; },
      [](wire::PagesHeader& h) { h.runs = 3; },
  };
  for (auto spoil : spoils) {
    wire::PagesHeader header = good_pages();
    spoil(header);
    EXPECT_FALSE(check_pages_header(header, kGoodPagesLength));
  }
  EXPECT_FALSE(check_pages_header(good_pages(), kGoodPagesLength - 1));
  EXPECT_FALSE(check_pages_header(good_pages(), kGoodPagesLength + 1));
}

TEST(Runs, AscendingAndDisjointOnly) {
  EXPECT_TRUE(decode_runs(std::vector<wire::Run>{{1, 2, 0}, {3, 1, 0}, {100, 1, 0}}, 4));
  const std::vector<wire::Run> wrong[] = {
      {{5, 0, 0}},                                   // empty
      {{5, 2, 0}, {6, 1, 0}},                        // overlap
      {{6, 1, 0}, {5, 1, 0}},                        // order
      {{5, 1, 1}},                                   // reserved
      {{wire::kPageIndexMax, 1, 0}},                 // beyond
      {{wire::kPageIndexMax - 1, 2, 0}},             // over the edge
      {{UINT64_MAX, 2, 0}},                          // first + count overflows
      {{0, 513, 0}},                                 // too many
      {{0, 300, 0}, {1000, 300, 0}},                 // too many together
  };
  for (const auto& runs : wrong) EXPECT_FALSE(decode_runs(runs, 0)) << runs.front().first;
  EXPECT_FALSE(decode_runs(std::vector<wire::Run>{{1, 2, 0}}, 3));
}

TEST(Request, SurvivesTheWire) {
  PageRequest request{7, {{1, 3}, {10, 500}}};
  auto decoded = decode_request(encode_request(request));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->space, 7u);
  EXPECT_EQ(decoded->runs, request.runs);
}

TEST(Request, ThatIsWrongIsRefused) {
  auto bytes = encode_request({7, {{1, 3}}});
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(decode_request(std::span(bytes).first(length))) << length;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decode_request(bytes));
  EXPECT_FALSE(decode_request(encode_request({0, {{1, 3}}})));
  EXPECT_FALSE(decode_request(encode_request({7, {}})));
  EXPECT_FALSE(decode_request(encode_request({7, {{0, 513}}})));
}

std::vector<SpacePages> two_spaces() {
  SpacePages a{1, PageSet::from_runs({{10, 5}, {100, 50}}), PageSet::from_runs({{12, 2}, {149, 1}}), {}};
  SpacePages b{2, PageSet::from_runs({{7, 1}}), {}, {}};
  return {a, b};
}

TEST(Heat, SurvivesTheWireByLevel) {
  const std::vector<SpaceHeat> sent{{1, {PageSet::from_runs({{10, 5}, {100, 1}}), PageSet::from_runs({{3, 2}})}},
                                    {2, {PageSet::from_runs({{7, 1}})}}};
  auto got = decode_heat(encode_heat(sent));
  ASSERT_TRUE(got);
  ASSERT_EQ(got->size(), 2u);
  EXPECT_EQ((*got)[0].space, 1u);
  EXPECT_EQ((*got)[0].levels, sent[0].levels);
  EXPECT_EQ((*got)[1].space, 2u);
  EXPECT_EQ((*got)[1].levels, sent[1].levels);
  EXPECT_TRUE(encode_heat({}).empty());
}

TEST(Heat, WhatDoesNotFitIsTheCoolestOfAllSpaces) {
  const SpaceHeat one{1, {PageSet::from_runs({{10, 1}, {20, 1}}), PageSet::from_runs({{30, 1}})}};
  const SpaceHeat other{2, {PageSet::from_runs({{10, 1}}), PageSet::from_runs({{20, 1}, {30, 1}})}};
  auto got = decode_heat(encode_heat(std::vector<SpaceHeat>{one, other}, 5));
  ASSERT_TRUE(got);
  ASSERT_EQ(got->size(), 2u);
  EXPECT_EQ((*got)[0].levels, one.levels);
  ASSERT_EQ((*got)[1].levels.size(), 2u);
  EXPECT_EQ((*got)[1].levels[0], other.levels[0]);
  EXPECT_EQ((*got)[1].levels[1], PageSet::from_runs({{20, 1}}));
  EXPECT_TRUE(encode_heat(std::vector<SpaceHeat>{one}, 0).empty());
}

TEST(Heat, IsBoundedWhateverIsAskedFor) {
  SpaceHeat one{.space = 1, .levels = {}};
  for (uint64_t level = 0; level < wire::kHeatLevelsMax + 2; ++level) {
    PageSet set;
    for (uint64_t i = 0; i < wire::kHeatRunsMax / 8; ++i) set.add({100 * i + 2 * level, 1});
    one.levels.push_back(std::move(set));
  }
  auto bytes = encode_heat(std::vector<SpaceHeat>{one}, UINT64_MAX);
  EXPECT_LE(bytes.size(), payload_max(wire::FrameType::heat));
  auto got = decode_heat(bytes);
  ASSERT_TRUE(got);
  EXPECT_EQ((*got)[0].levels.size(), 8u);
  for (PageSet& level : one.levels) level = PageSet::from_runs({{1, 1}});
  got = decode_heat(encode_heat(std::vector<SpaceHeat>{one}));
  ASSERT_TRUE(got);
  EXPECT_EQ((*got)[0].levels.size(), wire::kHeatLevelsMax);
}

TEST(Heat, ThatLiesIsRefused) {
  auto with = [](std::vector<std::pair<uint32_t, uint32_t>> headers, size_t runs, uint64_t step = 10) {
    std::vector<std::byte> out;
    for (auto [space, count] : headers) {
      const wire::HeatHeader header{space, count};
      auto bytes = std::as_bytes(std::span(&header, 1));
      out.insert(out.end(), bytes.begin(), bytes.end());
      for (uint64_t i = 0; i < runs; ++i) {
        const uint64_t run[2] = {step * i + 1, 2};
        auto more = std::as_bytes(std::span(run));
        out.insert(out.end(), more.begin(), more.end());
      }
    }
    return out;
  };
  using Headers = std::vector<std::pair<uint32_t, uint32_t>>;
  EXPECT_TRUE(decode_heat(with({{1, 2}}, 2)));
  EXPECT_FALSE(decode_heat(with({{0, 2}}, 2))) << "no space";
  EXPECT_FALSE(decode_heat(with({{1, 0}}, 0))) << "no runs";
  EXPECT_FALSE(decode_heat(with({{1, 3}}, 2))) << "fewer than said";
  EXPECT_FALSE(decode_heat(with({{1, UINT32_MAX}}, 2))) << "far fewer";
  EXPECT_FALSE(decode_heat(with({{1, 2}}, 2, 1))) << "overlap";
  EXPECT_TRUE(decode_heat(with({{1, wire::kHeatRunsMax}}, wire::kHeatRunsMax)));
  EXPECT_FALSE(decode_heat(with({{1, wire::kHeatRunsMax + 1}}, wire::kHeatRunsMax + 1))) << "too many runs";
  EXPECT_TRUE(decode_heat(with(Headers(wire::kHeatLevelsMax, {1, 1}), 1)));
  EXPECT_FALSE(decode_heat(with(Headers(wire::kHeatLevelsMax + 1, {1, 1}), 1))) << "too many levels";
  Headers spaces;
  for (uint32_t space = 1; space <= wire::kSpacesMax; ++space) spaces.emplace_back(space, 1);
  EXPECT_TRUE(decode_heat(with(spaces, 1)));
  spaces.emplace_back(wire::kSpacesMax + 1, 1);
  EXPECT_FALSE(decode_heat(with(spaces, 1))) << "too many spaces";
  const auto bytes = with({{1, 2}}, 2);
  for (size_t length = 1; length < bytes.size(); ++length)
    EXPECT_FALSE(decode_heat(std::span(bytes).first(length))) << length;
}

TEST(PageMap, SurvivesTheWire) {
  auto bytes = encode_page_map(two_spaces());
  ASSERT_TRUE(bytes);
  auto decoded = decode_page_map(*bytes);
  ASSERT_TRUE(decoded);
  ASSERT_EQ(decoded->size(), 2u);
  EXPECT_EQ((*decoded)[0].present, two_spaces()[0].present);
  EXPECT_EQ((*decoded)[0].remote, two_spaces()[0].remote);
  EXPECT_EQ((*decoded)[1].present, two_spaces()[1].present);
  EXPECT_TRUE(decode_page_map({})->empty());
}

TEST(PageMap, CutAnywhereIsRefusedOrShorter) {
  auto bytes = encode_page_map(two_spaces()).value();
  const size_t first_space = sizeof(wire::PageMapHeader) + 4 * 16;
  for (size_t length = 1; length < bytes.size(); ++length) {
    if (length == first_space) continue;  // whole spaces are a whole map; the checksum guards the rest
    EXPECT_FALSE(decode_page_map(std::span(bytes).first(length))) << length;
  }
}

struct RawMap {
  std::vector<std::byte> bytes;
  RawMap& put32(uint32_t v) { return put(v); }
  RawMap& put64(uint64_t v) { return put(v); }
  template <typename T>
  RawMap& put(T v) {
    const auto* p = reinterpret_cast<const std::byte*>(&v);
    bytes.insert(bytes.end(), p, p + sizeof(v));
    return *this;
  }
  RawMap& head(uint32_t space, uint32_t present, uint32_t remote) {
    return put32(space).put32(0).put32(present).put32(remote);
  }
  RawMap& run(uint64_t first, uint64_t count) { return put64(first).put64(count); }
};

TEST(PageMap, ThatLiesIsRefused) {
  RawMap maps[12];
  maps[0].head(1, UINT32_MAX, UINT32_MAX);                       // absurd counts, nothing behind
  maps[1].head(1, 1, 0).run(5, 0);                               // empty run
  maps[2].head(1, 2, 0).run(5, 3).run(7, 1);                     // overlap
  maps[3].head(1, 2, 0).run(9, 1).run(5, 1);                     // order
  maps[4].head(1, 1, 0).run(UINT64_MAX, 2);                      // overflow
  maps[5].head(1, 1, 0).run(2, UINT64_MAX - 1);                  // overflow
  maps[6].head(1, 1, 0).run(0, wire::kPageIndexMax + 1);         // beyond any address
  maps[7].head(1, 1, 1).run(5, 2).run(6, 2);                     // remote, not present
  maps[8].head(1, 1, 0).run(5, 1).head(1, 1, 0).run(5, 1);       // twice
  maps[9].head(0, 1, 0).run(5, 1);                               // no space
  maps[10].put32(1).put32(9).put32(0).put32(0);                  // reserved
  for (uint32_t i = 1; i <= wire::kSpacesMax + 1; ++i) maps[11].head(i, 0, 0);
  for (const RawMap& map : maps) EXPECT_FALSE(decode_page_map(map.bytes)) << (&map - maps);
}

TEST(RoundEnd, OfAnyOtherLengthIsRefused) {
  wire::RoundEnd end{3, 0, 99};
  auto bytes = std::as_bytes(std::span(&end, 1));
  EXPECT_EQ(decode_round_end(bytes)->pages, 99u);
  EXPECT_FALSE(decode_round_end(bytes.first(15)));
  end.reserved = 1;
  EXPECT_FALSE(decode_round_end(bytes));
}

}  // namespace
}  // namespace mose::move
