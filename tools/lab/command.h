// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

// `mose lab ...`: words after "lab". Data goes to stdout, the log to stderr. Returns the exit code (0 complete, 1 failed,
// 2 usage, 3 refused before anything was touched); `exec` gives the exit code of its command.
namespace mose::lab {

inline constexpr const char* kUsage =
    "usage: mose lab up [--name LAB] [--link rate=1gbit,rtt=10ms] [--steer xdp] [--plain]\n"
    "       mose lab down [--name LAB]\n"
    "       mose lab status [--name LAB]\n"
    "       mose lab list\n"
    "       mose lab exec [--name LAB] NODE -- COMMAND...        NODE: a, b or client\n"
    "       mose lab restart-agent [--name LAB] NODE\n"
    "       mose lab run redis [--mb 200] [--connections 16] [--probes 2] [--repeat 5]\n"
    "                          [--baseline stock-cold|stock-lazy,naive-wp] [--baseline-only]\n"
    "                          [--rate N [--mix set|get|set:PERCENT] [--keys uniform|zipf[:THETA]]] [--set-size 1000]\n"
    "                          [--strategy auto] [--tracker auto] [--steer xdp] [--link rate=1gbit,rtt=10ms]\n"
    "                          [--auto-converge] [--standby auto|never] [--max-bandwidth 500mbit] [--plain]\n"
    "                          [--seed N] [--quiet 5500ms] [--json FILE] [--keep] [--name LAB]\n";

[[nodiscard]] int run_command(const std::vector<std::string>& args, bool json);

}  // namespace mose::lab
