// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, data phase: each row is read once and stored at its final places.
#pragma once

#include "kernels/cuda/receive_plan.cuh"

namespace flexep::cuda {

/// What a rank pushes.
struct PushJob {
  int num_tokens;
  int num_topk;
  bool do_expand;
  std::size_t row_bytes;
  const std::byte* x;
  std::size_t x_stride;
  const std::int32_t* owners;  ///< [T, K], as PlanLayout has them
  const std::int32_t*
      rows;  ///< [T, K], row of the pair in its owner's output; token_slots in the compact layout
  const PushTarget* targets;           ///< [R]
  const std::uint8_t* is_across_link;  ///< [R], or null, as Peers has it

  __device__ std::int64_t pair(int token, int column) const {
    return static_cast<std::int64_t>(token) * num_topk + column;
  }
  /// Whether the last pair with an owner stands for the others: in the compact layout, and where the owner
  /// makes the rows of the others from it (fan_out.cuh).
  __device__ bool crosses_once(int owner) const {
    return !do_expand || (is_across_link != nullptr && is_across_link[owner] != 0);
  }
  __device__ const std::byte* source(int token) const {
    return x + static_cast<std::size_t>(token) * x_stride;
  }
  /// Where the row of the token's pair goes, or null.
  __device__ std::byte* destination(int token, int column) const {
    const std::int32_t entry = owners[pair(token, column)];
    if (entry < 0) return nullptr;
    const int owner = entry & ~PlanLayout::kLastOfOwner;
    if (entry == owner && crosses_once(owner)) return nullptr;
    return targets[owner].x + static_cast<std::size_t>(rows[pair(token, column)]) * row_bytes;
  }
};

/// Rows through shared memory by the copy engine (sm_90): one bulk load a row, one bulk store a place. A few
/// warps suffice, each with stages of its own.
struct BulkPush {
  static constexpr int kWarps = 4;
  static constexpr int kStages = 3;
  static constexpr std::uint32_t kStageBytes = 14336;  ///< a row of 7168 bf16
  static constexpr std::size_t kMemoryBytes = static_cast<std::size_t>(kWarps * kStages) * kStageBytes;

  /// What a stage holds: a row, or a piece of a longer one.
  struct Piece {
    int token;  ///< -1: there is nothing left
    std::uint32_t num_bytes;
    std::size_t offset;
  };

  /// The pipelines of a block; in shared memory.
  struct Memory {
    alignas(8) std::uint64_t barriers[kWarps * kStages];
    Piece loaded[kWarps * kStages];
  };
};

/// Deals the tokens of a rank out to the warps that move their rows. Multiprocessors are not equally fast, so
/// a block is sure of the first half of its own tokens only; the second halves of all blocks go token by
/// token to whoever is free.
class TokenSource {
 public:
  __device__ TokenSource(const Operation& operation, int num_tokens, int worker)
      : operation_(operation), num_tokens_(num_tokens) {
    const TokenRange own = tokens_of_block(num_tokens, block());
    next_own_ = own.begin + worker;
    end_own_ = begin_of_shared(own);
    num_rounds_ = most_shared(num_tokens);
  }

  /// The most tokens of a block that others may take; 0 = everybody keeps his own, and nobody needs to know
  /// when others have placed theirs.
  static __device__ int most_shared(int num_tokens) {
    const int most = ceil_div(num_tokens, num_blocks());
    return most - begin_of_shared({0, most});
  }

  /// The next token, or -1. For one lane of each warp.
  __device__ int next() {
    if (next_own_ < end_own_) {
      const int token = next_own_;
      next_own_ += BulkPush::kWarps;
      return token;
    }
    return num_rounds_ > 0 ? next_shared() : -1;
  }

 private:
  static constexpr int kMinShared = 32;  // tokens of a block; fewer are not worth the traffic

  static __device__ int begin_of_shared(const TokenRange& range) {
    const int num_tokens = range.end - range.begin;
    return num_tokens < kMinShared ? range.end : range.begin + num_tokens / 2;
  }

  __device__ int next_shared() {
    // Other blocks have placed their tokens long since, but this has to be seen.
    if (!is_placed_ && !operation_.await_all_blocks()) return -1;
    is_placed_ = true;
    while (true) {
      const auto ticket = static_cast<int>(atomicAdd(operation_.peers.state->num_items_taken, 1u));
      if (ticket >= num_rounds_ * num_blocks()) return -1;
      const TokenRange range = tokens_of_block(num_tokens_, ticket % num_blocks());
      const int token = begin_of_shared(range) + ticket / num_blocks();
      if (token < range.end) return token;
    }
  }

  const Operation& operation_;
  int num_tokens_;
  int next_own_;
  int end_own_;
  int num_rounds_;
  bool is_placed_ = false;
};

/// Before the first of the pipelines begins. Collective over the block.
__device__ inline void prepare_pipelines(BulkPush::Memory& memory) {
  if (thread_in_block() < BulkPush::kWarps * BulkPush::kStages)
    init_mbarrier(memory.barriers + thread_in_block());
  fence_mbarrier_init();
  fence_async_proxy();  // something else lay where the stages are, and others have told us of rows
  __syncthreads();
}

/// One warp's pipeline: loads run kStages - 1 pieces ahead of stores.
///
/// A job has num_topk, row_bytes, source(token) and destination(token, column), null where nothing goes;
/// tokens.next() gives one lane the next token, or -1.
template <typename Job, typename Tokens>
class BulkPipeline {
 public:
  __device__ BulkPipeline(const Job& job, const Tokens& tokens, std::byte* stages, BulkPush::Memory& memory,
                          int warp)
      : job_(job),
        tokens_(tokens),
        stages_(stages + static_cast<std::size_t>(warp * BulkPush::kStages) * BulkPush::kStageBytes),
        barriers_(memory.barriers + warp * BulkPush::kStages),
        loaded_(memory.loaded + warp * BulkPush::kStages) {}

  __device__ void run() {
    for (int i = 0; i < BulkPush::kStages - 1; ++i) load(i);
    __syncwarp();
    for (int i = 0; loaded_[stage(i)].token >= 0; ++i) {
      store(i);
      wait_bulk_read<1>();  // the stores of the piece before: its stage is free again
      __syncwarp();
      load(i + BulkPush::kStages - 1);
      __syncwarp();
    }
    complete_bulk_stores();
  }

 private:
  static __device__ int stage(int i) { return i % BulkPush::kStages; }
  __device__ std::byte* memory_of(int stage) const {
    return stages_ + static_cast<std::size_t>(stage) * BulkPush::kStageBytes;
  }

  /// One lane fills a stage with the next piece.
  __device__ void load(int i) {
    if (lane_in_warp() != 0) return;
    if (next_offset_ == 0) token_ = tokens_.next();
    BulkPush::Piece piece{token_, 0, next_offset_};
    if (token_ >= 0) {
      const std::size_t rest = job_.row_bytes - next_offset_;
      piece.num_bytes =
          rest < BulkPush::kStageBytes ? static_cast<std::uint32_t>(rest) : BulkPush::kStageBytes;
      const std::byte* from = job_.source(token_) + next_offset_;
      expect_bytes(barriers_ + stage(i), piece.num_bytes);
      bulk_load(memory_of(stage(i)), from, piece.num_bytes, barriers_ + stage(i));
      next_offset_ = piece.num_bytes == rest ? 0 : next_offset_ + piece.num_bytes;
    }
    loaded_[stage(i)] = piece;
  }

  /// Each lane stores for the pairs of its columns.
  __device__ void store(int i) const {
    const BulkPush::Piece piece = loaded_[stage(i)];
    const int lane = lane_in_warp();
    std::byte* to = lane < job_.num_topk ? job_.destination(piece.token, lane) : nullptr;
    wait_mbarrier(barriers_ + stage(i), static_cast<std::uint32_t>(i / BulkPush::kStages) & 1u);
    for (int k = lane; k < job_.num_topk; k += kWarpSize) {
      if (k >= kWarpSize) to = job_.destination(piece.token, k);
      if (to != nullptr) bulk_store(to + piece.offset, memory_of(stage(i)), piece.num_bytes);
    }
    close_bulk_group();
  }

  const Job& job_;
  Tokens tokens_;
  std::byte* stages_;
  std::uint64_t* barriers_;
  BulkPush::Piece* loaded_;
  int token_ = -1;
  std::size_t next_offset_ = 0;
};

/// Rows through registers, for GPUs without a copy engine: a warp takes a token.
template <typename Job>
__device__ void push_through_registers(const Job& job, const TokenRange& tokens, int worker,
                                       int num_workers) {
  constexpr int kVectors = 4;  // in flight for each lane
  constexpr std::size_t kStep = kVectors * kWarpSize * sizeof(uint4);
  for (int token = tokens.begin + worker; token < tokens.end; token += num_workers) {
    const std::byte* row = job.source(token);
    for (std::size_t begin = 0; begin < job.row_bytes; begin += kStep) {
      uint4 values[kVectors];
      const std::size_t offset = begin + static_cast<std::size_t>(lane_in_warp()) * sizeof(uint4);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const std::size_t at = offset + static_cast<std::size_t>(i * kWarpSize) * sizeof(uint4);
        if (at < job.row_bytes) values[i] = load_row16(row + at);
      }
      for (int k = 0; k < job.num_topk; ++k) {
        std::byte* to = job.destination(token, k);
        if (to == nullptr) continue;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
          const std::size_t at = offset + static_cast<std::size_t>(i * kWarpSize) * sizeof(uint4);
          if (at < job.row_bytes) store_row16(to + at, values[i]);
        }
      }
    }
  }
}

}  // namespace flexep::cuda
