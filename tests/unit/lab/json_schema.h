// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace mose::test {

// Checks a document against as much of JSON Schema as our schemas use: type, const, enum, minimum, required, properties,
// additionalProperties false, items, and $ref into $defs. A keyword that it does not know is a failure, so that no rule
// goes unchecked. Returns the first violation with its place, or an empty string.
[[nodiscard]] std::string schema_violation(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& document);

}  // namespace mose::test
