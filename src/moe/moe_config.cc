// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "moe/config_rules.h"

namespace flexep::moe {
namespace {

using Json = nlohmann::ordered_json;

const MoeOption& find_option(const std::string& name) {
  const auto options = moe_options();
  const auto found =
      std::find_if(options.begin(), options.end(), [&](const auto& option) { return option.name == name; });
  if (found == options.end()) throw InvalidArgument(name, fmt::format("unknown option \"{}\"", name));
  return *found;
}

// The value as option.set reads it; its JSON type must be the option's.
std::string text_of(const MoeOption& option, const Json& value) {
  const auto require_type = [&](bool matches, const char* type) {
    if (!matches)
      throw InvalidArgument(std::string(option.name),
                            fmt::format("{} must be {} in JSON, not {}", option.name, type, value.dump()));
  };
  if (option.may_be_none && value.is_null()) return "none";
  switch (option.type) {
    case OptionType::kInteger:
      require_type(value.is_number_integer(), "an integer");
      return value.dump();
    case OptionType::kNumber:
      require_type(value.is_number(), "a number");
      return value.dump();
    case OptionType::kBoolean:
      require_type(value.is_boolean(), "true or false");
      return value.dump();
    case OptionType::kChoice:
      require_type(value.is_string(), "a string");
      return value.get<std::string>();
  }
  return {};
}

Json value_of(const MoeOption& option, const std::string& text) {
  if (option.may_be_none && text == "none") return nullptr;
  return option.type == OptionType::kChoice ? Json(text) : Json::parse(text);
}

}  // namespace

void MoeConfig::validate() const {
  check_model_options(*this);
  check_router_options(*this);
  check_dispatcher_options(*this);
}

MoeConfig MoeConfig::from_json(std::string_view text) {
  const auto json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  require_argument(json.is_object(), "json", "the options of a MoE layer must be one JSON object");
  MoeConfig config;
  for (const auto& item : json.items()) {
    const MoeOption& option = find_option(item.key());
    option.set(config, text_of(option, item.value()));
  }
  return config;
}

std::string MoeConfig::to_json() const {
  auto json = Json::object();
  for (const auto& option : moe_options()) {
    json[std::string(option.name)] = value_of(option, option.get(*this));
  }
  return json.dump();
}

}  // namespace flexep::moe
