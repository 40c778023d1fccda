// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// @throws InvalidArgument that names the first option with which a layer does not run on this device.
void check_runs_on(Device device, const MoeConfig& config);

}  // namespace flexep::moe
