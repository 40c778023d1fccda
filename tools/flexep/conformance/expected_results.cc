// SPDX-License-Identifier: Apache-2.0
#include "conformance/expected_results.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>

#include "conformance/case_data.h"

namespace flexep::conformance {
namespace {

std::vector<reference::CombineInput> unchanged(const std::vector<reference::RankOutput>& received) {
  std::vector<reference::CombineInput> rows;
  for (const auto& output : received) rows.push_back({.x = output.x, .topk_weights = output.topk_weights});
  return rows;
}

/// Whether the expert of column `k` received this token, by what its rank received.
bool is_kept(const reference::RankOutput& output, std::int64_t token, std::int64_t k) {
  const std::int64_t num_columns = output.recv_src_metadata.size(1);
  if (!output.topk_idx)
    return output.recv_src_metadata.data<std::int32_t>()[token * num_columns + 2 + k] >= 0;
  const std::int64_t index = token * output.topk_idx.size(1) + k;
  return output.topk_idx.dtype() == DType::kInt32 ? output.topk_idx.data<std::int32_t>()[index] >= 0
                                                  : output.topk_idx.data<std::int64_t>()[index] >= 0;
}

Tensor nothing_routed(const Tensor& topk_idx) {
  Tensor ids = Tensor::empty(topk_idx.shape(), topk_idx.dtype());
  std::memset(ids.data(), 0xFF, ids.num_bytes());
  return ids;
}

void copy_id(const Tensor& to, const Tensor& from, std::int64_t index) {
  const std::size_t num_bytes = size_of(from.dtype()), offset = static_cast<std::size_t>(index) * num_bytes;
  std::memcpy(static_cast<std::byte*>(to.data()) + offset,
              static_cast<const std::byte*>(from.data()) + offset, num_bytes);
}

std::vector<Tensor> kept_ids(const CaseSpec& spec, const std::vector<reference::RankInput>& inputs,
                             const std::vector<reference::RankOutput>& received) {
  std::vector<Tensor> kept;
  for (const auto& input : inputs) kept.push_back(nothing_routed(input.topk_idx));
  for (const auto& output : received) {
    const Tensor& metadata = output.recv_src_metadata;
    for (std::int64_t token = 0; token < metadata.size(0); ++token) {
      const int src_idx = metadata.data<std::int32_t>()[token * metadata.size(1)];
      const auto rank = static_cast<std::size_t>(src_idx / spec.agreed_num_max_tokens());
      const int src_token = src_idx % spec.agreed_num_max_tokens();
      for (int k = 0; k < spec.num_topk; ++k) {
        if (is_kept(output, token, k))
          copy_id(kept[rank], inputs[rank].topk_idx, src_token * spec.num_topk + k);
      }
    }
  }
  return kept;
}

/// Element by element.
std::vector<std::int32_t> sum(std::vector<std::int32_t> counts, const std::vector<std::int32_t>& others) {
  std::ranges::transform(counts, others, counts.begin(), std::plus{});
  return counts;
}

}  // namespace

ExpectedResults::ExpectedResults(const CaseSpec& spec) {
  const auto dispatch_options = spec.dispatch_options();
  const auto combine_options = spec.combine_options();
  inputs = make_inputs(spec);
  received = reference::dispatch(inputs, dispatch_options);
  for (const auto& output : received) {
    num_routed_tokens_per_expert.push_back(sum(output.num_recv_tokens_per_expert, output.num_dropped_tokens));
  }
  kept_topk_idx = kept_ids(spec, inputs, received);
  cached_inputs = make_cached_inputs(spec, inputs);
  cached_received = reference::dispatch(cached_inputs, dispatch_options);
  expert_outputs = make_expert_outputs(spec, received);
  combined = reference::combine(inputs, dispatch_options, expert_outputs, combine_options);
  if (is_summable(spec.dtype)) {
    round_trip = reference::combine(inputs, dispatch_options, unchanged(received), combine_options);
  }
}

std::vector<bool> real_rows(const CaseSpec& spec, const reference::RankOutput& received) {
  const auto num_rows = static_cast<std::size_t>(received.x.size(0));
  if (!spec.do_expand) return std::vector<bool>(num_rows, true);
  std::vector<bool> is_real(num_rows, false);
  for (std::size_t expert = 0; expert < received.num_recv_tokens_per_expert.size(); ++expert) {
    const std::int32_t end = received.psum_num_recv_tokens_per_expert[expert];
    const std::int32_t count = received.num_recv_tokens_per_expert[expert];
    std::fill(is_real.begin() + (end - count), is_real.begin() + end, true);
  }
  return is_real;
}

}  // namespace flexep::conformance
