// SPDX-License-Identifier: Apache-2.0
#include "bench/row_check.h"

#include <fmt/format.h>

#include <set>

namespace flexep::tool {
namespace {

std::vector<std::size_t> count_expert_outputs(const BenchOptions& options, const Workload& workload) {
  std::vector<std::size_t> first = {static_cast<std::size_t>(options.num_ranks) *
                                    static_cast<std::size_t>(options.num_tokens)};
  for (int rank = 0; rank < options.num_ranks; ++rank)
    first.push_back(first.back() + workload.received_by(rank).size());
  return first;
}

/// Calls visitor(T{}) with the element type of `dtype`.
template <typename Visitor>
auto with_element_type(DType dtype, Visitor visitor) {
  if (dtype == DType::kBFloat16) return visitor(BFloat16{});
  if (dtype == DType::kFloat64) return visitor(double{});
  if (dtype == DType::kFloat8E4M3) return visitor(Float8E4M3{});
  return visitor(float{});
}

}  // namespace

RowCheck::RowCheck(const BenchOptions& options, const Workload& workload, int rank)
    : options_(options),
      workload_(workload),
      rank_(rank),
      first_expert_output_(count_expert_outputs(options, workload)),
      pattern_(first_expert_output_.back(), static_cast<std::size_t>(options.hidden), options.seed) {}

std::size_t RowCheck::input_id(int rank, std::int64_t token) const {
  return static_cast<std::size_t>(std::int64_t{rank} * options_.num_tokens + token);
}

std::size_t RowCheck::expert_output_id(const RowPlace& place) const {
  return first_expert_output_[static_cast<std::size_t>(place.rank)] + static_cast<std::size_t>(place.row);
}

void RowCheck::write_inputs(const Tensor& x) const {
  with_element_type(x.dtype(), [&](auto element) {
    auto* rows = x.data<decltype(element)>();
    for (std::int64_t token = 0; token < x.size(0); ++token)
      pattern_.write(rows + token * x.size(1), input_id(rank_, token));
  });
}

void RowCheck::write_scales(const Tensor& sf) const {
  for (std::int64_t token = 0; token < sf.size(0); ++token) {
    for (std::int64_t pack = 0; pack < sf.size(1); ++pack) {
      sf.data<float>()[token * sf.size(1) + pack] = scale(input_id(rank_, token), pack);
    }
  }
}

void RowCheck::write_expert_outputs(const Tensor& y) const {
  with_element_type(y.dtype(), [&](auto element) {
    auto* rows = y.data<decltype(element)>();
    for (std::int64_t row = 0; row < y.size(0); ++row)
      pattern_.write(rows + row * y.size(1), expert_output_id({rank_, row}));
  });
}

template <typename IdsOfRow>
Finding RowCheck::check_rows(const Tensor& x, std::size_t num_rows, IdsOfRow ids_of_row) const {
  const Shape expected({static_cast<std::int64_t>(num_rows), options_.hidden});
  if (x.shape() != expected)
    return fmt::format("shape {} instead of {}", x.shape().to_string(), expected.to_string());
  return with_element_type(x.dtype(), [&](auto element) -> Finding {
    using T = decltype(element);
    for (std::size_t row = 0; row < num_rows; ++row) {
      const T* values = x.data<T>() + row * static_cast<std::size_t>(options_.hidden);
      const std::vector<std::size_t> ids = ids_of_row(row);
      if (const auto column = pattern_.find_mismatch(values, ids)) {
        return fmt::format("row {}, column {}: {} instead of {}", row, *column,
                           static_cast<float>(values[*column]), pattern_.sum(ids, *column));
      }
    }
    return std::nullopt;
  });
}

Finding RowCheck::check_dispatch(const DispatchResult& result) const {
  const auto& origins = workload_.received_by(rank_);
  const auto id_of_row = [&](std::size_t row) {
    return std::vector{input_id(origins[row].src_rank, origins[row].token)};
  };
  if (auto finding = check_rows(result.x, origins.size(), id_of_row)) return finding;
  if (auto finding = check_scales(result)) return finding;
  if (!result.topk_weights) return std::nullopt;
  return options_.do_expand() ? check_expanded_weights(result) : check_compact_pairs(result);
}

Finding RowCheck::check_scales(const DispatchResult& result) const {
  if (options_.num_sf_packs() == 0) return std::nullopt;
  const auto& origins = workload_.received_by(rank_);
  const Shape expected({static_cast<std::int64_t>(origins.size()), options_.num_sf_packs()});
  if (result.sf.shape() != expected) return fmt::format("sf has shape {}", result.sf.shape().to_string());
  for (std::size_t row = 0; row < origins.size(); ++row) {
    for (std::int64_t pack = 0; pack < expected[1]; ++pack) {
      const float got = result.sf.data<float>()[static_cast<std::int64_t>(row) * expected[1] + pack];
      if (got != scale(input_id(origins[row].src_rank, origins[row].token), pack))
        return fmt::format("sf of row {}, pack {}", row, pack);
    }
  }
  return std::nullopt;
}

Finding RowCheck::check_compact_pairs(const DispatchResult& result) const {
  const auto num_topk = static_cast<std::size_t>(options_.num_topk);
  const auto& origins = workload_.received_by(rank_);
  for (std::size_t row = 0; row < origins.size(); ++row) {
    for (std::size_t k = 0; k < num_topk; ++k) {
      const std::size_t pair = static_cast<std::size_t>(origins[row].token) * num_topk + k;
      const std::int64_t expert = workload_.topk_idx(origins[row].src_rank)[pair];
      const bool is_local = workload_.owner_of(expert) == rank_;
      const std::int64_t id = is_local ? expert - rank_ * workload_.num_local_experts() : -1;
      const std::size_t i = row * num_topk + k;
      if (result.topk_idx.values<std::int64_t>()[i] != id)
        return fmt::format("topk_idx of row {}, column {}", row, k);
      if (result.topk_weights.values<float>()[i] !=
          (is_local ? workload_.topk_weight(origins[row].src_rank, pair) : 0.0f)) {
        return fmt::format("topk_weights of row {}, column {}", row, k);
      }
    }
  }
  return std::nullopt;
}

Finding RowCheck::check_expanded_weights(const DispatchResult& result) const {
  const auto& origins = workload_.received_by(rank_);
  for (std::size_t row = 0; row < origins.size(); ++row) {
    const std::size_t pair =
        static_cast<std::size_t>(origins[row].token * options_.num_topk + origins[row].column);
    if (result.topk_weights.values<float>()[row] != workload_.topk_weight(origins[row].src_rank, pair)) {
      return fmt::format("topk_weights of row {}", row);
    }
  }
  return std::nullopt;
}

Finding RowCheck::check_combine(const Tensor& x) const {
  const auto places = workload_.places_of(rank_);
  return check_rows(x, places.size(), [&](std::size_t token) {
    std::vector<std::size_t> ids;
    for (const RowPlace& place : places[token]) ids.push_back(expert_output_id(place));
    return ids;
  });
}

Finding RowCheck::check_round_trip(const Tensor& x) const {
  const auto places = workload_.places_of(rank_);
  return check_rows(x, places.size(), [&](std::size_t token) {
    return std::vector(places[token].size(), input_id(rank_, static_cast<std::int64_t>(token)));
  });
}

Finding RowCheck::check_rows_received_once(const Tensor& x) const {
  const auto origins = workload_.received_once_by(rank_);
  return check_rows(x, origins.size(), [&](std::size_t row) {
    return std::vector{input_id(origins[row].src_rank, origins[row].token)};
  });
}

Finding RowCheck::check_returned_once(const Tensor& x) const {
  const auto places = workload_.places_of(rank_);
  return check_rows(x, places.size(), [&](std::size_t token) {
    std::set<int> ranks;
    for (const RowPlace& place : places[token]) ranks.insert(place.rank);
    return std::vector(ranks.size(), input_id(rank_, static_cast<std::int64_t>(token)));
  });
}

}  // namespace flexep::tool
