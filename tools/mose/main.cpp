// SPDX-License-Identifier: MIT
// mose: the command line. stdout is data, stderr is log.
#include <cstdio>
#include <string>
#include <vector>

#include "mose/command_line.h"
#include "mose/session.h"

#ifdef MOSE_WITH_LAB
#include "lab/command.h"
#endif

int main(int argc, char** argv) {
  auto parsed = mose::cli::parse_command_line({argv + 1, argv + argc});
  std::fputs(parsed.out.c_str(), stdout);
  std::fputs(parsed.error.c_str(), stderr);
  if (!parsed.command) return parsed.exit_code;
#ifdef MOSE_WITH_LAB
  if (parsed.command->verb == mose::cli::Verb::lab)
    return mose::lab::run_command(parsed.command->lab_arguments, parsed.command->json);
#endif
  return mose::cli::run_verb(*parsed.command);
}
