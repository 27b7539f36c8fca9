# SPDX-License-Identifier: MIT
mose_test(steer_test LABEL netns DEPS handover SOURCES steer/bed.cpp steer/steer_test.cpp LIBS fmt::fmt Threads::Threads)
target_include_directories(steer_test PRIVATE steer)
