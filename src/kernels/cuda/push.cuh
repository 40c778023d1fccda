// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, data phase: each row is read once and stored at its final places.
#pragma once

#include "kernels/cuda/receive_plan.cuh"

namespace flexep::cuda {

/// What a block pushes.
struct PushJob {
  TokenRange tokens;
  int num_topk;
  bool do_expand;
  std::size_t row_bytes;
  const std::byte* x;
  std::size_t x_stride;
  const std::int32_t* owners;  ///< [T, K], as PlanLayout has them
  const std::int32_t*
      rows;  ///< [T, K], row of the pair in its owner's output; token_slots in the compact layout
  const PushTarget* targets;  ///< [R]

  __device__ std::int64_t pair(int token, int column) const {
    return static_cast<std::int64_t>(token) * num_topk + column;
  }
  /// Where the pair's row goes, or null: in the compact layout the last pair with an owner stands for the
  /// others.
  __device__ std::byte* destination(std::int64_t pair) const {
    const std::int32_t owner = owners[pair];
    if (owner < 0 || (!do_expand && (owner & PlanLayout::kLastOfOwner) == 0)) return nullptr;
    return targets[owner & ~PlanLayout::kLastOfOwner].x + static_cast<std::size_t>(rows[pair]) * row_bytes;
  }
};

/// Rows through shared memory by the copy engine (sm_90): one bulk load a row, one bulk store a place. A few
/// warps suffice, each with stages of its own.
struct BulkPush {
  static constexpr int kWarps = 4;
  static constexpr int kStages = 3;
  static constexpr std::uint32_t kStageBytes = 14336;  ///< a row of 7168 bf16
  static constexpr std::size_t kMemoryBytes = static_cast<std::size_t>(kWarps * kStages) * kStageBytes;
};

/// One warp's pipeline.
class BulkPipeline {
 public:
  __device__ BulkPipeline(const PushJob& job, std::byte* stages, std::uint64_t* barriers, int worker,
                          int num_workers)
      : job_(job),
        stages_(stages),
        barriers_(barriers),
        first_token_(job.tokens.begin + worker),
        num_workers_(num_workers) {
    pieces_ = static_cast<int>(ceil_div(job.row_bytes, std::size_t{BulkPush::kStageBytes}));
    const int num_tokens =
        first_token_ < job.tokens.end ? ceil_div(job.tokens.end - first_token_, num_workers) : 0;
    num_units_ = static_cast<std::int64_t>(num_tokens) * pieces_;
  }

  /// Loads run kStages - 1 units ahead of stores.
  __device__ void run() {
    for (int i = 0; i < BulkPush::kStages - 1; ++i) load(i);
    for (std::int64_t unit = 0; unit < num_units_; ++unit) {
      store(unit);
      wait_bulk_read<1>();  // the stores of the unit before: its stage is free again
      __syncwarp();
      load(unit + BulkPush::kStages - 1);
    }
    complete_bulk_stores();
  }

 private:
  struct Unit {
    int token;
    std::size_t offset;
    std::uint32_t num_bytes;
  };

  __device__ Unit at(std::int64_t unit) const {
    const auto piece = static_cast<std::size_t>(unit % pieces_);
    const std::size_t offset = piece * BulkPush::kStageBytes;
    const std::size_t rest = job_.row_bytes - offset;
    return {first_token_ + static_cast<int>(unit / pieces_) * num_workers_, offset,
            rest < BulkPush::kStageBytes ? static_cast<std::uint32_t>(rest) : BulkPush::kStageBytes};
  }
  __device__ int stage(std::int64_t unit) const { return static_cast<int>(unit % BulkPush::kStages); }
  __device__ std::byte* stage_memory(std::int64_t unit) const {
    return stages_ + static_cast<std::size_t>(stage(unit)) * BulkPush::kStageBytes;
  }

  __device__ void load(std::int64_t unit) const {
    if (unit >= num_units_ || lane_in_warp() != 0) return;
    const Unit u = at(unit);
    const std::byte* from = job_.x + static_cast<std::size_t>(u.token) * job_.x_stride + u.offset;
    bulk_load(stage_memory(unit), from, u.num_bytes, barriers_ + stage(unit));
  }

  /// Each lane stores for the pairs of its columns.
  __device__ void store(std::int64_t unit) const {
    const Unit u = at(unit);
    std::byte* to =
        lane_in_warp() < job_.num_topk ? job_.destination(job_.pair(u.token, lane_in_warp())) : nullptr;
    wait_mbarrier(barriers_ + stage(unit), static_cast<std::uint32_t>(unit / BulkPush::kStages) & 1u);
    for (int k = lane_in_warp(); k < job_.num_topk; k += kWarpSize) {
      if (k >= kWarpSize) to = job_.destination(job_.pair(u.token, k));
      if (to != nullptr) bulk_store(to + u.offset, stage_memory(unit), u.num_bytes);
    }
    close_bulk_group();
  }

  const PushJob& job_;
  std::byte* stages_;
  std::uint64_t* barriers_;
  int first_token_;
  int num_workers_;
  int pieces_;
  std::int64_t num_units_;
};

/// Rows through registers, for GPUs without a copy engine: a warp takes a token.
__device__ inline void push_through_registers(const PushJob& job, int worker, int num_workers) {
  constexpr int kVectors = 4;  // in flight for each lane
  constexpr std::size_t kStep = kVectors * kWarpSize * sizeof(uint4);
  for (int token = job.tokens.begin + worker; token < job.tokens.end; token += num_workers) {
    const std::byte* row = job.x + static_cast<std::size_t>(token) * job.x_stride;
    for (std::size_t begin = 0; begin < job.row_bytes; begin += kStep) {
      uint4 values[kVectors];
      const std::size_t offset = begin + static_cast<std::size_t>(lane_in_warp()) * sizeof(uint4);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const std::size_t at = offset + static_cast<std::size_t>(i * kWarpSize) * sizeof(uint4);
        if (at < job.row_bytes) values[i] = load_row16(row + at);
      }
      for (int k = 0; k < job.num_topk; ++k) {
        std::byte* to = job.destination(job.pair(token, k));
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
