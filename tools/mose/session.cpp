// SPDX-License-Identifier: MIT
#include "mose/session.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "mose/control/control.pb.h"

namespace mose::cli {

std::unexpected<Ended> lost(const Error& error) {
  return std::unexpected(Ended{kExitUnreachable, error.what});
}

std::expected<agent::ControlClient, Ended> connect(const Command& command) {
  auto client = agent::ControlClient::connect(command.socket, kConnectBound);
  if (!client) return lost(client.error());
  return std::move(*client);
}

Answered ask(const Command& command, control::v1::Request& request, control::v1::Response& response,
             Nanoseconds bound) {
  auto client = connect(command);
  if (!client) return std::unexpected(client.error());
  if (auto status = client->call(request, response, bound); !status) return lost(status.error());
  if (response.has_failure()) {
    return std::unexpected(Ended{static_cast<int>(response.failure().exit_code()), response.failure().reason()});
  }
  return {};
}

int report(const Command& command, const Ended& ended) {
  if (!ended.reason.empty()) fmt::print(stderr, "mose: {}\n", ended.reason);
  if (command.json && ended.exit_code != 0) {
    nlohmann::json out{{"error", {{"exit_code", ended.exit_code}, {"reason", ended.reason}}}};
    fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  return ended.exit_code;
}

}  // namespace mose::cli
