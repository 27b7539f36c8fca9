# SPDX-License-Identifier: MIT
# Between mosed and mose-pager; not visible outside this folder: #include "pager.pb.h". By hand, because
# protobuf_generate() misplaces its output when the .proto lies in another folder than the target.
set(pager_out ${CMAKE_CURRENT_BINARY_DIR}/pager-messages)
file(MAKE_DIRECTORY ${pager_out})
add_custom_command(
  OUTPUT ${pager_out}/pager.pb.cc ${pager_out}/pager.pb.h
  COMMAND protobuf::protoc --cpp_out=${pager_out} -I ${CMAKE_SOURCE_DIR}/include/mose/control pager.proto
  DEPENDS ${CMAKE_SOURCE_DIR}/include/mose/control/pager.proto protobuf::protoc
  VERBATIM)
add_library(mose_pager_messages STATIC ${pager_out}/pager.pb.cc)
target_include_directories(mose_pager_messages PUBLIC ${pager_out})
target_link_libraries(mose_pager_messages PUBLIC protobuf::libprotobuf-lite)
target_compile_options(mose_pager_messages PRIVATE -w)
