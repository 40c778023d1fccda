// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "flexep/moe/moe_layer.h"

namespace flexep::moe {

/// Group member `rank`'s share of the model that `seed` stands for. Every element is a function of (seed,
/// parameter, position in the whole model), in integer and exact arithmetic: the same bits for any number of
/// ranks, on any machine.
MoeParameters<Tensor> initial_parameters(const MoeConfig& config, int rank, std::uint64_t seed);

}  // namespace flexep::moe
