// SPDX-License-Identifier: MIT
// Moves that go well: every kind of root, there and back, with the workload checking itself all the time.
#include <gtest/gtest.h>

#include "steps.h"

namespace mose::test {
namespace {

struct Variant {
  const char* name;
  PlaceOptions options;
};
class CriuHop : public ::testing::TestWithParam<Variant> {};

void print(const HopTimes& t) {
  std::printf("  freeze %.1f dump %.1f pages %.1f carry %.1f restore %.1f ms\n", t.freeze_ms, t.dump_ms, t.pages_ms, t.carry_ms,
              t.restore_ms);
}

TEST_P(CriuHop, MovesAWorkloadThereAndBack) {
  CriuBed bed(GetParam().options);
  ASSERT_TRUE(ok(bed.start(bed.a, kWorkloadCommand)));
  ASSERT_TRUE(ok(bed.wait_ticks(bed.a, 20)));
  std::string mounts = bed.mounts(bed.a);
  CriuBed::Node* from = &bed.a;
  CriuBed::Node* to = &bed.b;
  // From the second move on the workload has a time namespace, which the dump enters.
  for (int move = 0; move < 3; ++move) {
    auto times = hop(bed, *from, *to);
    ASSERT_TRUE(ok(times)) << "move " << move;
    print(*times);
    EXPECT_EQ(bed.mounts(*to), mounts) << "move " << move;
    ASSERT_TRUE(ok(bed.wait_ticks(*to, 20))) << "move " << move;
    std::swap(from, to);
  }
}

INSTANTIATE_TEST_SUITE_P(Roots, CriuHop,
                         ::testing::Values(Variant{"WritableDirectory", {false, false}},
                                           Variant{"WritableFilesystem", {false, true}},
                                           Variant{"ReadOnlyDirectory", {true, false}},
                                           Variant{"ReadOnlyFilesystem", {true, true}}),
                         [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace mose::test
