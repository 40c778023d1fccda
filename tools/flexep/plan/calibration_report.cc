// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "plan/calibration.h"
#include "plan/machine_file.h"

namespace flexep::tool {

std::string text_of(const Calibration& calibration) {
  std::string text =
      fmt::format("{:<82}{:>12}{:>12}{:>8}\n", "predicted, not fitted", "measured us", "predicted", "error");
  for (const Checked& each : calibration.checked) {
    if (each.is_fitted) continue;
    text += fmt::format("{:<82}{:>12.1f}{:>12.1f}{:>7.0f}%\n", each.measurement.name(),
                        each.measurement.least_us, each.predicted_us, 100 * each.relative_error());
  }
  text += fmt::format("\n{:<18}{:>14}{:>10}{:>10}{:>12}{:>12}{:>12}{:>12}{:>15}\n", "costs", "operation us",
                      "rank us", "pair ns", "memory GB/s", "cache GB/s", "cache MiB", "domains us",
                      "crossing GB/s");
  for (const auto& [op, costs] : calibration.costs) {
    text +=
        fmt::format("{:<18}{:>14.2f}{:>10.2f}{:>10.2f}{:>12.1f}{:>12.1f}{:>12.0f}{:>12.1f}{:>15.1f}\n", op,
                    costs.operation_us, costs.rank_us, costs.pair_ns, costs.memory_gbs, costs.cache_gbs,
                    costs.cache_bytes / (1024 * 1024), costs.domains_us, costs.crossing_gbs);
  }
  return text +
         fmt::format("\n{:.0f}% of what was not fitted is predicted within 20%; the worst error is {:.0f}%\n",
                     100 * calibration.fraction_within(0.2), 100 * calibration.worst_error());
}

nlohmann::ordered_json json_of(const Calibration& calibration) {
  nlohmann::ordered_json costs, measurements = nlohmann::ordered_json::array();
  for (const auto& [op, of_op] : calibration.costs) costs[op] = json_of(of_op);
  for (const Checked& each : calibration.checked) {
    measurements.push_back({{"name", each.measurement.name()},
                            {"least_us", each.measurement.least_us},
                            {"predicted_us", each.predicted_us},
                            {"relative_error", each.relative_error()},
                            {"is_fitted", each.is_fitted}});
  }
  return {{"schema_version", 1},
          {"costs", std::move(costs)},
          {"fraction_within_20_percent", calibration.fraction_within(0.2)},
          {"worst_error", calibration.worst_error()},
          {"measurements", std::move(measurements)}};
}

}  // namespace flexep::tool
