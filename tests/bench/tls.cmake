# SPDX-License-Identifier: MIT
# Not a test: run build/bin/tls_bench by hand, as root, on a quiet machine.
add_executable(tls_bench EXCLUDE_FROM_ALL tls_bench.cpp)
target_link_libraries(tls_bench PRIVATE mose_lab mose_client mose_kernel mose_base nlohmann_json::nlohmann_json fmt::fmt)
add_dependencies(tls_bench mose-lab-keeper mose-client mosed mose mose-pager mose-holder mose-throttle mose-init mose-exec mose-criu-preload)
