// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "plan/measurement.h"

namespace flexep::tool {

/// A measurement beside what the simulator says.
struct Checked {
  Measurement measurement;
  bool is_fitted = false;  ///< it helped to find the costs, so that it proves nothing
  double predicted_us = 0;

  double relative_error() const { return predicted_us / measurement.least_us - 1; }
};

struct Calibration {
  std::map<std::string, HostCosts> costs;  ///< by op
  std::vector<Checked> checked;

  /// Of those that were not fitted.
  double worst_error() const;
  double fraction_within(double error) const;
};

/// Finds the costs of each op from one half of its measurements, chosen by a hash of their names, and
/// simulates all.
/// @throws UsageError that names --calibrate, when an op has fewer than 10.
Calibration calibrate(const std::vector<Measurement>& measurements);

std::string text_of(const Calibration& calibration);
nlohmann::ordered_json json_of(const Calibration& calibration);

}  // namespace flexep::tool
