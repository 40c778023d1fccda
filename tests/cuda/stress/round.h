// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/types.h"

namespace flexep::stress {

/// Tokens of a rank at most, where a dispatch does not wait for counts; the buffers' own N.
constexpr int kNoSyncMaxTokens = 48;
/// Where anything is allowed that fits: rounds are to be many, not large.
constexpr int kMaxTokens = 200;
constexpr int kMaxTopk = 8;
constexpr int kMaxAlignment = 16;
constexpr int kNumBuffers = 2;
/// A round's combine comes at most so many rounds after its dispatch.
constexpr int kMaxDelay = 3;

enum class ExpertOutput { kInPlace, kArena, kOrdinary, kRegistered };

/// What the ranks of a group do together: one dispatch, perhaps another with its handle, and, now or some
/// rounds later, a combine. A function of (seed, idx, number of ranks), drawn by every rank for itself.
struct Round {
  int idx = 0;
  int buffer_idx = 0;
  DType dtype = DType::kBFloat16;
  int hidden = 0;
  int num_topk = 0;
  int num_experts = 0;
  int expert_alignment = 1;
  bool do_expand = false;
  bool do_zero_padding = false;
  bool do_cpu_sync = true;
  bool has_weights = false;
  bool repeats_cached = false;
  int num_rounds_until_combine = 0;
  std::vector<std::vector<std::int64_t>> topk_idx;  ///< by rank, [T, K]

  int num_ranks() const { return static_cast<int>(topk_idx.size()); }
  int num_local_experts() const { return num_experts / num_ranks(); }
  int num_tokens(int rank) const {
    return static_cast<int>(topk_idx[static_cast<std::size_t>(rank)].size()) / num_topk;
  }
  std::int64_t expert(int rank, int token, int column) const {
    return topk_idx[static_cast<std::size_t>(rank)][static_cast<std::size_t>(token * num_topk + column)];
  }
  /// What is in the rows of its dispatch, and of the cached one: rows of other rounds look different.
  std::uint32_t content(bool is_cached = false) const {
    return 2 * static_cast<std::uint32_t>(idx) + (is_cached ? 1 : 0);
  }
  /// Exact in fp32, and another one for each pair of some tens of rounds.
  float topk_weight(int rank, int token, int column) const;
};

Round draw_round(std::uint64_t seed, int idx, int num_ranks);

/// What one rank does in its own way in a round.
struct Manner {
  int host_sleep_us = 0;
  int device_sleep_us = 0;
  int stream_idx = 0;          ///< of the dispatch
  int combine_stream_idx = 0;  ///< of the combine
  int num_sms = 0;
  bool is_async = false;          ///< the dispatch: checked on another stream, its inputs dropped at once
  bool is_combine_async = false;  ///< the same for the combine
  bool follows_other_stream =
      false;  ///< inputs are written on another stream, and the dispatch follows an event
  bool has_arena_input = false;
  ExpertOutput expert_output = ExpertOutput::kArena;
};

Manner draw_manner(std::uint64_t seed, int round_idx, int rank);

}  // namespace flexep::stress
