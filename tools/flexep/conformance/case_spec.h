// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flexep/reference.h"
#include "flexep/types.h"

namespace flexep::conformance {

/// How tokens choose their experts.
enum class RoutingKind { kUniform, kSomeUnrouted, kNothingRouted, kOneExpert, kOwnRank, kZipf };

/// What rows and weights are filled with.
enum class ValueKind {
  kOrdinary,  ///< numbers around 1
  kWide,      ///< all exponents, subnormals included
  kSpecial,   ///< mostly NaN (with payloads), infinities, zeros of both signs, subnormals
};

/// N of the buffers that dispatch without host sync, for which it is fixed.
inline constexpr int kNoSyncMaxTokens = 24;

/// One case: a shape and a seed, from which every rank makes the same data.
struct CaseSpec {
  std::uint64_t seed = 0;
  std::vector<int> num_tokens;  ///< [R], T of each rank
  int num_topk = 1;
  int num_experts = 1;
  int expert_alignment = 1;
  bool do_expand = false;
  bool do_zero_padding = false;
  bool allow_multiple_reduction = true;
  int num_max_tokens_per_rank = 0;
  int num_sms = 0;
  bool do_cpu_sync = true;  ///< false: outputs have room for all that could arrive, and N is kNoSyncMaxTokens
  bool is_async = false;    ///< operations return before the rows have moved, and their events are waited for

  DType dtype = DType::kBFloat16;  ///< of the dispatched rows
  int hidden = 8;
  DType expert_dtype = DType::kBFloat16;  ///< of the rows that come back, and of those of a cached dispatch
  int expert_hidden = 8;
  std::optional<DType> weights_dtype;  ///< absent: no weights
  DType idx_dtype = DType::kInt64;
  int num_sf_packs = 0;  ///< scaling factors beside each row; 0: none
  DType sf_dtype = DType::kFloat32;
  bool sf_is_col_major = false;
  int num_biases = 0;
  bool is_strided = false;  ///< inputs lie in memory with holes between rows, scaling factors by columns
  bool do_handle_copy = true;
  std::vector<int> max_recv_tokens;  ///< [R], 0 = no limit

  int num_scaleup_ranks = 0;  ///< ranks of a domain; 0 = there is one
  bool allow_hybrid_mode = true;
  bool has_little_staging = false;  ///< so that few rows cross domains at a time

  RoutingKind routing = RoutingKind::kUniform;
  ValueKind values = ValueKind::kOrdinary;

  int num_ranks() const { return static_cast<int>(num_tokens.size()); }
  /// N that all ranks agree on.
  int agreed_num_max_tokens() const;
  reference::DispatchOptions dispatch_options() const;
  reference::CombineOptions combine_options() const;
  /// One line for the person who looks at a failure.
  std::string to_string() const;
};

/// A random case of moderate size: the same one for the same arguments, on every machine.
/// @param num_domains  divides num_ranks.
CaseSpec draw_case(std::uint64_t seed, int num_ranks, int num_domains = 1);

}  // namespace flexep::conformance
