// SPDX-License-Identifier: Apache-2.0
#include "plan/machine_file.h"

#include <fmt/format.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "errors.h"

namespace flexep::tool {
namespace {

HostCosts costs_from(const nlohmann::json& json) {
  return {.operation_us = json.at("operation_us"),
          .rank_us = json.at("rank_us"),
          .pair_ns = json.at("pair_ns"),
          .memory_gbs = json.at("memory_gbs"),
          .cache_gbs = json.at("cache_gbs"),
          .cache_bytes = json.at("cache_bytes"),
          .domains_us = json.at("domains_us"),
          .crossing_gbs = json.at("crossing_gbs"),
          .is_shared = json.at("is_shared"),
          .num_cores = json.at("num_cores")};
}

}  // namespace

nlohmann::ordered_json json_of(const HostCosts& costs) {
  return {{"operation_us", costs.operation_us}, {"rank_us", costs.rank_us},
          {"pair_ns", costs.pair_ns},           {"memory_gbs", costs.memory_gbs},
          {"cache_gbs", costs.cache_gbs},       {"cache_bytes", costs.cache_bytes},
          {"domains_us", costs.domains_us},     {"crossing_gbs", costs.crossing_gbs},
          {"is_shared", costs.is_shared},       {"num_cores", costs.num_cores}};
}

void read_machine_file(const std::string& file, Machine& machine) {
  try {
    std::ifstream stream(file);
    const auto json = nlohmann::json::parse(stream);
    machine.dispatch = costs_from(json.at("costs").at("dispatch"));
    machine.combine = costs_from(json.at("costs").at("combine"));
  } catch (const std::exception&) {
    // Of the parser, of a field that is missing, or of what is no file.
    throw UsageError(fmt::format("--machine {}: not a file that flexep plan --calibrate wrote", file));
  }
  if (!machine.dispatch.is_shared) return;
  machine.link_gbs = std::numeric_limits<double>::infinity();
  machine.link_us = 0;
}

}  // namespace flexep::tool
