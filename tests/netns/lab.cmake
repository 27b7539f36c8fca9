# SPDX-License-Identifier: MIT
# The lab itself: made, taken down without a trace, killed half-way, and CRIU's own move in it.

mose_test_library(mose_lab_bed DEPS lab client kernel LIBS nlohmann_json::nlohmann_json SOURCES lab/bed.cpp)
target_include_directories(mose_lab_bed PUBLIC lab)
mose_test_library(mose_lab_scenario LIBS mose_lab_bed mose_json_schema SOURCES lab/scenario_report.cpp)

# lab_scenario_test(NAME TIMEOUT SECONDS SOURCES FILE...): one that runs `mose lab run` and reads its report.
function(lab_scenario_test name)
  cmake_parse_arguments(arg "" TIMEOUT SOURCES ${ARGN})
  mose_test(${name} LABEL netns TIMEOUT ${arg_TIMEOUT} SOURCES ${arg_SOURCES} LIBS mose_lab_scenario)
endfunction()

mose_test(lab_up_down_test LABEL netns TIMEOUT 300 LIBS mose_lab_bed SOURCES lab/up_down_test.cpp lab/crash_test.cpp)
add_dependencies(lab_up_down_test mose-lab-keeper)
mose_test(lab_refusals_test LABEL netns DEPS move TIMEOUT 300 LIBS mose_lab_bed SOURCES lab/refusals_test.cpp)
add_dependencies(lab_refusals_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-throttle mose-init mose-exec)
lab_scenario_test(lab_stock_test TIMEOUT 300 SOURCES lab/stock_test.cpp)
add_dependencies(lab_stock_test mose-lab-keeper mose-client)
mose_test(lab_xdp_test LABEL netns TIMEOUT 300 LIBS mose_lab_bed SOURCES lab/xdp_test.cpp)
add_dependencies(lab_xdp_test mose-lab-keeper mosed mose mose-init mose-holder mose-throttle mose-exec mose-pager)
lab_scenario_test(lab_writes_test TIMEOUT 300 SOURCES lab/writes_test.cpp)
add_dependencies(lab_writes_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-throttle mose-init mose-exec)
lab_scenario_test(lab_strategies_test TIMEOUT 600 SOURCES lab/strategies_test.cpp)
set_tests_properties(lab_strategies_test PROPERTIES ENVIRONMENT GTEST_FILTER=-*FasterThanTheLink*)
mose_test_in_full(lab_strategies_test netns 600)
add_dependencies(lab_strategies_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-throttle mose-init mose-exec)
mose_test(lab_routed_test LABEL netns TIMEOUT 300 LIBS mose_lab_bed SOURCES lab/routed_test.cpp)
add_dependencies(lab_routed_test mose-lab-keeper mosed mose mose-init mose-holder mose-throttle mose-exec mose-pager)
lab_scenario_test(lab_load_test TIMEOUT 300 SOURCES lab/load_test.cpp lab/reset_watch_test.cpp)
add_dependencies(lab_load_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-throttle mose-init mose-exec)
mose_test(lab_link_test LABEL netns TIMEOUT 300 LIBS mose_lab_bed SOURCES lab/link_test.cpp)
add_dependencies(lab_link_test mose-lab-keeper)
