# SPDX-License-Identifier: MIT
add_executable(mose-exec mose-exec.cpp)
