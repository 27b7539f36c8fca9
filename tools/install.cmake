# SPDX-License-Identifier: MIT
# What a node and the lab run, without the tests: for tools/quickstart.
add_custom_target(mose_programs DEPENDS mosed mose mose-exec mose-holder mose-init mose-pager mose-throttle mose-criu-preload
  mose-client mose-lab-keeper mose-lab-pipe-limit)

# cmake --install: programs, the helpers beside them, the service. Every workload's root has its process 1 at
# /usr/libexec/mose/mose-init, so that the prefix is /usr (the presets say so).
configure_file(systemd/mosed.service.in ${CMAKE_CURRENT_BINARY_DIR}/mosed.service @ONLY)
install(TARGETS mosed mose RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS mose-exec mose-holder mose-init mose-pager mose-throttle RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/mose)
install(TARGETS mose-criu-preload LIBRARY DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/mose)
# With / as its root a workload has this as well: its log is mounted there.
install(DIRECTORY DESTINATION ${CMAKE_INSTALL_FULL_LOCALSTATEDIR}/log/mose-workload)
# And device nodes that lie in the root itself, not on the devtmpfs that hides its /dev.
install(PROGRAMS root-devices DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/mose)
install(CODE "
  if(\"\$ENV{DESTDIR}\" STREQUAL \"\")
    execute_process(COMMAND \"${CMAKE_CURRENT_LIST_DIR}/root-devices\" RESULT_VARIABLE made)
    if(NOT made EQUAL 0)
      message(WARNING \"no device nodes were made in /: mose run needs another --root\")
    endif()
  endif()")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mosed.service DESTINATION lib/systemd/system)
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/ARCHITECTURE.md ${CMAKE_SOURCE_DIR}/LICENSE
  DESTINATION ${CMAKE_INSTALL_DOCDIR})
# Below docs/, as README names them.
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR})
