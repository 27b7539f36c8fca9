# SPDX-License-Identifier: MIT
foreach(test plan_source_test plan_source_abort_test plan_destination_test plan_dirty_model_test
        plan_strategy_test)
  mose_test(${test} LABEL unit DEPS plan SOURCES ${test}.cpp)
endforeach()
