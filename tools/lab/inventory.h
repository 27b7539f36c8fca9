// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <tuple>

#include "base/result.h"
#include "lab/state.h"

// What is there on the nodes of a lab, of every kind that a move could leave behind: taken before the first service
// starts and after the last one has ended, and whatever is there then and was not before is a leftover, unless it is
// one of the few things that an agent makes once and keeps on purpose: those are named too, each with its reason.
namespace mose::lab {

struct Item {
  std::string node;
  std::string kind;  // one of kKinds
  std::string what;  // without numbers that differ from run to run
  auto operator<=>(const Item&) const = default;
};
inline constexpr const char* kKinds[] = {"process", "namespace", "mount", "cgroup", "pin", "file", "device"};

// How often each is there: two tunnels of one name would be two mounts at one place.
using Inventory = std::map<Item, uint64_t>;

// Looks at both nodes now, from outside. What goes meanwhile is left out.
[[nodiscard]] Result<Inventory> take_inventory(const LabState& state);

// The same when nothing comes or goes any more: an agent that has just been started is still looking at its host.
// Takes half a second, or as long as there is change, but not for ever.
[[nodiscard]] Result<Inventory> settled_inventory(const LabState& state);

// What is in `after` and not, or less often, in `before`.
[[nodiscard]] Inventory additions(const Inventory& before, const Inventory& after);

// Why an agent keeps this for good; empty: it does not.
[[nodiscard]] std::string kept_reason(const Item& item);
// Without what is kept.
[[nodiscard]] bool is_clean(const Inventory& leftovers);

// The report's `leftovers`: how many of each kind without what is kept, and each by its name.
[[nodiscard]] nlohmann::ordered_json leftovers_json(const Inventory& leftovers);

}  // namespace mose::lab
