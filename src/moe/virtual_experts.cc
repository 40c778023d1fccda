// SPDX-License-Identifier: Apache-2.0
#include "moe/virtual_experts.h"

#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

// Calls visit(expert, virtual expert), tensor rank ascending for each expert.
template <typename Visitor>
void for_each_virtual_expert(const MoeConfig& config, Visitor&& visit) {
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  const auto num_local_experts = static_cast<std::size_t>(config.num_local_experts());
  const auto tp = static_cast<std::size_t>(config.expert_tensor_parallel_size);
  for (std::size_t expert = 0; expert < num_experts; ++expert) {
    const std::size_t ep_idx = expert / num_local_experts, local = expert % num_local_experts;
    for (std::size_t tp_idx = 0; tp_idx < tp; ++tp_idx)
      visit(expert, (ep_idx * tp + tp_idx) * num_local_experts + local);
  }
}

}  // namespace

Tensor to_virtual_experts(const MoeConfig& config, const Tensor& probs) {
  const std::int64_t num_virtual = probs.size(1) * config.expert_tensor_parallel_size;
  Tensor result = Tensor::empty({probs.size(0), num_virtual}, probs.dtype());
  visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
    for (std::int64_t t = 0; t < probs.size(0); ++t) {
      const auto from = row_of<T>(probs, t), to = row_of<T>(result, t);
      for_each_virtual_expert(config, [&](auto expert, auto copy) { to[copy] = from[expert]; });
    }
  });
  return result;
}

Gradient<Tensor> to_virtual_experts_backward(const MoeConfig& config, const Gradient<Tensor>& grad) {
  const Tensor& copies = grad;
  Tensor result = Tensor::zeros({copies.size(0), config.num_moe_experts}, copies.dtype());
  visit_floating(copies.dtype(), "probs", [&]<typename T>(T) {
    for (std::int64_t t = 0; t < copies.size(0); ++t) {
      const auto from = row_of<T>(copies, t), to = row_of<T>(result, t);
      for_each_virtual_expert(config, [&](auto expert, auto copy) {
        to[expert] = convert<T>(convert<Wide<T>>(to[expert]) + convert<Wide<T>>(from[copy]));
      });
    }
  });
  return result;
}

}  // namespace flexep::moe
