// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/option_table.h"

namespace flexep::moe {
namespace {

Options make_options() {
  Options all;
  for (const auto& part : {size_options(), score_options(), balancing_options(), capacity_options(),
                           dispatcher_options(), backend_options(), expert_options()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

std::string_view name_of(OptionType type) {
  switch (type) {
    case OptionType::kInteger:
      return "integer";
    case OptionType::kNumber:
      return "number";
    case OptionType::kBoolean:
      return "boolean";
    case OptionType::kChoice:
      return "choice";
  }
  return "unknown";
}

std::string MoeOption::flag() const {
  std::string dashed(name);
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return "--" + dashed;
}

std::span<const MoeOption> moe_options() {
  static const std::vector<MoeOption> options = make_options();
  return options;
}

}  // namespace flexep::moe
