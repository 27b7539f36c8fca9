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
  mose_reuse_headers(mose_${name} mose_library_headers)
endfunction()

# mose_reuse_headers(TARGET FROM): of MoseHeaders.cmake.
function(mose_reuse_headers target from)
  if(MOSE_PRECOMPILE)
    target_link_libraries(${target} PRIVATE fmt::fmt)
    target_precompile_headers(${target} REUSE_FROM ${from})
    # g++ 12 forgets that they are system headers, and warns of bounds in what it has put together itself.
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
      target_compile_options(${target} PRIVATE -Wno-array-bounds -Wno-stringop-overflow)
    endif()
  endif()
endfunction()

# For code whose own speed nobody feels: assertions, command lines, the lab, the agent's coordination (what it does by the
# page, by the packet or in the kernel lies in the stages below it). Optimised fully it costs half of the whole build.
function(mose_optimise_little target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
endfunction()

# For tests: not optimised at all, and what fails says where by itself.
function(mose_compile_as_test target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O0> $<$<CONFIG:RelWithDebInfo>:-g0>)
endfunction()

# For those that compute: optimised, and so without the headers that were precompiled for the others.
function(mose_optimise_test target)
  target_compile_options(${target} PRIVATE $<$<CONFIG:RelWithDebInfo>:-O1>)
  set_target_properties(${target} PROPERTIES DISABLE_PRECOMPILE_HEADERS ON)
endfunction()

# mose_test_in_full(NAME LABEL TIMEOUT): the same test once more, as NAME_full, as often as the requirements say; for
# `tools/check --full`.
function(mose_test_in_full name label timeout)
  add_test(NAME ${name}_full COMMAND ${name})
  set_tests_properties(${name}_full PROPERTIES LABELS "${label};full" ENVIRONMENT MOSE_FULL=1 SKIP_RETURN_CODE 77
    TIMEOUT ${timeout} RUN_SERIAL TRUE)
endfunction()

# mose_test_in_soak(NAME LABEL TIMEOUT): the same as NAME_soak, for hours; for `tools/check --soak`.
function(mose_test_in_soak name label timeout)
  add_test(NAME ${name}_soak COMMAND ${name})
  set_tests_properties(${name}_soak PROPERTIES LABELS "${label};soak" ENVIRONMENT MOSE_SOAK=1 SKIP_RETURN_CODE 77
    TIMEOUT ${timeout} RUN_SERIAL TRUE)
endfunction()

# All sources that a build makes: for tools that read sources and build nothing.
add_custom_target(mose_generated)

# mose_messages(TARGET ROOT proto...): the generated code of ROOT/proto, included by its path below ROOT. By hand, because
# where protobuf_generate() puts its output differs between versions of CMake.
function(mose_messages target root)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/messages/${target})
  set(generated)
  foreach(proto IN LISTS ARGN)
    string(REGEX REPLACE "[.]proto$" ".pb" stem ${out}/${proto})
    get_filename_component(directory ${stem} DIRECTORY)
    file(MAKE_DIRECTORY ${directory})
    add_custom_command(
      OUTPUT ${stem}.cc ${stem}.h
      COMMAND protobuf::protoc --cpp_out=${out} -I ${root} ${proto}
      DEPENDS ${root}/${proto} protobuf::protoc
      VERBATIM)
    list(APPEND generated ${stem}.cc ${stem}.h)
  endforeach()
  add_library(${target} STATIC ${generated})
  add_custom_target(${target}_files DEPENDS ${generated})
  add_dependencies(mose_generated ${target}_files)
  target_include_directories(${target} SYSTEM PUBLIC ${out})
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf-lite)
  target_compile_options(${target} PRIVATE -w)  # generated code is not ours to warn about
endfunction()

# mose_test_library(NAME DEPS folder... LIBS library... SOURCES file...): what several tests share, compiled once. As part of
# a program, like they are, so that their precompiled headers serve it.
function(mose_test_library name)
  cmake_parse_arguments(ARG "" "" "DEPS;LIBS;SOURCES" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(${name} PUBLIC mose_${dep})
  endforeach()
  target_link_libraries(${name} PUBLIC mose_test_support GTest::gtest GTest::gmock ${ARG_LIBS})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(${name} PRIVATE -fPIE)
  mose_compile_as_test(${name})
  mose_reuse_headers(${name} mose_test_headers)
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
  mose_compile_as_test(${name})
  mose_reuse_headers(${name} mose_test_headers)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(MOSE_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} SKIP_RETURN_CODE 77 TIMEOUT ${ARG_TIMEOUT})
  if(NOT ARG_LABEL STREQUAL "unit" AND NOT ARG_LABEL STREQUAL "sim")
    set_tests_properties(${name} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()
