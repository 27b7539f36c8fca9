# SPDX-License-Identifier: MIT
mose_test_library(mose_plan_sim DEPS plan
  SOURCES destination_agent.cpp network.cpp simulation.cpp source_agent.cpp world.cpp)

mose_test(plan_sim_test LABEL sim TIMEOUT 300 DEPS plan_sim SOURCES plan_sim_test.cpp)
mose_test(plan_mutations_test LABEL sim TIMEOUT 300 DEPS plan_sim SOURCES plan_mutations_test.cpp)
foreach(target mose_plan_sim plan_sim_test plan_mutations_test)
  mose_optimise_test(${target})
endforeach()
