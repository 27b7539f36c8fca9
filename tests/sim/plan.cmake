# SPDX-License-Identifier: MIT
mose_test_library(mose_plan_sim DEPS plan journal
  SOURCES destination_agent.cpp disk.cpp network.cpp node_journal.cpp simulation.cpp source_agent.cpp world.cpp)

mose_test(plan_sim_test LABEL sim TIMEOUT 300 DEPS plan_sim SOURCES journal_sim_test.cpp plan_sim_test.cpp)
mose_test_in_full(plan_sim_test sim 600)
mose_test(plan_mutations_test LABEL sim TIMEOUT 300 DEPS plan_sim LIBS fmt::fmt PkgConfig::XXHASH
  SOURCES disk_mutations_test.cpp plan_mutations_test.cpp)
foreach(target mose_plan_sim plan_sim_test plan_mutations_test)
  mose_optimise_test(${target})
endforeach()
