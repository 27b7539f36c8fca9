# SPDX-License-Identifier: MIT
foreach(name config journal loop control record)
  mose_test(agent_${name}_test LABEL unit DEPS agent SOURCES agent/${name}_test.cpp)
  target_include_directories(agent_${name}_test PRIVATE agent)
endforeach()
mose_test(agent_cli_test LABEL unit DEPS cli SOURCES agent/cli_test.cpp)
