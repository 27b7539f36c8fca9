# SPDX-License-Identifier: MIT
# Dirty sources against processes that change their memory in every way we know.
mose_test(dirty_table_test LABEL netns TIMEOUT 180 DEPS sense kernel
  SOURCES sense/dirty_table_test.cpp sense/sense_bed.cpp)
