# SPDX-License-Identifier: MIT
mose_test_library(mose_steer_test_support DEPS handover LIBS fmt::fmt Threads::Threads
  SOURCES steer/bed.cpp steer/counters.cpp steer/handover.cpp steer/routed_bed.cpp steer/tcp_traffic.cpp)
target_include_directories(mose_steer_test_support PUBLIC steer)

mose_test(steer_test LABEL netns DEPS handover
  SOURCES steer/steer_test.cpp steer/crash_test.cpp steer/network_test.cpp steer/beside_test.cpp
  LIBS mose_steer_test_support mose_libbpf)
mose_test(steer_explain_test LABEL netns DEPS handover SOURCES steer/explain_test.cpp LIBS mose_steer_test_support)
mose_test(hold_traffic_test LABEL netns DEPS handover SOURCES steer/hold_traffic_test.cpp LIBS mose_steer_test_support)
mose_test(switchover_test LABEL netns DEPS handover SOURCES steer/switchover_test.cpp LIBS mose_steer_test_support)
mose_test(uplink_test LABEL netns DEPS handover SOURCES steer/uplink_test.cpp LIBS mose_steer_test_support)
mose_test(tunnel_test LABEL netns DEPS handover SOURCES steer/tunnel_test.cpp LIBS mose_steer_test_support)
add_dependencies(steer_test mose-holder)
add_dependencies(uplink_test mose-holder)
# Times are judged only here.
mose_test_in_full(hold_traffic_test netns 300)
mose_test_in_full(switchover_test netns 300)
# The same packets through filters instead of links, as on kernels before 6.6.
add_test(NAME steer_clsact_test COMMAND steer_test --gtest_filter=Beside*:Hold*:Held*:Redirect*:Silence*:Destroy*:Crash*:Create*)
set_tests_properties(steer_clsact_test PROPERTIES LABELS netns SKIP_RETURN_CODE 77 TIMEOUT 120 RUN_SERIAL TRUE
  ENVIRONMENT MOSE_TC_ATTACH=clsact)
mose_test(steer_docs_test LABEL netns DEPS handover SOURCES steer/docs_test.cpp LIBS mose_steer_test_support)
target_compile_definitions(steer_docs_test PRIVATE
  MOSE_TEST_PREFIX="${MOSE_PREFIX}" MOSE_TEST_GUIDE="${CMAKE_SOURCE_DIR}/docs/steering.md")

# Programs as an older build would have them: the same sources with a contract whose values have another layout.
set(older ${CMAKE_CURRENT_BINARY_DIR}/older)
add_custom_command(
  OUTPUT ${older}/include/mose/bpf/steer.h
  COMMAND ${CMAKE_COMMAND} -E make_directory ${older}/include/mose/bpf
  COMMAND sed -f ${CMAKE_CURRENT_SOURCE_DIR}/older/older.sed ${CMAKE_SOURCE_DIR}/include/mose/bpf/steer.h
          > ${older}/include/mose/bpf/steer.h
  DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/older/older.sed ${CMAKE_SOURCE_DIR}/include/mose/bpf/steer.h
  VERBATIM)
foreach(name steer_tc steer_xdp)
  add_custom_command(
    OUTPUT ${older}/${name}.skel.h
    COMMAND ${MOSE_MAKE} -s -f ${CMAKE_SOURCE_DIR}/Makefile.bpf OUT=${older} MOSE_PREFIX=${MOSE_PREFIX}
            BPF_CLANG=${MOSE_BPF_CLANG} BPF_INCLUDE=${older}/include SKELETON_PREFIX=older_ ${older}/${name}.skel.h
    DEPENDS ${CMAKE_SOURCE_DIR}/bpf/${name}.bpf.c ${older}/include/mose/bpf/steer.h mose_bpf_${name}_files
            ${CMAKE_SOURCE_DIR}/Makefile.bpf
    COMMENT "BPF older ${name}"
    VERBATIM)
endforeach()
add_library(mose_older_steering STATIC older/older.cpp ${older}/steer_tc.skel.h ${older}/steer_xdp.skel.h)
target_include_directories(mose_older_steering PUBLIC older)
target_include_directories(mose_older_steering SYSTEM PRIVATE ${older} ${older}/include)
target_link_libraries(mose_older_steering PUBLIC mose_kernel mose_libbpf GTest::gtest)
mose_test(steer_renew_test LABEL netns TIMEOUT 300 DEPS handover SOURCES steer/renew_test.cpp
  LIBS mose_steer_test_support mose_older_steering)
add_dependencies(steer_renew_test mose-holder)
add_test(NAME steer_renew_clsact_test COMMAND steer_renew_test --gtest_filter=*AtWork:*AllThatWaits:*NextStart:*RemovedWhole*)
set_tests_properties(steer_renew_clsact_test PROPERTIES LABELS netns SKIP_RETURN_CODE 77 TIMEOUT 300 RUN_SERIAL TRUE
  ENVIRONMENT MOSE_TC_ATTACH=clsact)
mose_test(uplink_renew_test LABEL netns DEPS handover SOURCES steer/uplink_renew_test.cpp
  LIBS mose_steer_test_support mose_older_steering)
