// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/exchange_header.h"
#include "kernels/cuda/operation_result.h"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/plan_layout.h"
#include "routing/output_layout.h"

namespace flexep::cuda {

/// One dispatch on one rank, from the exchange to the arrival of all rows: one kernel, no host in the middle.
///
/// Pointers are device memory unless they say otherwise, and are used until the kernel completes. Everything
/// here is copied at the launch; a captured launch replays with the same values and with new contents of the
/// memory.
struct DispatchLaunch {
  Peers peers;
  Reports reports;
  /// Blocks of the kernel, one a multiprocessor; at most multiprocessors / ranks on this GPU. Short
  /// operations take fewer.
  int num_sms = 1;
  /// This rank's header: fingerprint, region, region_bytes, num_max_tokens_per_rank, max_recv_tokens, bounds.
  ExchangeHeader header;

  OutputFormat format;  ///< has_metadata is false exactly for a cached dispatch
  int num_experts = 1;
  int expert_alignment = 1;
  bool do_zero_padding = false;

  int num_tokens = 0;
  /// One int32 that holds the number of tokens, at most plan_layout.max_tokens, instead of num_tokens: for a
  /// captured launch whose T changes. Null = num_tokens.
  const std::int32_t* device_num_tokens = nullptr;

  /// [T, K] contiguous, int64 or int32 as format.idx_bytes says. Cached: the handle's. Not null unless T is
  /// 0.
  const void* topk_idx = nullptr;
  /// [T, K], as topk_idx: receives the ids that are sent (the copy in the handle). Must be given where a rank
  /// has a limit, since dropped pairs become -1 there. Null = no copy. Cached: null.
  void* kept_topk_idx = nullptr;

  const std::byte* x = nullptr;       ///< rows of format.row_bytes, 16-byte aligned
  std::size_t x_stride = 0;           ///< bytes from one row to the next, a multiple of 16
  const std::uint32_t* sf = nullptr;  ///< [T, P], bits, any strides; null without
  std::int64_t sf_row_stride = 0;     ///< in elements
  std::int64_t sf_pack_stride = 0;
  const std::byte* topk_weights = nullptr;  ///< [T, K] contiguous, format.weight_bytes each; null without
  /// Whether weights of routed pairs that are NaN or infinite are refused.
  bool check_weights = false;
  /// int32 [El], to which the pairs that arrive (before drops) are added; null without.
  std::int32_t* cumulative_local_expert_recv_stats = nullptr;

  /// [M, K + 2] of the dispatch that made the handle: for a cached one of the expanded layout, where some
  /// peer is across a link.
  const std::int32_t* metadata = nullptr;

  /// plan_layout.num_bytes(): written by a fresh dispatch, read by a cached one (which brings the plan of its
  /// handle).
  std::byte* plan = nullptr;
  PlanLayout plan_layout;
  /// dispatch_workspace_bytes(), contents do not matter; one for all operations of a buffer will do.
  std::byte* workspace = nullptr;

  /// False = rows go through registers, as on GPUs without a copy engine (before sm_90); the same result,
  /// slower.
  bool allow_bulk_copies = true;

  constexpr bool is_cached() const { return !format.has_metadata; }
};

/// Scratch memory of a dispatch with at most that many SMs.
std::size_t dispatch_workspace_bytes(int num_sms, int num_ranks, int num_experts);

/// Enqueues the dispatch. Does not synchronise and allocates nothing; may be captured into a graph, where
/// each replay is a new operation. Every rank of the group launches its own, in the same order.
///
/// Where rows go: rank r's output is laid out by OutputLayout(format, sizes of r) in the region of r's
/// header, r's sizes being what the counts say or, where r's header has bounds, the bounds. Metadata column 1
/// is source * K + last column. Errors of the operation are in the reports; what is returned is an error of
/// the launch itself.
cudaError_t launch_dispatch(const DispatchLaunch& launch, cudaStream_t stream);

}  // namespace flexep::cuda
