// SPDX-License-Identifier: MIT
#include "client/data_set.h"

#include <gtest/gtest.h>

namespace mose::client {
namespace {

TEST(DataSet, ValueTellsItsKeyAndVersion) {
  DataSet data(100, 100);
  uint32_t index = 0, version = 0;
  ASSERT_TRUE(data.parse(data.value(42, 7), index, version));
  EXPECT_EQ(index, 42u);
  EXPECT_EQ(version, 7u);
  EXPECT_EQ(data.value(42, 7).size(), 100u);
}

TEST(DataSet, AnyByteThatDiffersIsSeen) {
  DataSet data(100, 64);
  const std::string good = data.value(3, 9);
  uint32_t index, version;
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    EXPECT_FALSE(data.parse(bad, index, version)) << "byte " << i;
  }
  EXPECT_FALSE(data.parse(std::string(64, '\0'), index, version)) << "a page of zeros";
  EXPECT_FALSE(data.parse(good.substr(1), index, version));
  EXPECT_FALSE(data.parse("", index, version));
}

TEST(DataSet, KeyOutsideTheSetIsRefused) {
  DataSet data(10, 64), larger(11, 64);
  uint32_t index, version;
  EXPECT_FALSE(data.parse(larger.value(10, 1), index, version));
}

TEST(DataSet, NumberOfKeysFollowsFromTheSize) {
  EXPECT_EQ(keys_for(200, 1000), 174762u);
  EXPECT_EQ(keys_for(0.000001, 1000), 1u);
}

}  // namespace
}  // namespace mose::client
