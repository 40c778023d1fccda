// SPDX-License-Identifier: Apache-2.0
//
// What one block of a dispatch knows; its phases, each in a file of its own, work on it. It lives in
// registers: all phases are inlined, and nothing keeps its address. In local memory it made a dispatch of one
// token take 41 us instead of 23.
#pragma once

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/report.cuh"
#include "kernels/cuda/side_data.cuh"

namespace flexep::cuda {

/// Dynamic shared memory of a dispatch: masks while tokens are counted and placed, then the stages of the
/// bulk pipelines; and the arrays of the plan. More than half of what a multiprocessor has, so that each
/// block has one of its own.
constexpr std::size_t kStageMemory = BulkPush::kMemoryBytes;
constexpr std::size_t kScratchMemory = 32768;
constexpr std::size_t kDispatchMemory = kStageMemory + kScratchMemory;

struct DispatchMemory {
  ExchangeMemory exchange;
  int num_max_tokens_per_rank;
  unsigned long long bad_pair;
  // Of the push and of the fan-out; barriers count from their start.
  BulkPush::Memory push;
  BulkPush::Memory fan_out;
};

/// The parts of the workspace.
struct Workspace {
  unsigned long long* bad_pairs;  ///< [blocks], the first pair of each block that cannot be sent
  std::int32_t* counts;           ///< [blocks, R + E]
  std::byte* scratch;             ///< [blocks], ReceivePlan that does not fit shared memory

  __host__ __device__ Workspace(std::byte* memory, int num_blocks, int num_columns)
      : bad_pairs(reinterpret_cast<unsigned long long*>(memory)),
        counts(reinterpret_cast<std::int32_t*>(bad_pairs + num_blocks)),
        scratch(reinterpret_cast<std::byte*>(counts) +
                align_up(static_cast<std::size_t>(num_blocks) * static_cast<std::size_t>(num_columns) * 4,
                         std::size_t{16})) {}
};

__device__ inline TopkIdx topk_idx_of(const DispatchLaunch& launch, const void* ids) {
  return {.ids = ids,
          .idx_bytes = launch.format.idx_bytes,
          .num_topk = launch.format.num_topk,
          .num_ranks = launch.peers.num_ranks,
          .num_experts = launch.num_experts,
          .num_local_experts = launch.num_experts / launch.peers.num_ranks};
}

struct DispatchBlock {
  __device__ DispatchBlock(const DispatchLaunch& launch, DispatchMemory& memory, std::byte* dynamic)
      : launch(launch),
        memory(memory),
        dynamic(dynamic),
        operation(launch.peers, launch.reports),
        topk_idx(topk_idx_of(launch, launch.topk_idx)),
        workspace(launch.workspace, num_blocks(), topk_idx.num_columns()),
        masks(dynamic, kStageMemory, topk_idx.num_columns()),
        scratch(dynamic + kStageMemory, kScratchMemory,
                workspace.scratch + static_cast<std::size_t>(block()) *
                                        ReceivePlan::num_bytes(launch.peers.num_ranks, launch.num_experts)),
        plan(scratch, launch.peers.num_ranks, launch.num_experts) {}

  /// Words after the header of a message.
  __device__ int num_message_words() const { return launch.is_cached() ? 0 : topk_idx.num_columns(); }
  __device__ Messages messages() const { return Messages(operation, memory.exchange, num_message_words()); }
  __device__ Judgement& judgement() const { return memory.exchange.judgement; }

  // The plan of the handle.
  template <typename T>
  __device__ T* kept(std::size_t offset) const {
    return reinterpret_cast<T*>(launch.plan + offset);
  }
  __device__ PlanHead& head() const { return *kept<PlanHead>(launch.plan_layout.head()); }
  __device__ PairPlaces places() const {
    const PlanLayout& layout = launch.plan_layout;
    return {.owners = kept<std::int32_t>(layout.owners()),
            .token_slots = kept<std::int32_t>(layout.token_slots()),
            .rows = launch.format.do_expand ? kept<std::int32_t>(layout.rows()) : nullptr};
  }

  __device__ ReceiveSize& own_size() const { return plan.sizes[launch.peers.rank]; }
  /// Of this rank's first expert.
  __device__ int first_own_column() const {
    return topk_idx.column_of_expert(launch.peers.rank * topk_idx.num_local_experts);
  }

  const DispatchLaunch& launch;
  DispatchMemory& memory;
  std::byte* dynamic;
  Operation operation;
  TopkIdx topk_idx;
  Workspace workspace;
  Masks masks;
  Scratch scratch;
  ReceivePlan plan;
  int num_tokens = 0;
  TokenRange tokens{};  ///< of this block
  bool has_dropped = false;
};

}  // namespace flexep::cuda
