// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "flexep/tensor.h"

/// The oracle: what flexep's operations mean, in the plainest code, for all ranks at once in a single
/// process. Everything else in flexep is held against it, bit for bit; users can hold their own integration
/// against it too.
namespace flexep::reference {

/// What one rank passes to dispatch.
struct RankInput {
  Tensor x;             ///< [T, H]
  Tensor topk_idx;      ///< int64 or int32 [T, K]
  Tensor topk_weights;  ///< [T, K] or absent
  Tensor sf;            ///< [T, P] or absent
};

struct DispatchOptions {
  int num_experts = 0;
  int expert_alignment = 1;
  bool do_expand = false;
  /// Gap rows of the expanded layout are zero; without it the reference fills them with a poison that no test
  /// expects to see.
  bool do_zero_padding = false;
  int num_max_tokens_per_rank = 0;  ///< N of the global source index; 0 = the largest T
  std::vector<int>
      max_recv_tokens;  ///< [R], the most rows of each rank's output, 0 = no limit; empty = no limits
};

/// What one rank receives; shapes and meaning as in DispatchResult and DispatchHandle.
struct RankOutput {
  Tensor x;
  Tensor topk_idx;
  Tensor topk_weights;
  Tensor sf;  ///< [rows, P], row-major
  std::vector<std::int32_t> num_recv_tokens_per_expert;
  std::vector<std::int32_t> num_dropped_tokens;
  std::vector<std::int32_t> psum_num_recv_tokens_per_expert;
  std::vector<std::int32_t> psum_num_recv_tokens_per_rank;
  Tensor recv_src_metadata;  ///< int32 [M, K + 2]; column 1 is 0
};

/// All ranks' dispatch; the number of ranks is inputs.size(). Inputs are assumed valid.
std::vector<RankOutput> dispatch(std::span<const RankInput> inputs, const DispatchOptions& options);

struct CombineOptions {
  bool allow_multiple_reduction = true;
  /// Ranks of a domain, of which every one reduces before the home sums over domains (hybrid mode), where
  /// multiple reduction is allowed and there are several. 0 = all ranks are one domain (so is direct mode).
  int num_scaleup_ranks = 0;
};

struct CombineInput {
  Tensor x;                    ///< one row per row of RankOutput::x
  Tensor topk_weights;         ///< like RankOutput::topk_weights, or absent
  std::array<Tensor, 2> bias;  ///< [T, H'] each, summed before the rows of this rank's own tokens, or absent
};

struct CombineOutput {
  Tensor x;             ///< [T, H']
  Tensor topk_weights;  ///< [T, K] or absent
};

/// All ranks' combine of `expert_outputs`, for the dispatch of `inputs` with `dispatch_options`.
std::vector<CombineOutput> combine(std::span<const RankInput> inputs, const DispatchOptions& dispatch_options,
                                   std::span<const CombineInput> expert_outputs,
                                   const CombineOptions& options);

}  // namespace flexep::reference
