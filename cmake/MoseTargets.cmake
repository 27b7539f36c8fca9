# SPDX-License-Identifier: MIT
# One CMake target per folder of userspace/, with private includes: a folder is visible as "NAME/header.h" only to
# targets that name it in DEPS. The include root of each folder holds one symbolic link, so that no target sees its
# neighbours by accident and a wrong include does not compile.

# mose_library(NAME DEPS folder... LIBS library... SOURCES file...)
function(mose_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS;SOURCES" ${ARGN})
  set(root ${CMAKE_BINARY_DIR}/include-roots/${name})
  file(MAKE_DIRECTORY ${root})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${root}/${name} SYMBOLIC)
  add_library(mose_${name} STATIC ${ARG_SOURCES})
  target_include_directories(mose_${name} PUBLIC ${root})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(mose_${name} PUBLIC mose_${dep})
  endforeach()
  target_link_libraries(mose_${name} PRIVATE ${ARG_LIBS})
endfunction()

# mose_test(NAME LABEL label DEPS folder... LIBS library... SOURCES file...)
# Labels: unit bpf netns sim fault soak. A test that lacks a prerequisite exits 77 with the reason.
function(mose_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "DEPS;LIBS;SOURCES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(${name} PRIVATE mose_${dep})
  endforeach()
  target_link_libraries(${name} PRIVATE GTest::gtest GTest::gmock mose_test_support ${ARG_LIBS})
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} SKIP_RETURN_CODE 77 TIMEOUT ${ARG_TIMEOUT})
  if(NOT ARG_LABEL STREQUAL "unit" AND NOT ARG_LABEL STREQUAL "sim")
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()
