# SPDX-License-Identifier: MIT
# Not a test: run build/bin/tracking_bench by hand, as root, on a quiet machine.
add_executable(tracking_bench EXCLUDE_FROM_ALL tracking_bench.cpp)
target_link_libraries(tracking_bench PRIVATE mose_sense mose_kernel fmt::fmt)
