# SPDX-License-Identifier: MIT
mose_test(pager_test LABEL unit DEPS base model kernel restore SOURCES pager_test.cpp)
