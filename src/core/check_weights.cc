// SPDX-License-Identifier: Apache-2.0
#include "core/check_weights.h"

#include <cmath>

#include "common/check.h"

namespace flexep {
namespace {

template <typename Weight>
void require_finite(const Tensor& topk_weights, const Tensor& ids, int rank) {
  const auto weights = topk_weights.values<Weight>();
  const auto routed = ids.values<std::int64_t>();
  const auto num_topk = static_cast<std::size_t>(ids.size(1));
  for (std::size_t pair = 0; pair < weights.size(); ++pair) {
    require_argument(routed[pair] < 0 || std::isfinite(weights[pair]), "topk_weights",
                     "topk_weights on rank {}: token {}, column {} is {}", rank, pair / num_topk,
                     pair % num_topk, weights[pair]);
  }
}

}  // namespace

void require_finite_weights(const Tensor& topk_weights, const Tensor& ids, int rank) {
  const Tensor weights = topk_weights.contiguous();
  if (weights.dtype() == DType::kFloat64) {
    require_finite<double>(weights, ids, rank);
  } else {
    require_finite<float>(weights, ids, rank);
  }
}

}  // namespace flexep
