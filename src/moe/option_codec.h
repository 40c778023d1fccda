// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "flexep/error.h"
#include "flexep/moe/moe_config.h"

namespace flexep::moe {

/// How values of one option are written as text. `parse` throws InvalidArgument that names the option.
template <typename T>
struct OptionCodec {
  OptionType type;
  bool may_be_none = false;
  std::function<T(std::string_view name, std::string_view text)> parse;
  std::function<std::string(const T&)> format;
};

template <typename T>
T parse_number(std::string_view name, std::string_view text, const char* what) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw InvalidArgument(std::string(name), fmt::format("{} must be {}, not \"{}\"", name, what, text));
  return value;
}

inline OptionCodec<int> integer_codec() {
  return {.type = OptionType::kInteger,
          .parse = [](auto name, auto text) { return parse_number<int>(name, text, "an integer"); },
          .format = [](int value) { return fmt::to_string(value); }};
}

inline OptionCodec<double> number_codec() {
  return {.type = OptionType::kNumber,
          .parse = [](auto name, auto text) { return parse_number<double>(name, text, "a number"); },
          .format = [](double value) { return fmt::to_string(value); }};
}

inline OptionCodec<bool> boolean_codec() {
  const auto parse = [](std::string_view name, std::string_view text) {
    if (text == "true" || text == "false") return text == "true";
    throw InvalidArgument(std::string(name), fmt::format("{} must be true or false, not \"{}\"", name, text));
  };
  return {.type = OptionType::kBoolean, .parse = parse, .format = [](bool value) {
            return value ? "true" : "false";
          }};
}

template <typename T>
using Choices = std::vector<std::pair<std::string_view, T>>;

template <typename T>
OptionCodec<T> choice_codec(const Choices<T>& choices) {
  const auto parse = [choices](std::string_view name, std::string_view text) {
    std::vector<std::string_view> names;
    for (const auto& [known, value] : choices) {
      if (known == text) return value;
      names.push_back(known);
    }
    throw InvalidArgument(std::string(name), fmt::format("{} must be one of {}, not \"{}\"", name,
                                                         fmt::join(names, ", "), text));
  };
  const auto format = [choices](const T& value) {
    const auto found = std::find_if(choices.begin(), choices.end(),
                                    [&](const auto& choice) { return choice.second == value; });
    return std::string(found->first);
  };
  return {.type = OptionType::kChoice, .parse = parse, .format = format};
}

inline OptionCodec<DType> floating_type_codec() {
  return choice_codec<DType>({{"fp32", DType::kFloat32}, {"fp64", DType::kFloat64}});
}

/// "none", or what `codec` says.
template <typename T>
OptionCodec<std::optional<T>> optional_codec(const OptionCodec<T>& codec) {
  const auto parse = [codec](std::string_view name, std::string_view text) {
    return text == "none" ? std::nullopt : std::optional<T>(codec.parse(name, text));
  };
  const auto format = [codec](const std::optional<T>& value) {
    return value ? codec.format(*value) : std::string("none");
  };
  return {.type = codec.type, .may_be_none = true, .parse = parse, .format = format};
}

template <typename T>
MoeOption make_option(std::string_view name, T MoeConfig::*member, const OptionCodec<T>& codec,
                      std::string_view help) {
  return {.name = name,
          .type = codec.type,
          .may_be_none = codec.may_be_none,
          .help = help,
          .get = [=](const MoeConfig& config) { return codec.format(config.*member); },
          .set = [=](MoeConfig& config, std::string_view text) { config.*member = codec.parse(name, text); }};
}

}  // namespace flexep::moe
