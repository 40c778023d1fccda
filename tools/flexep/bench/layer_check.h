// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "bench/bench_options.h"
#include "bench/row_check.h"
#include "flexep/moe/moe_layer.h"

namespace flexep::tool {

/// What a step of a layer computes on one rank.
struct LayerValues {
  Tensor output;
  moe::MoeGradients gradients;
};

/// Random numbers from a normal distribution, a function of the seed. @param dtype  bf16, fp32 or fp64.
Tensor normal_tensor(const Shape& shape, DType dtype, std::uint64_t seed);

/// Compares output, gradient of the tokens and gradients of router and experts. Rows may be as far apart, in
/// the Euclidean norm, as two orders of the same sums.
Finding compare_layers(const BenchOptions& options, const LayerValues& expected, const LayerValues& got);

}  // namespace flexep::tool
