// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace flexep {

/// What DeepEP V2's size of a buffer depends on. R = num_scaleout_ranks * num_scaleup_ranks.
struct BufferSizeInputs {
  int num_scaleout_ranks = 1;
  int num_scaleup_ranks = 1;
  /// Ranks that reach each other's memory in hardware; 0 = num_scaleup_ranks.
  int num_nvlink_ranks = 0;
  std::int64_t num_max_tokens_per_rank = 0;
  std::int64_t hidden = 0;
  /// 0 assumes 32, as DeepEP does.
  std::int64_t num_topk = 0;
  bool use_fp8_dispatch = false;
  bool allow_multiple_reduction = true;
};

/// Bytes that DeepEP V2 reserves per rank for these inputs, a multiple of 2 MiB. For programs that size memory by it: flexep's own
/// memory follows what arrives.
/// @throws InvalidArgument when num_max_tokens_per_rank or hidden is not positive, or a bf16 row is not a multiple of 32 bytes.
/// Source: the layout of DeepEP V2's send, receive and staging slots; checked against published figures in tests/unit.
std::int64_t get_buffer_size_hint(const BufferSizeInputs& inputs);

}  // namespace flexep
