// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/stress/expected_rows.h"
#include "flexep/types.h"

namespace flexep::stress {

/// What was being compared.
enum class Checked : int { kDispatch, kCachedDispatch, kCombine, kTopkIdx, kTopkWeights, kCombinedWeights };

/// What comparing kernels count, in device memory.
struct Findings {
  unsigned long long num_compared = 0;  ///< rows, and words where words are compared
  unsigned long long num_wrong = 0;
  // The first that was wrong.
  unsigned int content = 0;
  Checked what = Checked::kDispatch;
  int row = 0;
  int column = 0;
  unsigned int expected_bits = 0;
  unsigned int got_bits = 0;
};

/// Dense rows of a summable dtype of at most 4 bytes.
struct Rows {
  void* data = nullptr;
  DType dtype = DType::kBFloat16;
  int num_rows = 0;
  int hidden = 0;
};

/// Every kernel is loaded now, which later would wait for those that run.
void load_row_kernels();

/// The rows of a rank's tokens: small integers, told apart by (content, rank, token, column).
void write_rows(const Rows& rows, std::uint32_t content, int rank, cudaStream_t stream);
/// y = x * scales[row]; x and y may be the same. `scales` is pinned.
void run_experts(const Rows& y, const void* x, const float* scales, cudaStream_t stream);
/// Compares every bit of every row. `expected` is pinned, [num_rows].
void count_wrong_rows(const Rows& rows, const ExpectedRow* expected, std::uint32_t content, Checked what,
                      Findings* findings, cudaStream_t stream);
/// The same for words of 32 bits; `expected` is pinned.
void count_wrong_words(const void* got, const void* expected, int num_words, std::uint32_t content,
                       Checked what, Findings* findings, cudaStream_t stream);
/// Holds the stream up.
void sleep_on_device(int microseconds, cudaStream_t stream);

}  // namespace flexep::stress
