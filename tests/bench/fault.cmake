# SPDX-License-Identifier: MIT
# Not a test: run build/bin/fault_bench by hand, as root, on a quiet machine.
add_executable(fault_bench EXCLUDE_FROM_ALL fault_bench.cpp)
target_include_directories(fault_bench PRIVATE ${CMAKE_SOURCE_DIR}/include)
target_link_libraries(fault_bench PRIVATE mose_sense mose_kernel mose_libbpf fmt::fmt)
