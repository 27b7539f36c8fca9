# SPDX-License-Identifier: MIT
# The headers of others that most sources read, precompiled: reading them is more than half of a cold build. A source
# includes what it uses all the same; the presets without them (debug, asan, tsan, clang) hold it to that.
#
# Two of each: a library's code may go into shared objects, a program's may not, and the compiler tells them apart.
set(mose_precompiled_std
  <algorithm> <array> <atomic> <charconv> <chrono> <cstdint> <cstring> <expected> <filesystem> <functional> <map> <memory>
  <mutex> <optional> <set> <span> <string> <string_view> <thread> <utility> <vector>)

function(mose_precompile name)
  target_link_libraries(${name} PRIVATE fmt::fmt nlohmann_json::nlohmann_json)
  target_precompile_headers(${name} PRIVATE ${mose_precompiled_std} <fmt/format.h> <nlohmann/json.hpp> ${ARGN})
endfunction()

if(MOSE_PRECOMPILE)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cpp CONTENT "int main() {}\n")
  add_library(mose_library_headers STATIC ${CMAKE_BINARY_DIR}/precompiled.cpp)
  mose_precompile(mose_library_headers)
  add_executable(mose_test_headers ${CMAKE_BINARY_DIR}/precompiled.cpp)
  mose_precompile(mose_test_headers <gtest/gtest.h> <gmock/gmock.h>)
  target_link_libraries(mose_test_headers PRIVATE GTest::gtest GTest::gmock)
  mose_compile_as_test(mose_test_headers)
endif()
