// SPDX-License-Identifier: Apache-2.0
//
// Combine, data phase: the home rank of a token reads its rows where the experts left them and sums them.
#pragma once

#include "kernels/cuda/combine.h"
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/weight.cuh"
#include "kernels/cuda/work_deal.cuh"

namespace flexep::cuda {

/// The rows that one owner offers, as this rank addresses them.
struct PullSource {
  const std::byte* x;
  const std::byte* summed_x;      ///< see ExchangeHeader; null where all rows are read
  const std::byte* topk_weights;  ///< null without weights
  std::int32_t is_per_token;      ///< one row per received token instead of one per row of its layout

  __device__ bool sends_one_row_per_token() const { return is_per_token != 0 || summed_x != nullptr; }
};

/// A warp's list of rows, in shared memory.
struct TermList {
  SumTerm* terms;             ///< [K + 2]
  std::int32_t* last_column;  ///< [K], of the column's owner, or -1
};

struct PullJob {
  const CombineLaunch& launch;
  const PullSource* sources;  ///< [R]
  std::size_t row_bytes;
  const std::int32_t* owners;       ///< [T, K]
  const std::int32_t* token_slots;  ///< [T, K]
  const std::int32_t* rows;         ///< [T, K], token_slots in the compact layout
  int num_topk;
  bool do_expand;

  __device__ std::int64_t pair(int token, int column) const {
    return static_cast<std::int64_t>(token) * num_topk + column;
  }
  __device__ int owner(std::int64_t pair) const {
    return owners[pair] < 0 ? -1 : owners[pair] & ~PlanLayout::kLastOfOwner;
  }
  __device__ bool is_last_of_owner(std::int64_t pair) const {
    return owners[pair] >= 0 && (owners[pair] & PlanLayout::kLastOfOwner) != 0;
  }
  __device__ bool has_groups() const { return do_expand && launch.allow_multiple_reduction; }
  /// Whether the pair has a row of its own among those that are summed.
  __device__ bool has_row(std::int64_t pair) const {
    const int rank = owner(pair);
    return rank >= 0 && (!sources[rank].sends_one_row_per_token() || is_last_of_owner(pair));
  }
  __device__ const std::byte* row(int token, int column, const std::int32_t* last_column) const {
    const std::int64_t pair = this->pair(token, column);
    const PullSource& source = sources[owner(pair)];
    const bool is_sum = source.summed_x != nullptr && has_company(column, last_column);
    const std::int32_t row = is_sum || source.is_per_token != 0 ? token_slots[pair] : rows[pair];
    return (is_sum ? source.summed_x : source.x) + static_cast<std::size_t>(row) * row_bytes;
  }

 private:
  /// Whether the last column of an owner is not its only one.
  __device__ bool has_company(int column, const std::int32_t* last_column) const {
    for (int j = 0; j < column; ++j) {
      if (last_column[j] == column) return true;
    }
    return false;
  }
};

/// [K], the last column of each column's owner: by which groups are ordered.
__device__ inline void find_last_columns(const PullJob& job, int token, std::int32_t* last_column) {
#pragma unroll 1
  for (int k = lane_in_warp(); k < job.num_topk; k += kWarpSize) {
    const int owner = job.owner(job.pair(token, k));
    int last = owner < 0 ? -1 : k;
#pragma unroll 1
    for (int j = k + 1; owner >= 0 && j < job.num_topk; ++j) {
      if (job.owner(job.pair(token, j)) == owner) last = j;
    }
    last_column[k] = last;
  }
  __syncwarp();
}

/// How many rows are summed before the column's: those of groups that end earlier, and of its own group to
/// its left.
__device__ inline int position_in_groups(const PullJob& job, int token, int column,
                                         const std::int32_t* last_column) {
  int position = 0;
#pragma unroll 1
  for (int j = 0; j < job.num_topk; ++j) {
    if (last_column[j] < 0 || !job.has_row(job.pair(token, j))) continue;
    const bool is_before =
        last_column[j] < last_column[column] || (last_column[j] == last_column[column] && j < column);
    position += is_before ? 1 : 0;
  }
  return position;
}

/// Fills the list with the bias rows and then the token's rows in the order of the sum. @return their number.
/// @param in_groups  set to whether some group has several rows.
__device__ inline int list_terms(const PullJob& job, int token, const TermList& list, bool& in_groups) {
  int num_terms = 0;
  for (const std::byte* bias : job.launch.bias) {
    if (bias == nullptr) continue;
    if (lane_in_warp() == 0)
      list.terms[num_terms] = SumTerm(bias + static_cast<std::size_t>(token) * job.row_bytes, true);
    ++num_terms;
  }
  if (job.has_groups()) find_last_columns(job, token, list.last_column);
  in_groups = false;
  const int first = num_terms;
#pragma unroll 1
  for (int begin = 0; begin < job.num_topk; begin += kWarpSize) {
    const int k = begin + lane_in_warp();
    const std::int64_t pair = job.pair(token, k);
    const bool has_row = k < job.num_topk && job.has_row(pair);
    const std::uint32_t those = __ballot_sync(0xFFFFFFFFu, has_row);
    if (has_row) {
      const int in_order = num_terms + __popc(those & ((1u << lane_in_warp()) - 1));
      const int position =
          job.has_groups() ? first + position_in_groups(job, token, k, list.last_column) : in_order;
      const bool ends_group = !job.has_groups() || job.is_last_of_owner(pair);
      list.terms[position] = SumTerm(job.row(token, k, list.last_column), ends_group);
      in_groups = !ends_group;
    }
    num_terms += __popc(those);
    in_groups = __any_sync(0xFFFFFFFFu, in_groups);
  }
  __syncwarp();
  return num_terms;
}

/// The tokens of a pull, or parts of them where there are more warps than tokens.
class PulledTokens {
 public:
  /// @param num_workers  warps of the kernel that pull
  __device__ PulledTokens(const PullJob& job, int num_tokens, const TermList& list, int worker,
                          int num_workers)
      : job_(job),
        list_(list),
        num_parts_(num_parts_of(job, num_tokens, num_workers)),
        part_bytes_(ceil_div(ceil_div(job.row_bytes, RowPart::kStep), static_cast<std::size_t>(num_parts_)) *
                    RowPart::kStep),
        deal_(job.launch.peers.state->num_items_taken, num_tokens * num_parts_, worker, num_workers) {}

  __device__ bool next(TokenSum& sum) {
    const int item = deal_.next();
    if (item < 0) return false;
    const int token = item / num_parts_;
    const std::size_t begin = static_cast<std::size_t>(item % num_parts_) * part_bytes_;
    sum.terms = list_.terms;
    sum.num_terms = list_terms(job_, token, list_, sum.in_groups);
    sum.out = job_.launch.out_x + static_cast<std::size_t>(token) * job_.row_bytes;
    sum.part = {begin, min(begin + part_bytes_, job_.row_bytes)};
    return true;
  }

 private:
  static __device__ int num_parts_of(const PullJob& job, int num_tokens, int num_workers) {
    const auto most = static_cast<int>(ceil_div(job.row_bytes, RowPart::kStep));
    return max(1, min(num_workers / max(num_tokens, 1), most));
  }

  const PullJob& job_;
  TermList list_;
  int num_parts_;
  std::size_t part_bytes_;
  WorkDeal deal_;
};

/// Each column's weight comes from the column's owner; 0 where there is none. Threads take pairs in turn.
__device__ inline void gather_weights(const PullJob& job, int num_tokens, int thread, int num_threads) {
  const std::int64_t num_pairs = static_cast<std::int64_t>(num_tokens) * job.num_topk;
#pragma unroll 1
  for (std::int64_t pair = thread; pair < num_pairs; pair += num_threads) {
    const int owner = job.owner(pair);
    const std::int64_t index =
        job.do_expand ? job.rows[pair]
                      : static_cast<std::int64_t>(job.token_slots[pair]) * job.num_topk + pair % job.num_topk;
    const std::size_t weight_bytes = job.launch.weight_bytes;
    store_weight(job.launch.out_topk_weights, pair, weight_bytes,
                 owner < 0
                     ? nullptr
                     : job.sources[owner].topk_weights + static_cast<std::size_t>(index) * weight_bytes);
  }
}

}  // namespace flexep::cuda
