# SPDX-License-Identifier: MIT
if(benchmark_FOUND)
  add_executable(memory_bench EXCLUDE_FROM_ALL memory_bench.cpp)
  target_link_libraries(memory_bench PRIVATE mose_move mose_sense mose_kernel mose_wire fmt::fmt benchmark::benchmark)
endif()
