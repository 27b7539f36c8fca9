// SPDX-License-Identifier: MIT
// mosed: the agent of a node. Everything is in userspace/agent; here is only the command line.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "agent/agent.h"
#include "agent/config.h"
#include "agent/version.h"
#include "base/log.h"
#include "kernel/time_slice.h"

int main(int argc, char** argv) {
  constexpr int kFailed = 1, kUsage = 2;
  std::string config_path;
  bool foreground = true;
  CLI::App app{"mosed: the MOSE agent of this node"};
  app.add_option("--config", config_path, "configuration file (default /etc/mose/mose.toml, if there is one)");
  app.add_flag("--foreground", foreground, "stay in the foreground (always so: a service manager does the rest)");
  app.set_version_flag("--version", std::string("mosed ") + mose::agent::kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // the library's only way to report, help and version too
    return app.exit(error) == 0 ? 0 : kUsage;
  }

  mose::log::init("mosed", mose::log::Level::info);
  bool given = !config_path.empty();
  auto config = mose::agent::load_config(given ? config_path : mose::agent::kConfigDefaultPath, given);
  if (!config) {
    mose::log::error("the configuration cannot be used", {{"reason", config.error().what}});
    return kUsage;
  }
  mose::log::init("mosed", config->log_level);
  if (geteuid() != 0) {
    mose::log::error("mosed must run as root: it moves other users' processes, namespaces and packets");
    return kFailed;
  }
  mose::take_short_slices();  // before there are threads
  if (auto status = mose::agent::run_agent(*config); !status) {
    mose::log::error("the agent has failed", {{"reason", status.error().what}});
    return kFailed;
  }
  return 0;
}
