// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <string>

#include "support/support.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int failed = RUN_ALL_TESTS();
  // One of several that lacks a prerequisite: the runner must see that as well.
  const int skipped = testing::UnitTest::GetInstance()->skipped_test_count();
  if (failed == 0 && skipped > 0)
    mose::test::skip_process(std::to_string(skipped) + " of the tests above lack a prerequisite");
  return failed;
}
