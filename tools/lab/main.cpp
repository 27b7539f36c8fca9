// SPDX-License-Identifier: MIT
// The lab as a program of its own, for its tests: the same commands as `mose lab`.
#include "base/log.h"
#include "lab/command.h"

int main(int argc, char** argv) {
  mose::log::init("mose-lab", mose::log::Level::info);
  return mose::lab::run_command({argv + 1, argv + argc}, false);
}
