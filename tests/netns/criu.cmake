# SPDX-License-Identifier: MIT
add_executable(mcriu-workload criu/workload.cpp)
target_link_options(mcriu-workload PRIVATE -static -fno-sanitize=all)
target_compile_options(mcriu-workload PRIVATE -fno-sanitize=all)
target_link_libraries(mcriu-workload PRIVATE Threads::Threads)

mose_test(criu_test LABEL netns TIMEOUT 180 DEPS restore SOURCES criu/criu_test.cpp criu/bed.cpp)
target_include_directories(criu_test PRIVATE criu)
add_dependencies(criu_test mcriu-workload mose-exec mose-criu-preload)
