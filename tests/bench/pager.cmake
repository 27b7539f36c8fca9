# SPDX-License-Identifier: MIT
# Not a test: run build/bin/pager_bench by hand on a quiet machine.
add_executable(pager_bench EXCLUDE_FROM_ALL pager_bench.cpp)
target_link_libraries(pager_bench PRIVATE mose_pager_test_support GTest::gmock)
add_executable(remote_fault_bench EXCLUDE_FROM_ALL remote_fault_bench.cpp ${CMAKE_SOURCE_DIR}/tests/netns/move/target.cpp)
target_link_libraries(remote_fault_bench PRIVATE mose_pager_test_support mose_sense GTest::gmock mose_wire)
