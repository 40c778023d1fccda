// SPDX-License-Identifier: Apache-2.0
#include "moe/topk_backend.h"

#include <algorithm>

#include "moe/compute_device.h"
#include "moe/device_router.h"
#include "moe/floating.h"
#include "moe/rows.h"
#include "moe/topk.h"
#include "moe/virtual_experts.h"

namespace flexep::moe {
namespace {

// Takes the pairs out of idx for which is_sent(token, expert) does not hold.
template <typename Predicate>
void keep_pairs(const Tensor& idx, Predicate&& is_sent) {
  for (std::int64_t token = 0; token < idx.size(0); ++token) {
    for (std::int64_t& expert : row_of<std::int64_t>(idx, token))
      if (expert >= 0 && !is_sent(token, static_cast<std::size_t>(expert))) expert = -1;
  }
}

void skip_zero_probs(const Tensor& idx, const Tensor& probs) {
  visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
    keep_pairs(
        idx, [&](auto token, auto expert) { return convert<Wide<T>>(row_of<T>(probs, token)[expert]) != 0; });
  });
}

void sort_by_expert(const Tensor& idx) {
  for (std::int64_t token = 0; token < idx.size(0); ++token)
    std::ranges::sort(row_of<std::int64_t>(idx, token));
}

}  // namespace

// The choice is among experts, not among their slices: where probabilities are equal it must not be that one
// expert's slice goes before another's.
Tensor TopkBackend::setup_metadata(const Tensor& probs, const Tensor& routing_map) {
  if (!probs.device().is_host()) {
    const TopColumns top = group().compute().router()->topk(probs, config().moe_router_topk);
    token_indices_ = top.idx;
    return token_probs_ = top.values;
  }
  const Tensor chosen = topk(probs, config().moe_router_topk);
  if (rules_.skips_zero_probs) skip_zero_probs(chosen, probs);
  if (config().moe_respect_routing_map) {
    keep_pairs(chosen, [&](auto token, auto expert) {
      return row_of<std::int32_t>(routing_map, token)[expert] != 0;
    });
  }
  token_indices_ = to_virtual_ids(config(), chosen);
  if (rules_.is_by_expert) sort_by_expert(token_indices_);
  token_probs_ = gather_columns(to_virtual_experts(config(), probs), token_indices_);
  return token_probs_;
}

Gradient<Tensor> TopkBackend::setup_metadata_backward(const Gradient<Tensor>& token_probs) {
  if (const Tensor& grad = token_probs; !grad.device().is_host()) {
    const ComputeDevice& device = group().compute();
    return device.router()->scatter_columns(device.cast(grad, probs_dtype()), token_indices_,
                                            num_virtual_experts());
  }
  return to_virtual_experts_backward(
      config(), scatter_columns(cast(token_probs, probs_dtype()), token_indices_, num_virtual_experts()));
}

Tokens TopkBackend::dispatch(const Tokens& tokens, const AsyncOptions& options) {
  return send(with_probs(tokens), token_indices_, /*max_recv_tokens=*/0, options);
}

Tensor* TopkBackend::find_cudagraph_attr(std::string_view name) {
  if (name == "token_probs") return &token_probs_;
  if (name == "token_indices") return &token_indices_;
  return nullptr;
}

void TopkBackend::reset() {
  ElasticBackend::reset();
  token_indices_ = {};
  token_probs_ = {};
}

}  // namespace flexep::moe
