// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_config.h"

/// The rules of MoeConfig::validate, by what they are about. Each throws InvalidArgument that names the first
/// option that is out of range, missing, or contradicts another.
namespace flexep::moe {

/// Sizes, parallel sizes, shared expert, experts and their parameters.
void check_model_options(const MoeConfig& config);

/// Scores, choice, losses, and the capacity that an expert has.
void check_router_options(const MoeConfig& config);

/// Dispatcher, flex backend, their widths, the capacity of a rank, and padding.
void check_dispatcher_options(const MoeConfig& config);

}  // namespace flexep::moe
