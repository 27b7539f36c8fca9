# SPDX-License-Identifier: MIT
# Pages of live processes over loopback, from the running tree to the sealed store.
mose_test(memory_move_test LABEL netns TIMEOUT 180 DEPS move sense kernel
  SOURCES move/memory_move_test.cpp move/target.cpp LIBS mose_wire)
mose_test(bandwidth_test LABEL netns DEPS move kernel SOURCES move/bandwidth_test.cpp LIBS mose_wire)
