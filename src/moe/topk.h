// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/tensor.h"

namespace flexep::moe {

/// The columns of the k largest values of each row, largest first; of equal values the lower column comes
/// first, and a NaN counts as less than any number. So the choice is a pure function of the values.
/// @param values  [T, E], fp32 or fp64, k <= E.
/// @return int64 [T, k].
Tensor topk(const Tensor& values, int k);

/// out[t, k] = values[t, idx[t, k]]; 0 where idx is -1.
Tensor gather_columns(const Tensor& values, const Tensor& idx);

/// out[t, idx[t, k]] = values[t, k] in zeros [T, num_columns]; columns in a row of idx are distinct, -1 is
/// skipped.
Tensor scatter_columns(const Tensor& values, const Tensor& idx, std::int64_t num_columns);

/// int32 [T, num_columns]: 1 where idx names the column, else 0; -1 is skipped.
Tensor multihot(const Tensor& idx, std::int64_t num_columns);

}  // namespace flexep::moe
