# SPDX-License-Identifier: MIT
# Not a test: run build/bin/stream_bench by hand, as root, on a quiet machine.
add_executable(stream_bench EXCLUDE_FROM_ALL stream_bench.cpp)
target_link_libraries(stream_bench PRIVATE mose_move mose_sense mose_kernel mose_wire fmt::fmt)
