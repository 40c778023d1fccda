// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/check.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// [T, H] of hidden [T, H] or [S, B, H]; shares the memory of a contiguous one. @throws InvalidArgument that
/// names `hidden`.
inline Tensor flatten_tokens(const Tensor& hidden, int hidden_size) {
  const int num_dims = hidden.num_dims();
  require_argument((num_dims == 2 || num_dims == 3) && hidden.size(num_dims - 1) == hidden_size, "hidden",
                   "hidden must be [tokens, hidden_size = {0}] or [sequence, batch, {0}], not {1}",
                   hidden_size, hidden.shape().to_string());
  return hidden.contiguous().reshape({hidden.num_elements() / hidden_size, hidden_size});
}

}  // namespace flexep::moe
