// SPDX-License-Identifier: Apache-2.0
//
// Sums of rows that the copy engine (sm_90) brings into shared memory: while a warp adds one piece of a
// token's rows, the next is on its way. Holds several times as many bytes in flight as loads into registers
// do, with fewer warps; that is what counts where rows come across a link.
#pragma once

#include "kernels/cuda/row_sums.cuh"

namespace flexep::cuda {

struct BulkSums {
  static constexpr int kWarps = 12;
  static constexpr int kStages = 2;
  static constexpr std::uint32_t kStageBytes = 8192;  ///< a piece of each row of a token
  static constexpr std::size_t kMemoryBytes = static_cast<std::size_t>(kWarps * kStages) * kStageBytes;

  /// Whole steps of a warp, as many as fit for each row.
  static __device__ std::uint32_t piece_bytes(int num_terms) {
    return kStageBytes / static_cast<std::uint32_t>(num_terms) &
           ~static_cast<std::uint32_t>(RowPart::kStep - 1);
  }

  /// What a stage holds: the same bytes of each row, one after the other.
  struct Piece {
    std::byte* out;  ///< of the piece; null: there is nothing left
    std::uint32_t num_bytes;
    std::uint32_t row_stride;
    std::int32_t num_terms;
    std::uint32_t ends_of_groups;  ///< bit i: of term i
  };

  /// The pipelines of a block; in shared memory.
  struct Memory {
    alignas(8) std::uint64_t barriers[kWarps * kStages];
    Piece pieces[kWarps * kStages];
  };
};

/// Pieces of rows in shared memory.
struct StagedRows {
  std::uint32_t first;
  std::uint32_t stride;
  std::uint32_t ends_of_groups;

  __device__ uint4 load(int i, std::size_t at) const {
    return load_shared16(first + static_cast<std::uint32_t>(i) * stride + static_cast<std::uint32_t>(at));
  }
  __device__ bool ends_group(int i) const { return (ends_of_groups >> i & 1u) != 0; }
};

/// As sum_rows(), of at least one row.
template <typename T>
__device__ __noinline__ void sum_staged_rows(const StagedRows rows, int num_terms, std::byte* out,
                                             std::uint32_t num_bytes) {
  const RowPart part{0, num_bytes};
  if (num_terms == 1) {
    for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep)
      store_row16(out + at, rows.load(0, at));
    return;
  }
  const bool in_groups = rows.ends_of_groups != (1u << num_terms) - 1;
  with_num_terms(num_terms, [&]<int kNum>() {
    if (in_groups) return sum_exactly<T, kNum, true>(rows, out, part);
    sum_exactly<T, kNum, false>(rows, out, part);
  });
}

/// One warp's pipeline; as sum_in_place().
template <typename T, typename Tokens>
class BulkSumPipeline {
 public:
  __device__ BulkSumPipeline(Tokens& tokens, std::byte* stages, BulkSums::Memory& memory, int warp)
      : tokens_(tokens),
        stages_(stages + static_cast<std::size_t>(warp * BulkSums::kStages) * BulkSums::kStageBytes),
        barriers_(memory.barriers + warp * BulkSums::kStages),
        pieces_(memory.pieces + warp * BulkSums::kStages) {}

  __device__ void run() {
    for (int i = 0; i < BulkSums::kStages; ++i) load(i);
    for (int i = 0; pieces_[stage(i)].out != nullptr; ++i) {
      add(i);
      __syncwarp();  // everybody has read the stage
      load(i + BulkSums::kStages);
    }
  }

 private:
  static __device__ int stage(int i) { return i % BulkSums::kStages; }
  __device__ std::byte* memory_of(int stage) const {
    return stages_ + static_cast<std::size_t>(stage) * BulkSums::kStageBytes;
  }

  /// Fills a stage with the next piece: a lane for each row.
  __device__ void load(int i) {
    const int s = stage(i);
    const bool has_piece = offset_ < end_ || take_token();
    if (!has_piece) {
      if (lane_in_warp() == 0) pieces_[s].out = nullptr;
      return __syncwarp();
    }
    const std::size_t rest = end_ - offset_;
    const std::uint32_t num_bytes = rest < row_stride_ ? static_cast<std::uint32_t>(rest) : row_stride_;
    const int lane = lane_in_warp();
    if (lane == 0) {
      pieces_[s] = {.out = sum_.out + offset_,
                    .num_bytes = num_bytes,
                    .row_stride = row_stride_,
                    .num_terms = sum_.num_terms,
                    .ends_of_groups = ends_of_groups_};
      expect_bytes(barriers_ + s, static_cast<std::uint32_t>(sum_.num_terms) * num_bytes);
    }
    if (lane < sum_.num_terms)
      bulk_load(memory_of(s) + static_cast<std::uint32_t>(lane) * row_stride_, row_ + offset_, num_bytes,
                barriers_ + s);
    offset_ += num_bytes;
    __syncwarp();
  }

  /// The next sum whose rows go through shared memory; the few others are done at once.
  __device__ bool take_token() {
    while (tokens_.next(sum_)) {
      if (sum_.num_terms == 0 || sum_.num_terms > kMaxTermsInFlight) {
        sum_rows<T>(sum_);
        __syncwarp();
        continue;
      }
      const SumTerm term = sum_.terms[min(lane_in_warp(), sum_.num_terms - 1)];
      row_ = term.row();
      ends_of_groups_ = __ballot_sync(0xFFFFFFFFu, lane_in_warp() < sum_.num_terms && term.ends_group());
      row_stride_ = BulkSums::piece_bytes(sum_.num_terms);
      offset_ = sum_.part.begin;
      end_ = sum_.part.end;
      if (offset_ < end_) return true;
    }
    return false;
  }

  /// Adds the rows of a stage and stores the sum.
  __device__ void add(int i) const {
    const int s = stage(i);
    const BulkSums::Piece piece = pieces_[s];
    wait_mbarrier(barriers_ + s, static_cast<std::uint32_t>(i / BulkSums::kStages) & 1u);
    sum_staged_rows<T>({shared_address(memory_of(s)), piece.row_stride, piece.ends_of_groups},
                       piece.num_terms, piece.out, piece.num_bytes);
  }

  Tokens& tokens_;
  std::byte* stages_;
  std::uint64_t* barriers_;
  BulkSums::Piece* pieces_;

  TokenSum sum_{};
  const std::byte* row_ = nullptr;  ///< of this lane
  std::uint32_t row_stride_ = 0;
  std::uint32_t ends_of_groups_ = 0;
  std::size_t offset_ = 0;
  std::size_t end_ = 0;
};

}  // namespace flexep::cuda
