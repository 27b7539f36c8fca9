# SPDX-License-Identifier: MIT
# The load client and the lab, as far as they need no privileges.
mose_test(client_answers_test LABEL unit DEPS client
  SOURCES lab/resp_test.cpp lab/data_set_test.cpp lab/interruption_test.cpp lab/streams_test.cpp lab/rate_stream_test.cpp lab/phases_test.cpp
  LIBS fmt::fmt)
mose_test(client_load_test LABEL unit DEPS client
  SOURCES lab/load_client_test.cpp lab/fake_redis.cpp
  LIBS Threads::Threads)
mose_test_library(mose_json_schema LIBS nlohmann_json::nlohmann_json SOURCES lab/json_schema.cpp)
target_include_directories(mose_json_schema PUBLIC lab)
target_compile_definitions(mose_json_schema PUBLIC
  MOSE_REPORT_SCHEMA="${CMAKE_SOURCE_DIR}/include/mose/control/report.schema.json")
mose_test(lab_report_test LABEL unit DEPS lab LIBS mose_json_schema
  SOURCES lab/json_schema_test.cpp lab/run_report_test.cpp lab/move_phases_test.cpp lab/summary_test.cpp)
mose_test(lab_words_test LABEL unit DEPS lab
  SOURCES lab/options_test.cpp lab/state_test.cpp lab/link_queue_test.cpp)
