// SPDX-License-Identifier: Apache-2.0
#include "moe/virtual_experts.h"

#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

std::int64_t virtual_id(const MoeConfig& config, std::int64_t expert, int tp_idx) {
  const int num_local_experts = config.num_local_experts();
  const std::int64_t ep_idx = expert / num_local_experts, local = expert % num_local_experts;
  return (ep_idx * config.expert_tensor_parallel_size + tp_idx) * num_local_experts + local;
}

// Calls visit(expert, virtual expert), tensor rank ascending for each expert.
template <typename Visitor>
void for_each_virtual_expert(const MoeConfig& config, Visitor&& visit) {
  for (std::int64_t expert = 0; expert < config.num_moe_experts; ++expert) {
    for (int tp_idx = 0; tp_idx < config.expert_tensor_parallel_size; ++tp_idx)
      visit(static_cast<std::size_t>(expert), static_cast<std::size_t>(virtual_id(config, expert, tp_idx)));
  }
}

template <typename T>
void copy_columns(const MoeConfig& config, const Tensor& columns, const Tensor& copies) {
  for (std::int64_t t = 0; t < columns.size(0); ++t) {
    const auto from = row_of<T>(columns, t), to = row_of<T>(copies, t);
    for_each_virtual_expert(config, [&](auto expert, auto copy) { to[copy] = from[expert]; });
  }
}

}  // namespace

Tensor to_virtual_experts(const MoeConfig& config, const Tensor& columns) {
  const int tp = config.expert_tensor_parallel_size;
  if (tp == 1) return columns;
  Tensor copies = Tensor::empty({columns.size(0), columns.size(1) * tp}, columns.dtype());
  if (columns.dtype() == DType::kInt32) {
    copy_columns<std::int32_t>(config, columns, copies);
  } else {
    visit_floating(columns.dtype(), "probs",
                   [&]<typename T>(T) { copy_columns<T>(config, columns, copies); });
  }
  return copies;
}

Tensor to_virtual_ids(const MoeConfig& config, const Tensor& topk_idx) {
  const int tp = config.expert_tensor_parallel_size;
  if (tp == 1) return topk_idx;
  Tensor ids = Tensor::empty({topk_idx.size(0), topk_idx.size(1) * tp}, DType::kInt64);
  auto* next = ids.data<std::int64_t>();
  for (const std::int64_t expert : topk_idx.values<std::int64_t>())
    for (int tp_idx = 0; tp_idx < tp; ++tp_idx)
      *next++ = expert < 0 ? -1 : virtual_id(config, expert, tp_idx);
  return ids;
}

Gradient<Tensor> to_virtual_experts_backward(const MoeConfig& config, const Gradient<Tensor>& grad) {
  if (config.expert_tensor_parallel_size == 1) return grad;
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
