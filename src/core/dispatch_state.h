// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/crossing_plan.h"
#include "flexep/dispatch_handle.h"
#include "flexep/tensor.h"
#include "routing/output_layout.h"
#include "routing/receive_layout.h"
#include "routing/routing_shape.h"
#include "routing/send_plan.h"

namespace flexep {

/// What a DispatchHandle holds: everything that a later combine or cached dispatch needs, and nothing of the
/// buffer.
struct DispatchState {
  // Fixed when the handle is made.
  std::int64_t id = 0;  ///< equal on all ranks, different for every dispatch of a job
  int rank = 0;
  Routes routes;
  RoutingShape shape;
  int num_max_tokens_per_rank = 0;
  int num_sms = 0;
  bool do_zero_padding = false;
  bool sf_is_col_major = false;
  bool do_cpu_sync = true;  ///< whether `size` is what arrived; otherwise it is the bound
  DType idx_dtype = DType::kInt64;
  int num_tokens = 0;        ///< T
  ReceiveSize size;          ///< of this rank's outputs
  Tensor recv_src_metadata;  ///< int32 [size.num_recv_tokens, K + 2]
  Tensor
      device_plan;  ///< opaque, in the memory of a device that plans for itself; instead of `send`'s arrays
  /// int32 [T, K], in the memory of a device: what DispatchHandle shows, where there is one.
  Tensor dst_buffer_slot_idx;
  /// Of a device whose rows go by way of the host's memory: what the host has planned, and works with.
  DispatchHandle on_host;

  // Not read before is_planned: without host sync the communication thread writes them after the caller has
  // the handle.
  Tensor topk_idx;                               ///< [T, K], as it was passed
  Tensor ids;                                    ///< the same as int64, contiguous
  std::vector<std::int32_t> num_dropped_tokens;  ///< [El], on this rank as a destination
  SendPlan send;                                 ///< this rank as a source
  ReceiveLayout receive;                         ///< this rank as a destination
  std::vector<ReceiveSize> receive_sizes;        ///< every rank's outputs
  std::optional<CrossingPlan> crossing;          ///< where there are several domains
  std::atomic<bool> is_planned{false};

  /// Whether the dispatch has completed: a handle that is used before, or after its dispatch failed, is
  /// refused.
  std::atomic<bool> rows_have_arrived{false};

  /// Rows of this rank's recv.x.
  int num_rows() const { return size.num_rows(shape.do_expand); }
};

}  // namespace flexep
