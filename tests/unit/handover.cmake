# SPDX-License-Identifier: MIT
mose_test(neighbour_frames_test LABEL unit DEPS handover SOURCES neighbour_frames_test.cpp)
