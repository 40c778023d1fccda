// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "flexep/moe/moe_config.h"

/// The parts of moe_options(), in its order.
namespace flexep::moe {

using Options = std::vector<MoeOption>;

Options size_options();
Options score_options();
Options balancing_options();
Options capacity_options();
Options dispatcher_options();
Options backend_options();
Options expert_options();

}  // namespace flexep::moe
