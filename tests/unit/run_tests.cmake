# SPDX-License-Identifier: MIT
# That a test which did not run is seen, whatever it prints: tools/run-tests on a tree of three.
add_test(NAME run_tests_test COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/run_tests_test.sh ${CMAKE_SOURCE_DIR}/tools/run-tests)
set_tests_properties(run_tests_test PROPERTIES LABELS unit TIMEOUT 60)
