// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "client/connection.h"
#include "client/figures.h"
#include "client/streams.h"

// The two operations on the whole data set. Both open a connection of their own, pipeline, and block.
namespace mose::client {

// SETs every key to a new version and every worker's counter to zero. Returns the number of keys.
[[nodiscard]] Result<uint64_t> fill_server(const Endpoint& server, DataSet& data, const std::vector<Worker>& workers);

// Compares everything with what was acknowledged. No request of the load may be under way.
[[nodiscard]] Verification read_back(const Endpoint& server, const DataSet& data, const std::vector<Worker>& workers);

}  // namespace mose::client
