// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "flexep/reference.h"
#include "reference/routing.h"

namespace flexep::reference {
namespace {

/// Fills rows that dispatch leaves uninitialised; as a floating-point number of any width it is an odd NaN or
/// tiny.
constexpr int kPoison = 0xFB;

std::size_t row_bytes(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.size(1)) * size_of(tensor.dtype());
}

/// The address of "row" `index` of a tensor whose rows have `num_bytes` bytes.
std::byte* at(const Tensor& tensor, std::int64_t index, std::size_t num_bytes) {
  return static_cast<std::byte*>(tensor.data()) + static_cast<std::size_t>(index) * num_bytes;
}

void copy_row(const Tensor& to, std::int64_t to_row, const Tensor& from, std::int64_t from_row) {
  if (from.size(1) > 0)
    std::memcpy(at(to, to_row, row_bytes(from)), at(from, from_row, row_bytes(from)), row_bytes(from));
}

/// Copies one weight; weights are moved as they are, whatever they mean.
void copy_weight(const Tensor& to, std::int64_t to_index, const Tensor& from, std::int64_t from_index) {
  const std::size_t num_bytes = size_of(from.dtype());
  std::memcpy(at(to, to_index, num_bytes), at(from, from_index, num_bytes), num_bytes);
}

Tensor filled(const Shape& shape, DType dtype, int byte) {
  Tensor tensor = Tensor::empty(shape, dtype);
  std::memset(tensor.data(), byte, tensor.num_bytes());
  return tensor;
}

void store_id(const Tensor& topk_idx, std::int64_t index, int id) {
  if (topk_idx.dtype() == DType::kInt32) {
    topk_idx.data<std::int32_t>()[index] = id;
  } else {
    topk_idx.data<std::int64_t>()[index] = id;
  }
}

void receive_compact(RankOutput& output, std::span<const RankInput> inputs, const Arrivals& arrivals) {
  const auto num_rows = static_cast<std::int64_t>(arrivals.tokens.size());
  const std::int64_t num_topk = inputs[0].topk_idx.size(1);
  output.x = Tensor::empty({num_rows, inputs[0].x.size(1)}, inputs[0].x.dtype());
  output.topk_idx = Tensor::empty({num_rows, num_topk}, inputs[0].topk_idx.dtype());
  if (inputs[0].sf) output.sf = Tensor::empty({num_rows, inputs[0].sf.size(1)}, inputs[0].sf.dtype());
  if (inputs[0].topk_weights)
    output.topk_weights = Tensor::zeros({num_rows, num_topk}, inputs[0].topk_weights.dtype());

  for (std::int64_t row = 0; row < num_rows; ++row) {
    const Arrival& token = arrivals.tokens[static_cast<std::size_t>(row)];
    const RankInput& source = inputs[static_cast<std::size_t>(token.src_rank)];
    copy_row(output.x, row, source.x, token.src_token);
    if (output.sf) copy_row(output.sf, row, source.sf, token.src_token);
    for (std::int64_t k = 0; k < num_topk; ++k) {
      const int expert = token.local_expert[static_cast<std::size_t>(k)];
      store_id(output.topk_idx, row * num_topk + k, expert);
      if (expert < 0 || !output.topk_weights) continue;
      copy_weight(output.topk_weights, row * num_topk + k, source.topk_weights,
                  token.src_token * num_topk + k);
    }
  }
}

void receive_expanded(RankOutput& output, std::span<const RankInput> inputs, const Arrivals& arrivals,
                      int gap_byte) {
  const std::int64_t num_topk = inputs[0].topk_idx.size(1);
  output.x = filled({arrivals.num_expanded_rows, inputs[0].x.size(1)}, inputs[0].x.dtype(), gap_byte);
  if (inputs[0].sf) {
    output.sf = filled({arrivals.num_expanded_rows, inputs[0].sf.size(1)}, inputs[0].sf.dtype(), gap_byte);
  }
  if (inputs[0].topk_weights) {
    output.topk_weights = filled({arrivals.num_expanded_rows}, inputs[0].topk_weights.dtype(), gap_byte);
  }

  for (const Arrival& token : arrivals.tokens) {
    const RankInput& source = inputs[static_cast<std::size_t>(token.src_rank)];
    for (std::int64_t k = 0; k < num_topk; ++k) {
      const int row = token.expanded_row[static_cast<std::size_t>(k)];
      if (row < 0) continue;
      copy_row(output.x, row, source.x, token.src_token);
      if (output.sf) copy_row(output.sf, row, source.sf, token.src_token);
      if (output.topk_weights) {
        copy_weight(output.topk_weights, row, source.topk_weights, token.src_token * num_topk + k);
      }
    }
  }
}

/// [El]. Compact: inclusive prefix sum of aligned counts. Expanded: where each expert's rows end.
std::vector<std::int32_t> psum_per_expert(const Arrivals& arrivals, bool do_expand) {
  std::vector<std::int32_t> psum;
  for (std::size_t i = 0; i < arrivals.num_tokens.size(); ++i) {
    psum.push_back(arrivals.start_row[i] + (do_expand ? arrivals.num_tokens[i] : arrivals.num_aligned[i]));
  }
  return psum;
}

/// [R], inclusive prefix sum of tokens received per source rank.
std::vector<std::int32_t> psum_per_rank(const Arrivals& arrivals, std::size_t num_ranks) {
  std::vector<std::int32_t> psum(num_ranks, 0);
  for (const Arrival& token : arrivals.tokens) {
    for (auto rank = static_cast<std::size_t>(token.src_rank); rank < num_ranks; ++rank) ++psum[rank];
  }
  return psum;
}

Tensor src_metadata(const Arrivals& arrivals, std::int64_t num_topk, int num_max_tokens_per_rank,
                    bool do_expand) {
  Tensor metadata =
      Tensor::empty({static_cast<std::int64_t>(arrivals.tokens.size()), num_topk + 2}, DType::kInt32);
  auto* out = metadata.data<std::int32_t>();
  for (const Arrival& token : arrivals.tokens) {
    *out++ = token.src_rank * num_max_tokens_per_rank + token.src_token;
    *out++ = 0;
    for (const int row : token.expanded_row) *out++ = do_expand ? row : -1;
  }
  return metadata;
}

int largest_num_tokens(std::span<const RankInput> inputs) {
  std::int64_t largest = 0;
  for (const auto& input : inputs) largest = std::max(largest, input.x.size(0));
  return static_cast<int>(largest);
}

}  // namespace

std::vector<RankOutput> dispatch(std::span<const RankInput> inputs, const DispatchOptions& options) {
  const int num_max_tokens =
      options.num_max_tokens_per_rank > 0 ? options.num_max_tokens_per_rank : largest_num_tokens(inputs);
  std::vector<RankOutput> outputs;
  for (const Arrivals& arrivals : route(inputs, options)) {
    RankOutput output;
    if (options.do_expand) {
      receive_expanded(output, inputs, arrivals, options.do_zero_padding ? 0 : kPoison);
    } else {
      receive_compact(output, inputs, arrivals);
    }
    output.num_recv_tokens_per_expert = arrivals.num_tokens;
    output.num_dropped_tokens = arrivals.num_dropped;
    output.psum_num_recv_tokens_per_expert = psum_per_expert(arrivals, options.do_expand);
    output.psum_num_recv_tokens_per_rank = psum_per_rank(arrivals, inputs.size());
    output.recv_src_metadata =
        src_metadata(arrivals, inputs[0].topk_idx.size(1), num_max_tokens, options.do_expand);
    outputs.push_back(std::move(output));
  }
  return outputs;
}

}  // namespace flexep::reference
