// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/communicator.h"
#include "flexep/moe/router.h"

/// What a router leaves to chance. Tokens are numbered over all ranks, in rank order.
namespace flexep::moe {

/// The number of this rank's first token. Collective, but only where the configuration has something random
/// that depends on the token; else 0.
std::int64_t first_random_token(const MoeConfig& config, Communicator& comm, std::int64_t num_tokens);

/// Factors of the router's input, uniform in 1 +- moe_input_jitter_eps; no tensor without jitter.
/// @return [num_tokens, H] of T = float or double.
template <typename T>
Tensor jitter_factors(const MoeConfig& config, std::uint64_t key, std::int64_t first_token,
                      std::int64_t num_tokens);

/// Replaces logits by random ones (moe_router_force_load_balancing) and adds random biases of experts
/// (moe_router_force_biased), in place.
/// @param logits  [num_tokens, E] of T = float or double.
template <typename T>
void force_logits(const MoeConfig& config, std::uint64_t key, std::int64_t first_token, const Tensor& logits);

/// a * b, element by element.
template <typename T>
Tensor times(const Tensor& a, const Tensor& b);

}  // namespace flexep::moe
