# SPDX-License-Identifier: MIT
# Tracking and moving pages, without privileges.
mose_test(memory_maps_test LABEL unit DEPS kernel SOURCES memory_maps_test.cpp)
mose_test(tracers_test LABEL unit DEPS kernel SOURCES tracers_test.cpp)
mose_test(hash_scan_test LABEL unit DEPS sense kernel SOURCES hash_scan_test.cpp)
mose_test(wire_codec_test LABEL unit DEPS move SOURCES wire_codec_test.cpp LIBS mose_wire)
mose_test(wire_channel_test LABEL unit DEPS move SOURCES wire_channel_test.cpp LIBS mose_wire)
mose_test(page_store_test LABEL unit DEPS move SOURCES page_store_test.cpp LIBS mose_wire)
mose_test(page_receiver_test LABEL unit DEPS move SOURCES page_receiver_test.cpp LIBS mose_wire)
mose_test(tracker_test LABEL unit DEPS sense kernel SOURCES tracker_test.cpp)
mose_test(compression_test LABEL unit DEPS move SOURCES compression_test.cpp LIBS mose_wire)
