// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/moe_layer.h"

/// What MoeLayer asks of its arguments on this rank, before anything is exchanged. Each throws
/// InvalidArgument that names the argument.
namespace flexep::moe {

/// @param device  the layer's.
void check_forward_arguments(const MoeConfig& config, Device device, const Tensor& hidden,
                             const MoeForwardOptions& options);

/// @param device  the layer's. @param hidden_shape, hidden_dtype  of the forward's hidden.
void check_backward_arguments(Device device, const Shape& hidden_shape, DType hidden_dtype,
                              const Tensor& grad_output);

}  // namespace flexep::moe
