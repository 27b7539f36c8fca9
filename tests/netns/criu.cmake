# SPDX-License-Identifier: MIT
add_executable(mcriu-workload criu/workload.cpp)
target_link_options(mcriu-workload PRIVATE -static -fno-sanitize=all)
target_compile_options(mcriu-workload PRIVATE -fno-sanitize=all)
target_link_libraries(mcriu-workload PRIVATE Threads::Threads)

add_executable(mcriu-standby-workload criu/standby_workload.cpp)
target_link_options(mcriu-standby-workload PRIVATE -static -fno-sanitize=all)
target_compile_options(mcriu-standby-workload PRIVATE -fno-sanitize=all)
target_link_libraries(mcriu-standby-workload PRIVATE Threads::Threads)

mose_test_library(mcriu_bed DEPS restore SOURCES criu/bed.cpp criu/steps.cpp)
target_include_directories(mcriu_bed PUBLIC criu)
add_dependencies(mcriu_bed mcriu-workload mose-exec mose-criu-preload)

mose_test(criu_test LABEL netns TIMEOUT 180 SOURCES criu/criu_test.cpp LIBS mcriu_bed)
mose_test(criu_failure_test LABEL netns TIMEOUT 180 SOURCES criu/failure_test.cpp LIBS mcriu_bed)
mose_test(criu_mappings_test LABEL netns SOURCES criu/mappings_test.cpp LIBS mcriu_bed)
mose_test(sock_diag_test LABEL netns SOURCES criu/sock_diag_test.cpp DEPS kernel)
mose_test(launch_test LABEL netns SOURCES criu/launch_test.cpp DEPS kernel)
target_include_directories(launch_test PRIVATE criu)
add_dependencies(launch_test mcriu-workload mose-exec)
mose_test(criu_lazy_test LABEL netns SOURCES criu/lazy_test.cpp LIBS mcriu_bed mose_pager_test_support)
mose_test(criu_standby_test LABEL netns TIMEOUT 240 SOURCES criu/standby_test.cpp criu/standby_bed.cpp
  DEPS agent LIBS mcriu_bed)
add_dependencies(criu_standby_test mcriu-standby-workload)
mose_test_in_full(criu_standby_test netns 480)
