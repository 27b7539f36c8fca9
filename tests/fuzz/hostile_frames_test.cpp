// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/check.h"
#include "fuzz/frames.h"
#include "move/codec.h"
#include "move/compression.h"

namespace mose::fuzz {
namespace {

using Bytes = std::vector<std::byte>;

template <typename T>
void put(Bytes& out, const T& value) {
  size_t at = out.size();
  out.resize(at + sizeof(value));
  std::memcpy(out.data() + at, &value, sizeof(value));
}

// One chunk of the form that feed() turns into a frame: index of the type, length, payload.
void chunk(Bytes& out, int type, const Bytes& payload) {
  out.push_back(static_cast<std::byte>(type));
  put(out, static_cast<uint16_t>(payload.size()));
  out.insert(out.end(), payload.begin(), payload.end());
}

Bytes pages(uint32_t space, std::vector<PageRun> runs) {
  Bytes out;
  wire::PagesHeader header{};
  header.space = space;
  header.page_shift = kPageShift;
  header.runs = static_cast<uint32_t>(runs.size());
  header.pages = static_cast<uint32_t>(move::count_pages(runs));
  put(out, header);
  for (const wire::Run& run : move::to_wire(runs)) put(out, run);
  out.resize(out.size() + header.pages * kPageSize, std::byte{0x5a});
  return out;
}

// The same, compressed; the contents are text-like, so that a mutation hits matches and lengths.
Bytes compressed(uint32_t space, std::vector<PageRun> runs, wire::Codec codec) {
  Bytes raw = pages(space, runs);
  wire::PagesHeader header{};
  memcpy(&header, raw.data(), sizeof(header));
  header.codec = static_cast<uint8_t>(codec);
  header.flags = wire::kPagesBySums;
  Bytes contents(header.pages * kPageSize);
  for (size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<std::byte>(i % 7 * (i / 100));
  move::Compressor compressor;
  const auto small = compressor.compress(codec, contents, contents.size() - 1);
  MOSE_CHECK(!small.empty(), "it becomes smaller");
  Bytes out;
  put(out, header);
  for (const wire::Run& run : move::to_wire(runs)) put(out, run);
  out.insert(out.end(), small.begin(), small.end());
  return out;
}

Bytes page_map() {
  std::vector<SpacePages> spaces{{1, PageSet::from_runs({{10, 4}, {50, 2}}), PageSet::from_runs({{12, 1}, {50, 1}}), {}},
                                 {2, PageSet::from_runs({{7, 1}}), PageSet::from_runs({{7, 1}}), {}}};
  return move::encode_page_map(spaces).value();
}

Bytes heat() {
  const std::vector<SpaceHeat> spaces{{1, {PageSet::from_runs({{10, 1}, {50, 1}}), PageSet::from_runs({{12, 2}})}},
                                      {2, {PageSet::from_runs({{7, 1}})}}};
  return move::encode_heat(spaces);
}

// A whole stream as an honest source sends it, and pieces of it.
std::vector<Bytes> corpus() {
  std::vector<Bytes> inputs{{}, Bytes(1), Bytes(100), Bytes(5000, std::byte{0xff})};
  Bytes stream;
  Bytes round_end;
  put(round_end, wire::RoundEnd{1, 0, 6});
  chunk(stream, 0, pages(1, {{10, 4}, {50, 2}}));
  chunk(stream, 2, round_end);
  chunk(stream, 8, heat());
  chunk(stream, 0, pages(1, {{11, 1}}));
  chunk(stream, 1, page_map());
  chunk(stream, 0, pages(1, {{12, 1}}));
  chunk(stream, 0, pages(2, {{7, 1}}));
  chunk(stream, 3, {});
  inputs.push_back(stream);
  inputs.push_back(page_map());
  inputs.push_back(heat());
  inputs.push_back(pages(1, {{10, 1}}));
  for (wire::Codec codec : {wire::Codec::lz4, wire::Codec::zstd}) {
    Bytes packed;
    chunk(packed, 0, compressed(1, {{10, 4}, {50, 2}}, codec));
    chunk(packed, 0, compressed(2, {{7, 1}}, codec));
    chunk(packed, 1, page_map());
    chunk(packed, 0, compressed(1, {{12, 1}}, codec));
    chunk(packed, 3, {});
    inputs.push_back(packed);
    inputs.push_back(compressed(1, {{10, 1}}, codec));
  }
  inputs.push_back(move::encode_request({1, {{10, 3}, {20, 1}}}));
  inputs.push_back(move::encode_frame(wire::FrameType::commit, {}, {}));
  return inputs;
}

// Numbers that sit at the edges of the checks.
uint64_t edge(std::mt19937_64& random) {
  constexpr uint64_t kEdges[] = {0,       1,          511,         512,       513, UINT32_MAX, UINT64_MAX, UINT64_MAX - 1,
                                 1ull << 45, (1ull << 45) - 1, 1ull << 63, 0x80000000};
  return kEdges[random() % std::size(kEdges)];
}

Bytes mutate(Bytes input, std::mt19937_64& random) {
  for (uint64_t times = 1 + random() % 4; times != 0 && !input.empty(); --times) {
    size_t at = random() % input.size();
    switch (random() % 5) {
      case 0: input[at] ^= static_cast<std::byte>(1u << random() % 8); break;
      case 1: input.resize(at); break;
      case 2: {
        uint64_t value = edge(random);
        size_t width = random() % 2 ? 8 : 4;
        memcpy(input.data() + at, &value, std::min(width, input.size() - at));
        break;
      }
      case 3: input.insert(input.begin() + static_cast<long>(at), input.begin(), input.begin() + static_cast<long>(at)); break;
      default: {  // the same, at a place where a header is likely
        uint64_t value = edge(random);
        size_t near = random() % std::min<size_t>(input.size(), 64);
        memcpy(input.data() + near, &value, std::min<size_t>(4, input.size() - near));
      }
    }
  }
  return input;
}

TEST(HostileFrames, TheCorpusHarmsNothing) {
  for (const Bytes& input : corpus()) feed(input);
}

TEST(HostileFrames, CutAnywhereHarmsNothing) {
  Bytes stream = corpus()[4];
  for (size_t length = 0; length < stream.size(); length += 1 + length / 50) {
    feed(std::span(stream).first(length));
  }
}

TEST(HostileFrames, CompressedOnesAreTakenUnlessTheyAreCut) {
  for (wire::Codec codec : {wire::Codec::lz4, wire::Codec::zstd}) {
    const Bytes whole = compressed(1, {{10, 4}}, codec);
    EXPECT_TRUE(receive(whole));
    for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 40) {
      EXPECT_FALSE(receive(std::span(whole).first(length))) << length;
    }
    EXPECT_FALSE(receive(whole, 1)) << "its checksum is wrong";
  }
}

// Lengths that lie: nothing is allocated or written for them.
TEST(HostileFrames, CompressedOnesWithWrongHeadersAreRefused) {
  const Bytes whole = compressed(1, {{10, 4}}, wire::Codec::lz4);
  auto with = [&](auto change) {
    Bytes out = whole;
    wire::PagesHeader header{};
    memcpy(&header, out.data(), sizeof(header));
    change(header);
    memcpy(out.data(), &header, sizeof(header));
    return out;
  };
  EXPECT_FALSE(receive(with([](auto& h) { h.flags = 0; })));
  EXPECT_FALSE(receive(with([](auto& h) { h.flags = 3; })));
  EXPECT_FALSE(receive(with([](auto& h) { h.codec = 4; })));
  EXPECT_FALSE(receive(with([](auto& h) { h.codec = static_cast<uint8_t>(wire::Codec::zstd); })));
  EXPECT_FALSE(receive(with([](auto& h) { h.codec = static_cast<uint8_t>(wire::Codec::zero); })));
  EXPECT_FALSE(receive(with([](auto& h) { h.pages = 3; })));
  EXPECT_FALSE(receive(with([](auto& h) { h.pages = UINT32_MAX; })));
  Bytes longer = whole;
  longer.resize(sizeof(wire::PagesHeader) + sizeof(wire::Run) + 4 * kPageSize);
  EXPECT_FALSE(receive(longer)) << "as long as its contents";
}

TEST(HostileFrames, SeededMutationsHarmNothing) {
  std::mt19937_64 random(20240607);
  const std::vector<Bytes> inputs = corpus();
  for (int i = 0; i < 1500; ++i) feed(mutate(inputs[random() % inputs.size()], random));
}

}  // namespace
}  // namespace mose::fuzz
