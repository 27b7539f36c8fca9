# SPDX-License-Identifier: MIT
mose_test(file_sync_test LABEL unit DEPS agent SOURCES file_sync_test.cpp)
mose_test(wire_messages_test LABEL unit DEPS agent SOURCES wire_messages_test.cpp LIBS mose_wire)
mose_test(write_watch_test LABEL unit DEPS agent SOURCES write_watch_test.cpp)
