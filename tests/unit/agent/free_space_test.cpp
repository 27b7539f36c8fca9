// SPDX-License-Identifier: MIT
#include "agent/free_space.h"

#include <gtest/gtest.h>

namespace mose::agent {
namespace {

constexpr uint64_t kMiB = 1ull << 20;

TEST(FreeMemory, HoldsTheWorkloadTwiceAndItsImages) {
  EXPECT_TRUE(check_memory(264 * kMiB, 100 * kMiB));
  auto refused = check_memory(264 * kMiB - 1, 100 * kMiB);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("the workload needs 264.0 MiB while it arrives"), std::string::npos) << refused.error().what;
}

TEST(FreeMemory, IsTooLittleForEveryFigureThatAPeerMayInvent) {
  for (uint64_t bytes : {1ull << 62, (1ull << 63) - 1, 1ull << 63, (1ull << 63) + 1, ~0ull - 64 * kMiB, ~0ull - 1, ~0ull}) {
    auto refused = check_memory(16ull << 30, bytes);
    ASSERT_FALSE(refused) << bytes;
    EXPECT_NE(refused.error().what.find("of memory are available and the workload needs"), std::string::npos);
  }
}

}  // namespace
}  // namespace mose::agent
