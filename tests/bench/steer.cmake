# SPDX-License-Identifier: MIT
# Not a test: run build/bin/steer_bench by hand, as root, on a quiet machine.
add_executable(steer_bench EXCLUDE_FROM_ALL steer_bench.cpp)
target_include_directories(steer_bench PRIVATE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/tests/bpf)
target_link_libraries(steer_bench PRIVATE mose_kernel mose_bpf_steer_tc mose_bpf_steer_xdp fmt::fmt)
