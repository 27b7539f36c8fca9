# SPDX-License-Identifier: MIT
# The lab itself: made, taken down without a trace, killed half-way, and CRIU's own move in it.

# lab_scenario_test(NAME TIMEOUT SECONDS SOURCES FILE...): one that runs `mose lab run` and reads its report.
function(lab_scenario_test name)
  cmake_parse_arguments(arg "" TIMEOUT SOURCES ${ARGN})
  mose_test(${name} LABEL netns DEPS lab client kernel TIMEOUT ${arg_TIMEOUT}
    SOURCES lab/bed.cpp lab/scenario_report.cpp ${arg_SOURCES} ../unit/lab/json_schema.cpp
    LIBS nlohmann_json::nlohmann_json)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/unit/lab)
  target_compile_definitions(${name} PRIVATE
    MOSE_REPORT_SCHEMA="${CMAKE_SOURCE_DIR}/include/mose/control/report.schema.json")
endfunction()

mose_test(lab_up_down_test LABEL netns DEPS lab TIMEOUT 300
  SOURCES lab/bed.cpp lab/up_down_test.cpp lab/crash_test.cpp)
add_dependencies(lab_up_down_test mose-lab-keeper)
mose_test(lab_refusals_test LABEL netns DEPS lab client kernel move TIMEOUT 300 SOURCES lab/bed.cpp lab/refusals_test.cpp)
add_dependencies(lab_refusals_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-init mose-exec)
lab_scenario_test(lab_stock_test TIMEOUT 300 SOURCES lab/stock_test.cpp)
add_dependencies(lab_stock_test mose-lab-keeper mose-client)
mose_test(lab_xdp_test LABEL netns DEPS lab client TIMEOUT 300
  SOURCES lab/bed.cpp lab/xdp_test.cpp LIBS nlohmann_json::nlohmann_json)
add_dependencies(lab_xdp_test mose-lab-keeper mosed mose mose-init mose-holder mose-exec mose-pager)
lab_scenario_test(lab_writes_test TIMEOUT 300 SOURCES lab/writes_test.cpp)
add_dependencies(lab_writes_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-init mose-exec)
lab_scenario_test(lab_strategies_test TIMEOUT 600 SOURCES lab/strategies_test.cpp)
add_dependencies(lab_strategies_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-init mose-exec)
mose_test(lab_routed_test LABEL netns DEPS lab client TIMEOUT 300
  SOURCES lab/bed.cpp lab/routed_test.cpp LIBS nlohmann_json::nlohmann_json)
add_dependencies(lab_routed_test mose-lab-keeper mosed mose mose-init mose-holder mose-exec mose-pager)
lab_scenario_test(lab_load_test TIMEOUT 300 SOURCES lab/load_test.cpp lab/reset_watch_test.cpp)
add_dependencies(lab_load_test mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-init mose-exec)
mose_test(lab_link_test LABEL netns DEPS lab client kernel TIMEOUT 300
  SOURCES lab/bed.cpp lab/link_test.cpp LIBS nlohmann_json::nlohmann_json)
add_dependencies(lab_link_test mose-lab-keeper)
