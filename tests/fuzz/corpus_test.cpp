// SPDX-License-Identifier: MIT
// Every target with its saved corpus, and seeded mutations of it: what a run of the fuzzers has found once is found again here.
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "fuzz/targets.h"

namespace mose::fuzz {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;

// Of each target; some seconds in all, and the same ones everywhere.
constexpr int kMutations = 400;

class Corpus : public testing::TestWithParam<Target> {
 protected:
  static std::vector<Bytes> saved() {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(std::string(MOSE_FUZZ_CORPUS) + "/" + GetParam().name)) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    std::vector<Bytes> out;
    for (const fs::path& path : paths) {
      auto text = read_file(path);
      EXPECT_TRUE(text) << path;
      const std::string all = text.value_or("");
      const auto bytes = std::as_bytes(std::span(all));
      out.emplace_back(bytes.begin(), bytes.end());
    }
    return out;
  }
  void SetUp() override {
    log::init("corpus", log::Level::error);
    google::protobuf::SetLogHandler(nullptr);
  }
};

Bytes mutate(Bytes input, std::mt19937_64& random) {
  for (uint64_t times = 1 + random() % 4; times != 0 && !input.empty(); --times) {
    const size_t at = random() % input.size();
    switch (random() % 4) {
      case 0:
        input[at] ^= static_cast<std::byte>(1u << random() % 8);
        break;
      case 1:
        input.resize(at);
        break;
      case 2:
        input[at] = static_cast<std::byte>(random() % 2 == 0 ? 0xff : 0);
        break;
      default: {
        const size_t count = std::min<size_t>(1 + random() % 32, input.size() - at);
        const Bytes piece(input.begin() + static_cast<long>(at), input.begin() + static_cast<long>(at + count));
        input.insert(input.begin() + static_cast<long>(random() % input.size()), piece.begin(), piece.end());
      }
    }
  }
  return input;
}

TEST_P(Corpus, HarmsNothing) {
  const auto inputs = saved();
  ASSERT_FALSE(inputs.empty()) << "no corpus of " << GetParam().name;
  GetParam().feed({});
  for (const Bytes& input : inputs) GetParam().feed(input);
}

TEST_P(Corpus, CutAndChangedHarmsNothing) {
  const auto inputs = saved();
  ASSERT_FALSE(inputs.empty());
  std::mt19937_64 random(20261128);
  for (int i = 0; i < kMutations; ++i) GetParam().feed(mutate(inputs[random() % inputs.size()], random));
}

INSTANTIATE_TEST_SUITE_P(Of, Corpus, testing::ValuesIn(kTargets), [](const auto& target) { return target.param.name; });

}  // namespace
}  // namespace mose::fuzz
