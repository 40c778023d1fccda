// SPDX-License-Identifier: Apache-2.0
//
// Dispatch, expanded layout, after the arrival of all rows: a token from across a link has come once, to the
// row of its last pair with this rank, and its other rows are filled from there.
#pragma once

#include "kernels/cuda/dispatch_block.cuh"

namespace flexep::cuda {

/// What this rank copies within its own output; tokens are received ones.
struct FanOutJob {
  int num_topk;
  std::size_t row_bytes;
  std::byte* x;
  const std::int32_t* metadata;        ///< [M, K + 2]
  const std::uint8_t* is_across_link;  ///< [R]

  __device__ const std::int32_t* rows(int token) const {
    return metadata + static_cast<std::int64_t>(token) * (num_topk + 2) + 2;
  }
  /// Column 1 of the metadata is source rank * K + last column.
  __device__ int last_column(int token) const { return rows(token)[-1] % num_topk; }
  __device__ bool has_crossed(int token) const { return is_across_link[rows(token)[-1] / num_topk] != 0; }
  /// The row that has come.
  __device__ std::int32_t first_row(int token) const { return rows(token)[last_column(token)]; }
  /// A row to be filled, or -1.
  __device__ std::int32_t other_row(int token, int column) const {
    return has_crossed(token) && column != last_column(token) ? rows(token)[column] : -1;
  }

  __device__ const std::byte* source(int token) const {
    return x + static_cast<std::size_t>(first_row(token)) * row_bytes;
  }
  __device__ std::byte* destination(int token, int column) const {
    const std::int32_t row = other_row(token, column);
    return row < 0 ? nullptr : x + static_cast<std::size_t>(row) * row_bytes;
  }
};

/// Every num_workers-th token that has rows to be filled.
class FanOutTokens {
 public:
  __device__ FanOutTokens(const FanOutJob& job, int num_tokens, int worker, int num_workers)
      : job_(job), num_tokens_(num_tokens), next_(worker), num_workers_(num_workers) {}

  __device__ int next() {
    while (next_ < num_tokens_) {
      const int token = next_;
      next_ += num_workers_;
      for (int k = 0; k < job_.num_topk; ++k) {
        if (job_.other_row(token, k) >= 0) return token;
      }
    }
    return -1;
  }

 private:
  const FanOutJob& job_;
  int num_tokens_;
  int next_;
  int num_workers_;
};

/// Scaling factors follow their rows.
__device__ inline void fan_out_scales(const FanOutJob& job, const PushTarget& own, int num_packs,
                                      int num_tokens, int worker, int num_workers) {
  for (int token = worker; token < num_tokens; token += num_workers) {
    const std::uint32_t* from = own.sf + job.first_row(token) * own.sf_row_stride;
    for (int k = 0; k < job.num_topk; ++k) {
      const std::int32_t row = job.other_row(token, k);
      if (row < 0) continue;
      for (int pack = lane_in_warp(); pack < num_packs; pack += kWarpSize)
        own.sf[row * own.sf_row_stride + pack * own.sf_pack_stride] = from[pack * own.sf_pack_stride];
    }
  }
}

/// Whether rows arrive that have to be fanned out; the same on all ranks of a group.
__device__ __forceinline__ bool fans_out(const DispatchBlock& dispatch) {
  return dispatch.launch.format.do_expand && dispatch.launch.peers.is_across_link != nullptr;
}

template <bool kBulk>
__device__ __forceinline__ void fan_out(DispatchBlock& dispatch) {
  const DispatchLaunch& launch = dispatch.launch;
  const PushTarget& own = dispatch.plan.targets[launch.peers.rank];
  const FanOutJob job{.num_topk = launch.format.num_topk,
                      .row_bytes = launch.format.row_bytes,
                      .x = own.x,
                      .metadata = launch.is_cached() ? launch.metadata : own.metadata,
                      .is_across_link = launch.peers.is_across_link};
  const int num_tokens = dispatch.own_size().num_recv_tokens;
  if constexpr (kBulk && kHasBulkCopies) {
    prepare_pipelines(dispatch.memory.fan_out);
    const int worker = block() * BulkPush::kWarps + warp_in_block();
    if (warp_in_block() < BulkPush::kWarps)
      BulkPipeline(job, FanOutTokens(job, num_tokens, worker, num_blocks() * BulkPush::kWarps),
                   dispatch.dynamic, dispatch.memory.fan_out, warp_in_block())
          .run();
  } else {
    push_through_registers(job, tokens_of_block(num_tokens, block()), warp_in_block(), kNumWarps);
  }
  if (own.sf != nullptr)
    fan_out_scales(job, own, launch.format.num_sf_packs, num_tokens, block() * kNumWarps + warp_in_block(),
                   num_blocks() * kNumWarps);
}

}  // namespace flexep::cuda
