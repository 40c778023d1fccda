// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "flexep/tensor.h"

namespace flexep::moe {

/// @throws InvalidArgument that names `expert_permutation` unless it is empty or a permutation of 0 ..
/// num_experts - 1.
void check_expert_permutation(std::span<const int> permutation, int num_experts);

/// out[t, permutation[e]] = columns[t, e]; `columns` itself for an empty permutation. [T, E], any type.
Tensor permute_experts(const Tensor& columns, std::span<const int> permutation);

/// The inverse: out[t, e] = columns[t, permutation[e]].
Tensor unpermute_experts(const Tensor& columns, std::span<const int> permutation);

}  // namespace flexep::moe
