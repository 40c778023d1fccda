// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace flexep::tool {

/// The page that `flexep plan` prints.
std::string text_of(const Plan& plan, const Plan& twice);
/// The table of `flexep plan --simulate`.
std::string text_of(const std::vector<GrowthStep>& steps);

/// The same figures; docs/plan.md names every field.
nlohmann::ordered_json json_of(const Plan& plan, const Plan& twice);
nlohmann::ordered_json json_of(const std::vector<GrowthStep>& steps);

}  // namespace flexep::tool
