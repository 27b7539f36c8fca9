# SPDX-License-Identifier: MIT
mose_test_library(mose_pager_test_support DEPS base model kernel move restore SOURCES pager/support.cpp)
mose_test(pager_faults_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/pager_faults_test.cpp)
add_executable(mpager-host pager/host.cpp)
target_link_libraries(mpager-host PRIVATE mose_pager_test_support)
mose_test(pager_process_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/pager_process_test.cpp)
add_dependencies(pager_process_test mpager-host)
mose_test(pager_confinement_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/confinement_test.cpp)
add_dependencies(pager_confinement_test mpager-host)
mose_test(pager_order_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/pager_order_test.cpp)
mose_test(pager_events_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/pager_events_test.cpp)
mose_test(pager_standby_test LABEL netns DEPS base model kernel move restore LIBS mose_pager_test_support
  SOURCES pager/pager_standby_test.cpp)
mose_test(pager_standby_process_test LABEL netns DEPS base model kernel move restore LIBS mose_pager_test_support
  SOURCES pager/pager_standby_process_test.cpp)
add_dependencies(pager_standby_process_test mpager-host)
mose_test(shared_memory_test LABEL netns DEPS base model kernel move restore LIBS mose_pager_test_support
  SOURCES pager/shared_memory_test.cpp)
mose_test(standby_discard_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/standby_discard_test.cpp)
mose_test(standby_warm_test LABEL netns DEPS base model kernel restore LIBS mose_pager_test_support
  SOURCES pager/standby_warm_test.cpp)
