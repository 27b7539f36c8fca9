# SPDX-License-Identifier: MIT
add_executable(first_touch_bench EXCLUDE_FROM_ALL first_touch_bench.cpp)
target_link_libraries(first_touch_bench PRIVATE mose_kernel mose_model mose_base fmt::fmt)
