# SPDX-License-Identifier: MIT
add_library(mose_plan_sim STATIC destination_agent.cpp network.cpp simulation.cpp source_agent.cpp world.cpp)
target_include_directories(mose_plan_sim PUBLIC ${CMAKE_SOURCE_DIR}/tests)
target_link_libraries(mose_plan_sim PUBLIC mose_plan)

mose_test(plan_sim_test LABEL sim TIMEOUT 300 DEPS plan_sim SOURCES plan_sim_test.cpp)
mose_test(plan_mutations_test LABEL sim TIMEOUT 300 DEPS plan_sim SOURCES plan_mutations_test.cpp)
