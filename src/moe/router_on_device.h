// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/router.h"
#include "moe/compute_device.h"

namespace flexep::moe {

/// As in router.h, with hidden, weight and their gradients in the device's memory. The matrix products are
/// the device's. What follows from the logits is decided there, too, where it has a router for the
/// configuration (routes_on_device) and no choice is given: probs, routing_map and the context's tensors, and
/// the gradient of probs, are in its memory, and only topk_idx is copied, for which the host waits. Else it
/// is decided on the host, all those tensors are the host's, and each way has a copy of [T, E].
/// @throws InvalidArgument, too, for moe_input_jitter_eps on a GPU.
RouterForward router_forward(const ComputeDevice& device, const MoeConfig& config, Communicator& comm,
                             const Tensor& hidden, const Tensor& weight, const RouterInput& input);
RouterGradients router_backward(const ComputeDevice& device, const MoeConfig& config, const Tensor& weight,
                                const RouterContext& context, const RouterOutputGradients& grads);

}  // namespace flexep::moe
