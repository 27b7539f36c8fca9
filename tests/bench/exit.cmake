# SPDX-License-Identifier: MIT
add_executable(exit_bench EXCLUDE_FROM_ALL exit_bench.cpp)
target_link_libraries(exit_bench PRIVATE mose_kernel mose_model mose_base fmt::fmt Threads::Threads)
