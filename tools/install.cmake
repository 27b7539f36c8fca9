# SPDX-License-Identifier: MIT
# cmake --install: programs, the helpers beside them, the service. Every workload's root has its process 1 at
# /usr/libexec/mose/mose-init, so that the prefix is /usr (the presets say so).
configure_file(systemd/mosed.service.in ${CMAKE_CURRENT_BINARY_DIR}/mosed.service @ONLY)
install(TARGETS mosed mose RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS mose-exec mose-holder mose-init mose-pager RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/mose)
install(TARGETS mose-criu-preload LIBRARY DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/mose)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mosed.service DESTINATION lib/systemd/system)
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/ARCHITECTURE.md ${CMAKE_SOURCE_DIR}/LICENSE
  ${CMAKE_SOURCE_DIR}/docs/steering.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
