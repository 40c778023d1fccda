// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "plan/plan_inputs.h"

namespace flexep::tool {

/// As a calibration writes them.
nlohmann::ordered_json json_of(const HostCosts& costs);

/// Takes the costs of dispatch and combine from what `flexep plan --calibrate ... --json FILE` wrote. Where
/// ranks share a memory it is their link too, so that the link has no rate and no latency of its own.
/// @throws UsageError that names --machine.
void read_machine_file(const std::string& file, Machine& machine);

}  // namespace flexep::tool
