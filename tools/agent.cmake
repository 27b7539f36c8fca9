# SPDX-License-Identifier: MIT
find_package(CLI11 REQUIRED)

add_executable(mosed mosed.cpp)
target_link_libraries(mosed PRIVATE mose_agent fmt::fmt CLI11::CLI11)
mose_optimise_little(mosed)

# Inside every workload's root: static, without what the other programs are built with.
add_executable(mose-init mose-init.c)
target_compile_options(mose-init PRIVATE -Os -fno-pie -fno-sanitize=all)
target_link_options(mose-init PRIVATE -static -no-pie -fno-sanitize=all -Wl,--gc-sections -Wl,--strip-all)
foreach(helper mose-holder mose-throttle)
  add_executable(${helper} ${helper}.c)
  target_compile_options(${helper} PRIVATE -fno-sanitize=all)
  target_link_options(${helper} PRIVATE -static -fno-sanitize=all)
endforeach()
set_target_properties(mose-init PROPERTIES POSITION_INDEPENDENT_CODE OFF)

add_subdirectory(mose)
