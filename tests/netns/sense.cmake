# SPDX-License-Identifier: MIT
# Dirty sources against processes that change their memory in every way we know. Those are forks of the test: under
# AddressSanitizer they carry its shadow memory with them, and reading that takes more memory than a machine has.
if(NOT MOSE_SANITIZE MATCHES "address")
  mose_test(borrowed_thread_test LABEL netns TIMEOUT 120 DEPS kernel SOURCES sense/borrowed_thread_test.cpp)
  mose_test(tree_memory_test LABEL netns DEPS base model kernel SOURCES sense/tree_memory_test.cpp)
  mose_test(dirty_table_test LABEL netns TIMEOUT 180 DEPS sense kernel
    SOURCES sense/dirty_table_test.cpp sense/sense_bed.cpp)
  mose_test(shared_tracking_test LABEL netns DEPS sense kernel
    SOURCES sense/shared_tracking_test.cpp sense/sense_bed.cpp)
  mose_test(arming_round_test LABEL netns DEPS sense kernel
    SOURCES sense/arming_round_test.cpp sense/sense_bed.cpp)
  mose_test(remote_writes_test LABEL netns DEPS sense kernel
    SOURCES sense/remote_writes_test.cpp sense/sense_bed.cpp)
  mose_test(fault_monitor_test LABEL netns DEPS sense kernel
    SOURCES sense/fault_monitor_test.cpp sense/sense_bed.cpp)
  mose_test(write_forecast_test LABEL netns DEPS sense kernel plan
    SOURCES sense/write_forecast_test.cpp sense/sense_bed.cpp)
endif()
