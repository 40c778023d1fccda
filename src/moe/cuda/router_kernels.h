// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "moe/device_router.h"

/// The kernels of DeviceRouter on the current GPU: see there. Results are memory that the caller brings.
/// @throws CudaError.
namespace flexep::moe::on_cuda {

/// @param expert_bias  [E] in the type of the logits, or no tensor.
void route(const RoutingRules& rules, const Tensor& logits, const Tensor& expert_bias,
           const RoutingDecision& out, cudaStream_t stream);
/// @param share_slopes  RouterContext::share_slopes in this GPU's memory, or no tensor.
void route_backward(const RoutingRules& rules, const RouterContext& context, const Tensor& share_slopes,
                    const Tensor& grad_probs, double grad_loss, const Tensor& grad_logits,
                    cudaStream_t stream);

/// Each token's scores over their sum, where they are not shares as they are, and squared_log_sums.
void token_terms(const RoutingRules& rules, const Tensor& logits, const Tensor& scores, const Tensor& shares,
                 const Tensor& squared_log_sums, cudaStream_t stream);
/// LossTerms::by_sequence [sequences, 2E] of shares and routing map.
void sum_by_sequence(const Tensor& shares, const Tensor& routing_map, const Tensor& sums,
                     cudaStream_t stream);

void topk(const Tensor& values, const TopColumns& out, cudaStream_t stream);
/// Zeros where idx names no column.
void scatter_columns(const Tensor& values, const Tensor& idx, const Tensor& out, cudaStream_t stream);

}  // namespace flexep::moe::on_cuda
