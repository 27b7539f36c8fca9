// SPDX-License-Identifier: MIT
// A source that says one thing of a workload in PREPARE and sends another: the destination goes by what it has let in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/wire_messages.h"
#include "faults.h"
#include "move/codec.h"

namespace mose::test {
namespace {

using ::testing::HasSubstr;
using wire::FrameType;

constexpr uint64_t kNetAdmin = 1ull << 12;

class Claims : public Faults {
 protected:
  // PREPARE says that no task has any of these.
  void hide(uint64_t capabilities) {
    FrameRule rule;
    rule.type = FrameType::prepare;
    rule.then = FrameRule::Then::rewrite;
    rule.rewrite = [capabilities](wire::FrameHeader& header, std::string& payload) {
      auto prepare = agent::decode_prepare(payload);
      ASSERT_TRUE(prepare) << prepare.error().what;
      ASSERT_NE(prepare->capabilities.value_or(0) & kNetAdmin, 0u);
      *prepare->capabilities &= ~capabilities;
      payload = agent::encode(*prepare);
      header.length = static_cast<uint32_t>(payload.size());
      header.checksum = move::checksum(move::as_bytes(payload));
    };
    bed_->proxy_of(destination_).set_rule(rule);
  }
  void expect_not_taken(bool standby) {
    start({.standby = standby});
    if (HasFatalFailure()) return;
    check_end(Side::source);
    EXPECT_TRUE(bed_->proxy_of(destination_).fired());
    EXPECT_EQ(report_text("/outcome"), "failed");
    EXPECT_THAT(report_text("/reason"), HasSubstr("comes with "));
    EXPECT_THAT(report_text("/reason"), testing::AllOf(HasSubstr("CAP_NET_ADMIN"), HasSubstr(", of which node " + source_ + " has not said that it has them")));
  }
};

TEST_F(Claims, AWorkloadWithMoreCapabilitiesThanWereSaidIsNotRestored) {
  hide(kNetAdmin);
  expect_not_taken(false);
}

// That there are none is said like any others.
TEST_F(Claims, NorIsOneThatWasSaidToHaveNone) {
  hide(~0ull);
  expect_not_taken(false);
}

TEST_F(Claims, NorIsAStandbyMadeOfIt) {
  hide(kNetAdmin);
  expect_not_taken(true);
  EXPECT_EQ(report_value("/standby/used"), false);
  EXPECT_THAT(report_text("/standby/reason"), HasSubstr("comes with CAP_NET_ADMIN"));
}

}  // namespace
}  // namespace mose::test
