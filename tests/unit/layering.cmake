# SPDX-License-Identifier: MIT
# The map of ARCHITECTURE.md as a test: who may include whom.
mose_test(layering_test LABEL unit DEPS base SOURCES layering_test.cpp LIBS fmt::fmt)
target_compile_definitions(layering_test PRIVATE MOSE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")

# A wrong include does not even compile: a file built with the include roots of restore/ that asks for move/.
add_test(NAME forbidden_include_does_not_compile
  COMMAND ${CMAKE_CXX_COMPILER} -std=c++23 -fsyntax-only
          -I${CMAKE_BINARY_DIR}/include-roots/base -I${CMAKE_BINARY_DIR}/include-roots/model
          -I${CMAKE_BINARY_DIR}/include-roots/kernel -I${CMAKE_BINARY_DIR}/include-roots/restore
          ${CMAKE_CURRENT_SOURCE_DIR}/forbidden_include.cpp)
set_tests_properties(forbidden_include_does_not_compile PROPERTIES
  LABELS unit PASS_REGULAR_EXPRESSION "move/page_store.h: No such file|'move/page_store.h' file not found")
