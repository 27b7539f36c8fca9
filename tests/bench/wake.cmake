# SPDX-License-Identifier: MIT
add_executable(wake_bench EXCLUDE_FROM_ALL wake_bench.cpp)
target_link_libraries(wake_bench PRIVATE mose_kernel mose_model mose_base fmt::fmt)
