# SPDX-License-Identifier: MIT
mose_test(criu_messages_test LABEL unit DEPS restore SOURCES criu_messages_test.cpp)
mose_test(criu_images_test LABEL unit DEPS restore SOURCES criu_images_test.cpp)
mose_test(process_test LABEL unit DEPS kernel SOURCES process_test.cpp)
mose_test(receive_backlog_test LABEL unit DEPS kernel SOURCES receive_backlog_test.cpp)
