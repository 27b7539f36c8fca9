# SPDX-License-Identifier: MIT
# Not a test: run build/bin/pager_bench by hand on a quiet machine.
add_executable(pager_bench EXCLUDE_FROM_ALL pager_bench.cpp)
target_link_libraries(pager_bench PRIVATE mose_pager_test_support GTest::gmock)
