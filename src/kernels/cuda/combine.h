// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "flexep/types.h"
#include "kernels/cuda/exchange_header.h"
#include "kernels/cuda/operation_result.h"
#include "kernels/cuda/peers.h"
#include "kernels/cuda/plan_layout.h"

namespace flexep::cuda {

/// One combine on one rank, the mirror image of DispatchLaunch; what is said there of pointers holds here.
///
/// The rows offered to the others are either where the header says already (arena or registered memory), or
/// are staged by the kernel: then `staged_x` is this rank's own address of the memory that header.x, or
/// header.summed_x, names.
struct CombineLaunch {
  Peers peers;
  Reports reports;
  int num_sms = 1;
  /// This rank's header: fingerprint, x, topk_weights, x_is_per_token (compact layout, or stage L while
  /// staging).
  ExchangeHeader header;

  const std::byte* plan = nullptr;  ///< of the handle
  PlanLayout plan_layout;
  int num_tokens =
      0;  ///< T, rows of the output; the plan's own, smaller, number counts where T changed in a replay
  bool allow_multiple_reduction = true;
  DType dtype = DType::kBFloat16;  ///< is_summable()
  int num_columns = 0;             ///< row_bytes is a multiple of 16
  std::size_t weight_bytes = 0;    ///< 4 or 8; 0 = no weights
  /// Rows come through shared memory, by the copy engine (from sm_90 on; false is the way of older GPUs): the
  /// same bits, with several times as many bytes in flight for each multiprocessor.
  bool allow_bulk_copies = true;

  // Staging; null where nothing is to be staged. What this rank itself reads may be left out of it. Where
  // header.summed_x names staged_x, x lies where header.x says, and only sums for ranks across a link are
  // staged.
  const std::byte* x = nullptr;             ///< [rows, H'] contiguous, 16-byte aligned
  std::byte* staged_x = nullptr;            ///< rows of x, or M rows where `metadata` is given
  const std::int32_t* metadata = nullptr;   ///< [M, K + 2] of the dispatch: stage L on the way
  const std::byte* topk_weights = nullptr;  ///< [M, K] or [rows] contiguous
  std::byte* staged_topk_weights = nullptr;

  const std::byte* bias[2] = {};          ///< [T, H'] contiguous, 16-byte aligned, or null
  std::byte* out_x = nullptr;             ///< [T, H'] contiguous, 16-byte aligned
  std::byte* out_topk_weights = nullptr;  ///< [T, K] or null
};

/// Enqueues the combine. When the kernel completes, every rank has read this rank's rows: they may be
/// overwritten.
cudaError_t launch_combine(const CombineLaunch& launch, cudaStream_t stream);

}  // namespace flexep::cuda
