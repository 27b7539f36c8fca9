# SPDX-License-Identifier: MIT
find_package(CLI11 REQUIRED)
add_executable(mose-pager mose-pager.cpp)
target_link_libraries(mose-pager PRIVATE mose_move mose_restore CLI11::CLI11)
mose_optimise_little(mose-pager)
