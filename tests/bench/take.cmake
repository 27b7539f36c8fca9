# SPDX-License-Identifier: MIT
add_executable(take_bench EXCLUDE_FROM_ALL take_bench.cpp)
target_link_libraries(take_bench PRIVATE mose_kernel mose_model mose_base fmt::fmt Threads::Threads)
