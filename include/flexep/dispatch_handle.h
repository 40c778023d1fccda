// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "flexep/tensor.h"

namespace flexep {

struct DispatchState;

/// What a dispatch decided: which rank's which row every token went to. Made by ElasticBuffer::dispatch;
/// given to combine and to a cached dispatch, any number of times.
///
/// Immutable and cheap to copy; safe to use from several threads and after its buffer is gone. Symbols: R
/// ranks, T this rank's tokens, K top-k columns, El local experts, M rows received in the compact layout, c_i
/// (token, expert) pairs that local expert i received, A the alignment, align(x) the next multiple of A.
///
/// Without host sync (do_cpu_sync = false) the sizes are bounds, known at once; everything that says "exact"
/// is known when the dispatch's event is done, and InvalidArgument before.
class DispatchHandle {
 public:
  DispatchHandle() = default;
  explicit DispatchHandle(std::shared_ptr<const DispatchState> state) : state_(std::move(state)) {}

  /// False for "no handle"; the accessors below need a handle.
  explicit operator bool() const { return state_ != nullptr; }

  bool do_expand() const;
  int num_experts() const;
  int num_topk() const;
  int expert_alignment() const;
  /// The agreed bound N; source token t of rank s has the global index s * N + t.
  int num_max_tokens_per_rank() const;
  /// The width that dispatch resolved; combine and cached dispatch use it unless told otherwise.
  int num_sms() const;
  /// T, tokens that this rank sent.
  int num_tokens() const;
  /// Whether the dispatch waited for the counts, so that the three sizes below are exact; else they are
  /// bounds.
  bool do_cpu_sync() const;
  /// M, tokens that this rank received, each counted once. The bound is N * R, or max_recv_tokens.
  int num_recv_tokens() const;
  /// Rows of the expanded layout: sum of align(c_i). Also computed for a compact dispatch. The bound is
  /// align(N * R * min(K, El) + (A - 1) * El), or max_recv_tokens.
  int num_expanded_tokens() const;
  /// Rows of recv.x: M in the compact layout, num_expanded_tokens() in the expanded one.
  int num_rows() const;

  /// The ids that were dispatched: [T, K], in their own dtype; -1 where max_recv_tokens dropped the pair.
  /// Exact.
  const Tensor& topk_idx() const;
  /// [El], c_i. Exact.
  std::span<const std::int32_t> num_recv_tokens_per_expert() const;
  /// [El], align(c_i): the field's num_recv_tokens_per_expert_list. Empty without host sync.
  std::span<const std::int32_t> num_aligned_recv_tokens_per_expert() const;
  /// [El], first row of local expert i in the expanded layout: exclusive prefix sum of align(c_i).
  /// Exact.
  std::span<const std::int32_t> expert_start_rows() const;
  /// [El]. Compact: inclusive prefix sum of align(c_i). Expanded: expert_start_rows()[i] + c_i.
  /// Exact.
  std::span<const std::int32_t> psum_num_recv_tokens_per_expert() const;
  /// [El], pairs that local expert i would have received had max_recv_tokens of this rank not dropped them.
  /// All other counts are what was received. Exact.
  std::span<const std::int32_t> num_dropped_tokens() const;
  /// [R], inclusive prefix sum of tokens received per source rank; the last is M. Exact.
  std::span<const std::int32_t> psum_num_recv_tokens_per_rank() const;
  /// int32 [num_recv_tokens(), K + 2], in (source rank, source token) order, rows from M on uninitialised.
  /// Column 0: global source index. Column 1: opaque. Columns 2..: expanded: row that holds column k, -1 if
  /// k's expert is not local; compact: opaque.
  const Tensor& recv_src_metadata() const;
  /// int32 [T, K], opaque: where the field's libraries keep a pair's slot. Equal for a handle and its cached
  /// dispatches. On the CPU made by each call, on a GPU a part of the handle.
  Tensor dst_buffer_slot_idx() const;

  const DispatchState& state() const { return *state_; }

 private:
  const DispatchState& planned() const;

  std::shared_ptr<const DispatchState> state_;
};

}  // namespace flexep
