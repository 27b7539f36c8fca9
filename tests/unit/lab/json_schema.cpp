// SPDX-License-Identifier: MIT
#include "json_schema.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace mose::test {
namespace {

using Json = nlohmann::ordered_json;

const std::set<std::string> kWords = {"$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum",
                                      "minimum", "required", "properties", "additionalProperties", "items"};

bool has_type(const Json& value, const std::string& type) {
  if (type == "null") return value.is_null();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "number") return value.is_number();
  if (type == "integer") return value.is_number_integer();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return false;
}

class Checker {
 public:
  explicit Checker(const Json& root) : root_(root) {}

  std::string check(const Json& schema, const Json& value, const std::string& place) {
    for (const auto& [word, unused] : schema.items()) {
      if (!kWords.contains(word)) return place + ": the schema uses \"" + word + "\", which is not checked";
    }
    if (schema.contains("$ref")) {
      std::string name = schema["$ref"].get<std::string>().substr(std::string("#/$defs/").size());
      if (!root_["$defs"].contains(name)) return place + ": the schema has no definition " + name;
      if (auto v = check(root_["$defs"][name], value, place); !v.empty()) return v;
    }
    if (auto v = check_value(schema, value, place); !v.empty()) return v;
    if (value.is_object()) return check_object(schema, value, place);
    if (value.is_array() && schema.contains("items")) {
      for (size_t i = 0; i < value.size(); ++i) {
        if (auto v = check(schema["items"], value[i], place + "[" + std::to_string(i) + "]"); !v.empty()) return v;
      }
    }
    return {};
  }

 private:
  static std::string check_value(const Json& schema, const Json& value, const std::string& place) {
    if (schema.contains("type")) {
      const Json& type = schema["type"];
      bool good = type.is_array() ? std::any_of(type.begin(), type.end(), [&](const Json& t) { return has_type(value, t); })
                                  : has_type(value, type);
      if (!good) return place + " is " + value.dump() + ", not " + type.dump();
    }
    if (schema.contains("const") && value != schema["const"]) return place + " is not " + schema["const"].dump();
    if (schema.contains("enum")) {
      const Json& all = schema["enum"];
      if (std::find(all.begin(), all.end(), value) == all.end()) return place + " is " + value.dump() + ", none of " + all.dump();
    }
    if (schema.contains("minimum") && value.is_number() && value < schema["minimum"]) {
      return place + " is " + value.dump() + ", less than " + schema["minimum"].dump();
    }
    return {};
  }

  std::string check_object(const Json& schema, const Json& value, const std::string& place) {
    if (schema.contains("required")) {
      for (const Json& key : schema["required"]) {
        if (!value.contains(key.get<std::string>())) return place + " lacks " + key.dump();
      }
    }
    for (const auto& [key, inner] : value.items()) {
      if (schema.contains("properties") && schema["properties"].contains(key)) {
        if (auto v = check(schema["properties"][key], inner, place + "." + key); !v.empty()) return v;
      } else if (schema.contains("additionalProperties")) {
        return place + " has \"" + key + "\", which the schema does not know";
      }
    }
    return {};
  }

  const Json& root_;
};

}  // namespace

std::string schema_violation(const Json& schema, const Json& document) { return Checker(schema).check(schema, document, "report"); }

}  // namespace mose::test
