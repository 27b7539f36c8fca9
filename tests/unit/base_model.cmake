# SPDX-License-Identifier: MIT
mose_test(base_test LABEL unit DEPS base SOURCES base_fd_test.cpp base_result_test.cpp base_rollback_test.cpp base_units_test.cpp)
mose_test(model_test LABEL unit DEPS model SOURCES
  model_flow_test.cpp model_migration_test.cpp model_page_set_test.cpp model_report_test.cpp model_workload_test.cpp
  LIBS nlohmann_json::nlohmann_json)
