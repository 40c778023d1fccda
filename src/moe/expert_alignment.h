// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/math.h"
#include "flexep/moe/moe_config.h"

/// Of what rows of experts and ranks are a multiple.
namespace flexep::moe {

/// Rows of an expert with deepep and deepepv2: what quantisation wants, when
/// moe_router_padding_for_quantization asks for it.
inline int router_alignment(const MoeConfig& config) {
  return config.router_padding_for_quantization() ? std::max(config.quantization_alignment(), 1) : 1;
}

/// Rows of an expert with hybridep and ncclep, which pad whenever experts are quantised.
inline int quantized_alignment(const MoeConfig& config) {
  const bool is_quantized = config.fp8 != Fp8Format::kNone || config.fp4 != Fp4Format::kNone;
  return is_quantized ? std::max(config.quantization_alignment(), 1) : 1;
}

/// The most rows that a rank receives: moe_expert_rank_capacity_factor times `num_pairs`, rounded up, and at
/// least one multiple.
inline int rank_capacity(const MoeConfig& config, std::int64_t num_pairs) {
  const auto alignment = static_cast<std::int64_t>(std::max(config.quantization_alignment(), 1));
  const auto num_rows =
      static_cast<std::int64_t>(static_cast<double>(num_pairs) * *config.moe_expert_rank_capacity_factor);
  return static_cast<int>(align_up(std::max(num_rows, std::int64_t{1}), alignment));
}

}  // namespace flexep::moe
