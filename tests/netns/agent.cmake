# SPDX-License-Identifier: MIT
mose_test_library(mose_agent_bed DEPS agent LIBS fmt::fmt nlohmann_json::nlohmann_json SOURCES agent/bed.cpp)
mose_test(agent_test LABEL netns TIMEOUT 180 LIBS mose_agent_bed SOURCES agent/agent_test.cpp)
add_dependencies(agent_test mosed mose mose-init mose-holder mose-throttle mose-exec mose-pager)
mose_test(throttle_test LABEL netns DEPS agent SOURCES agent/throttle_test.cpp)
add_dependencies(throttle_test mose-throttle)
mose_test(agent_inspect_test LABEL netns DEPS agent SOURCES agent/inspect_test.cpp LIBS util)
mose_test(steer_verbs_test LABEL netns TIMEOUT 120 DEPS handover SOURCES agent/steer_verbs_test.cpp
  LIBS mose_agent_bed mose_older_steering)
add_dependencies(steer_verbs_test mosed mose mose-init mose-exec)
mose_test(install_test LABEL netns SOURCES agent/install_test.cpp LIBS mose_agent_bed)
target_compile_definitions(install_test PRIVATE MOSE_CMAKE="${CMAKE_COMMAND}" MOSE_BUILD="${CMAKE_BINARY_DIR}")
add_dependencies(install_test mosed mose mose-init mose-holder mose-throttle mose-exec mose-pager mose-criu-preload)
