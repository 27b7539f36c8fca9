// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "base/units.h"

namespace mose {
namespace {

using namespace std::chrono_literals;

TEST(Units, DurationsAreReadWithTheirUnit) {
  EXPECT_EQ(parse_duration("50ms").value(), 50ms);
  EXPECT_EQ(parse_duration("200us").value(), 200us);
  EXPECT_EQ(parse_duration("5s").value(), 5s);
  EXPECT_EQ(parse_duration("2m").value(), 2min);
  EXPECT_EQ(parse_duration("1.5ms").value(), 1500us);
  EXPECT_EQ(parse_duration("0s").value(), 0s);
}

TEST(Units, SizesAreReadWithTheirUnit) {
  EXPECT_EQ(parse_bytes("512B").value(), 512u);
  EXPECT_EQ(parse_bytes("4KiB").value(), 4096u);
  EXPECT_EQ(parse_bytes("64MiB").value(), 64u << 20);
  EXPECT_EQ(parse_bytes("1GiB").value(), 1u << 30);
  EXPECT_EQ(parse_bytes("2TiB").value(), 2ull << 40);
  EXPECT_EQ(parse_bytes("10MB").value(), 10'000'000u);
  EXPECT_EQ(parse_bytes("0.5KiB").value(), 512u);
}

TEST(Units, BandwidthsAreBitsPerSecond) {
  EXPECT_EQ(parse_bandwidth("100kbit").value(), 100'000u);
  EXPECT_EQ(parse_bandwidth("500mbit").value(), 500'000'000u);
  EXPECT_EQ(parse_bandwidth("2.5gbit").value(), 2'500'000'000u);
  EXPECT_EQ(parse_bandwidth("9bit").value(), 9u);
}

TEST(Units, ANumberWithoutAUnitIsRefusedWithTheUnitsThatExist) {
  for (const Error& error : {parse_duration("50").error(), parse_bytes("50").error(), parse_bandwidth("50").error()}) {
    EXPECT_NE(error.what.find("\"50\""), std::string::npos) << error.what;
    EXPECT_NE(error.what.find("unit must be one of"), std::string::npos) << error.what;
  }
  EXPECT_NE(parse_duration("50").error().what.find("us, ms, s, m"), std::string::npos);
}

TEST(Units, WhatIsNoQuantityIsRefused) {
  for (const char* bad :
       {"", "ms", "-1ms", "+1ms", " 1ms", "1ms ", "1 ms", "1h", "1MS", "infms", "nans", "1e400s", "0x10s", "1,5s"}) {
    EXPECT_FALSE(parse_duration(bad)) << bad;
  }
  for (const char* bad : {"-1B", "1b", "1kib", "1M", "99999999999TiB"}) EXPECT_FALSE(parse_bytes(bad)) << bad;
  for (const char* bad : {"1Mbit", "1mbps", "mbit", "99999999999999gbit"}) EXPECT_FALSE(parse_bandwidth(bad)) << bad;
}

TEST(Units, SizesAreWrittenForPeople) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(5ull << 30), "5.0 GiB");
  EXPECT_EQ(format_bytes(~uint64_t{0}), "16777216.0 TiB");
}

}  // namespace
}  // namespace mose
