// SPDX-License-Identifier: MIT
// What the memory checker concludes from a page, and from the number of steps.
#include "stamp.h"

#include <gtest/gtest.h>

#include <vector>

#include "region.h"

namespace mose::test {
namespace {

PageImage image_of(const Stamp& stamp) {
  PageImage image;
  make_image(stamp, image);
  return image;
}

TEST(Stamp, TellsEveryKindOfWrongPageApart) {
  const Stamp page{0x5a000, 7, 0, false};
  EXPECT_EQ(judge(image_of(page).data(), page), Verdict::good);
  EXPECT_EQ(judge(image_of({0x5a000, 6, 0, false}).data(), page), Verdict::stale);
  EXPECT_EQ(judge(image_of({0x5a000, 8, 0, false}).data(), page), Verdict::ahead);
  EXPECT_EQ(judge(image_of({0x5b000, 7, 0, false}).data(), page), Verdict::foreign);
  EXPECT_EQ(judge(image_of({0x5a000, 7, 1, false}).data(), page), Verdict::foreign);
  EXPECT_EQ(judge(PageImage{}.data(), page), Verdict::lost);
  for (size_t word = 0; word < kPageWords; ++word) {
    PageImage torn = image_of(page);
    torn[word] ^= 1ull << word % 64;
    EXPECT_EQ(judge(torn.data(), page), Verdict::torn) << word;
  }
  PageImage half = image_of(page), later = image_of({0x5a000, 8, 0, false});
  std::copy_n(later.begin(), kPageWords / 2, half.begin());
  EXPECT_EQ(judge(half.data(), page), Verdict::torn);
}

TEST(Stamp, APageThatWasGivenBackIsZero) {
  const Stamp empty{0x5a000, 7, 0, true};
  EXPECT_EQ(judge(image_of(empty).data(), empty), Verdict::good);
  EXPECT_EQ(judge(image_of({0x5a000, 6, 0, false}).data(), empty), Verdict::stale);
}

TEST(Order, KnowsTheLastStepOfEveryPage) {
  for (uint64_t pages : {4, 64, 256}) {
    const Order order(pages);
    std::vector<uint64_t> last(pages, 0);
    for (uint64_t step = 1; step <= 3 * order.period(); ++step) {
      last.at(order.page_of(step)) = step;
      EXPECT_EQ(order.page_of(step), order.page_of(step + order.period()));
      if (step % 7 != 0 && step > 64) continue;
      for (uint64_t page = 0; page < pages; ++page)
        ASSERT_EQ(order.last_step(page, step), last[page]) << page << " " << step;
    }
    for (uint64_t step : last) EXPECT_NE(step, 0u) << "every page is written";
  }
}

}  // namespace
}  // namespace mose::test
