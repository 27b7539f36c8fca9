# SPDX-License-Identifier: MIT
mose_test(steer_tc_test LABEL bpf DEPS base SOURCES steer_tc_test.cpp LIBS mose_bpf_steer_tc)
target_include_directories(steer_tc_test PRIVATE ${CMAKE_SOURCE_DIR}/include)
mose_test(steer_xdp_test LABEL bpf DEPS base SOURCES steer_xdp_test.cpp LIBS mose_bpf_steer_xdp)
target_include_directories(steer_xdp_test PRIVATE ${CMAKE_SOURCE_DIR}/include)
