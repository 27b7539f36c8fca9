# SPDX-License-Identifier: MIT
# The migrations: what joins the stages, the plan and the agent's core.
target_sources(mose_agent PRIVATE
  destination_checks.cpp
  destination_host.cpp
  destination_migration.cpp
  destination_standby.cpp
  destination_tree.cpp
  destination_waits.cpp
  file_sync.cpp
  free_space.cpp
  memory_wait.cpp
  migration_paths.cpp
  migrations.cpp
  migrations_decide.cpp
  migrations_peers.cpp
  migrations_recover.cpp
  node_uplink.cpp
  orphans.cpp
  pager_link.cpp
  pager_log.cpp
  peer_access.cpp
  peer_connection.cpp
  peer_query.cpp
  peer_server.cpp
  refusal_log.cpp
  source_dump.cpp
  source_host.cpp
  source_memory.cpp
  source_migration.cpp
  source_report.cpp
  source_rounds.cpp
  source_standby.cpp
  steer_requests.cpp
  throttle.cpp
  unsynced.cpp
  wire_messages.cpp
  write_watch.cpp)
target_link_libraries(mose_agent
  PUBLIC mose_sense mose_move mose_handover mose_restore
  PRIVATE mose_wire PkgConfig::XXHASH nlohmann_json::nlohmann_json)
