// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/math.h"

namespace flexep::cuda {

/// The start of a plan.
struct PlanHead {
  std::int32_t is_valid =
      0;  ///< the dispatch that made it went: 0 where it was refused, and combine refuses in turn
  std::int32_t num_tokens = 0;               ///< T that was sent
  std::int32_t num_recv_tokens = 0;          ///< M
  std::int32_t num_rows = 0;                 ///< of recv.x
  std::int32_t num_max_tokens_per_rank = 0;  ///< N, agreed
};

/// What a dispatch decided, in device memory: the device's part of a handle. Written by a fresh dispatch,
/// read by cached ones and by combine. Byte offsets of its parts; each is a tensor that may be handed out.
struct PlanLayout {
  static constexpr std::size_t kAlignment = 128;

  int num_ranks = 1;
  int num_local_experts = 1;
  int max_tokens = 0;  ///< rows for which the plan has room: T, or N where T changes from replay to replay
  int num_topk = 1;
  bool do_expand = false;

  /// Entry of `owners`: owner rank of the column's expert, plus kLastOfOwner in the token's last column with
  /// that owner; -1 = not routed.
  static constexpr std::int32_t kLastOfOwner = 1 << 30;

  static constexpr std::size_t int32s(std::size_t count) {
    return align_up(count * sizeof(std::int32_t), kAlignment);
  }
  constexpr std::size_t ranks() const { return static_cast<std::size_t>(num_ranks); }
  constexpr std::size_t experts() const { return static_cast<std::size_t>(num_local_experts); }
  constexpr std::size_t pairs() const {
    return static_cast<std::size_t>(max_tokens) * static_cast<std::size_t>(num_topk);
  }

  /// PlanHead
  constexpr std::size_t head() const { return 0; }
  /// int32 [R, 2]: {M, sum of align(c_i)} of every rank, by which the outputs of a cached dispatch are laid
  /// out
  constexpr std::size_t layout_sizes() const { return kAlignment; }
  /// int32 [R], inclusive
  constexpr std::size_t psum_num_recv_tokens_per_rank() const { return layout_sizes() + int32s(2 * ranks()); }
  /// int32 [El], c_i
  constexpr std::size_t num_recv_tokens_per_expert() const {
    return psum_num_recv_tokens_per_rank() + int32s(ranks());
  }
  /// int32 [El], start_i
  constexpr std::size_t expert_start_rows() const { return num_recv_tokens_per_expert() + int32s(experts()); }
  /// int32 [El], as DispatchHandle defines it
  constexpr std::size_t psum_num_recv_tokens_per_expert() const {
    return expert_start_rows() + int32s(experts());
  }
  /// int32 [El]
  constexpr std::size_t num_dropped_tokens() const {
    return psum_num_recv_tokens_per_expert() + int32s(experts());
  }
  /// int32 [T, K]
  constexpr std::size_t owners() const { return num_dropped_tokens() + int32s(experts()); }
  /// int32 [T, K], row of the token in its owner's compact order
  constexpr std::size_t token_slots() const { return owners() + int32s(pairs()); }
  /// int32 [T, K], row of the pair in its owner's expanded layout; the compact layout has none
  constexpr std::size_t rows() const { return token_slots() + int32s(pairs()); }
  constexpr std::size_t num_bytes() const { return rows() + (do_expand ? int32s(pairs()) : 0); }
};

}  // namespace flexep::cuda
