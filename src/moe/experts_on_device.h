// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/experts.h"
#include "moe/compute_device.h"

namespace flexep::moe {

/// As in experts.h, with all tensors in the device's memory and products in its product_dtype: what stands
/// between two products has that type.
ExpertsForward experts_forward(const ComputeDevice& device, const ExpertWeights<Tensor>& weights,
                               const GroupedTokens& input, const Tensor& out);
ExpertsGradients experts_backward(const ComputeDevice& device, const ExpertWeights<Tensor>& weights,
                                  const ExpertsContext& context, const Gradient<Tensor>& output,
                                  const Tensor& out_hidden);

}  // namespace flexep::moe
