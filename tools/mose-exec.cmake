# SPDX-License-Identifier: MIT
# Static: it also runs as the canary, inside a root that holds nothing else.
add_executable(mose-exec mose-exec.cpp)
target_compile_options(mose-exec PRIVATE -fno-sanitize=all)
target_link_options(mose-exec PRIVATE -static -fno-sanitize=all)
