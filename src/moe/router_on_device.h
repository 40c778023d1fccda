// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/router.h"
#include "moe/compute_device.h"

namespace flexep::moe {

/// As in router.h, with hidden, weight and their gradients in the device's memory. The matrix products are
/// the device's; what follows from the logits is decided on the host, and all other tensors are the host's.
/// On a GPU the host waits for the logits, and each way has a copy of [T, E].
/// @throws InvalidArgument, too, for moe_input_jitter_eps on a GPU.
RouterForward router_forward(const ComputeDevice& device, const MoeConfig& config, Communicator& comm,
                             const Tensor& hidden, const Tensor& weight, const RouterInput& input);
RouterGradients router_backward(const ComputeDevice& device, const MoeConfig& config, const Tensor& weight,
                                const RouterContext& context, const RouterOutputGradients& grads);

}  // namespace flexep::moe
