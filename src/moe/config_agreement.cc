// SPDX-License-Identifier: Apache-2.0
#include "moe/config_agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "flexep/error.h"

namespace flexep::moe {
namespace {

std::vector<std::string> all_gather_text(Communicator& comm, const std::string& mine) {
  std::vector<std::string> all;
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine))))
    all.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return all;
}

void require_equal(std::string_view field, const std::vector<std::string>& values) {
  if (std::all_of(values.begin(), values.end(), [&](const auto& value) { return value == values.front(); }))
    return;
  throw CollectiveMismatch(std::string(field), values,
                           fmt::format("{} must be the same on all ranks of a MoE layer; by rank: {}", field,
                                       fmt::join(values, ", ")));
}

}  // namespace

void require_agreement(Communicator& comm, const MoeConfig& config, std::uint64_t seed) {
  std::vector<MoeConfig> configs;
  for (const auto& text : all_gather_text(comm, config.to_json()))
    configs.push_back(MoeConfig::from_json(text));
  for (const auto& option : moe_options()) {
    std::vector<std::string> values;
    for (const auto& each : configs) values.push_back(option.get(each));
    require_equal(option.name, values);
  }
  require_equal("seed", all_gather_text(comm, fmt::to_string(seed)));
}

}  // namespace flexep::moe
