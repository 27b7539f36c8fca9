# SPDX-License-Identifier: MIT
# Generated code of the control protocol: #include "mose/control/control.pb.h".
set(control_out ${CMAKE_CURRENT_BINARY_DIR}/control)
file(MAKE_DIRECTORY ${control_out}/mose/control)
add_custom_command(
  OUTPUT ${control_out}/mose/control/control.pb.cc ${control_out}/mose/control/control.pb.h
  COMMAND protobuf::protoc --cpp_out ${control_out} -I ${CMAKE_CURRENT_SOURCE_DIR}
          ${CMAKE_CURRENT_SOURCE_DIR}/mose/control/control.proto
  DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/mose/control/control.proto
  VERBATIM)
add_library(mose_control STATIC ${control_out}/mose/control/control.pb.cc ${control_out}/mose/control/control.pb.h)
target_include_directories(mose_control SYSTEM PUBLIC ${control_out})
target_link_libraries(mose_control PUBLIC protobuf::libprotobuf-lite)
target_compile_options(mose_control PRIVATE -w)
