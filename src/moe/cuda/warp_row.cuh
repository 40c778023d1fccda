// SPDX-License-Identifier: Apache-2.0
//
// Rows whose columns are spread over a warp: lane l has columns l, l + 32, l + 64, ... of at most 32 *
// kWidth.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cmath>
#include <limits>
#include <type_traits>

namespace flexep::moe::on_cuda {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

template <typename T>
constexpr T kLowest = -std::numeric_limits<T>::infinity();

/// Of all lanes, the same bits in each.
template <typename T>
__device__ T warp_sum(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kWholeWarp, value, distance);
  return value;
}
template <typename T>
__device__ T warp_max(T value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = max(value, __shfl_xor_sync(kWholeWarp, value, distance));
  return value;
}

/// Calls visit(j, column) for this lane's columns.
template <int kWidth, typename Visit>
__device__ void for_each_column(int num_columns, Visit visit) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const int column = lane() + kWarp * j;
    if (column < num_columns) visit(j, column);
  }
}

template <typename T>
struct RankedColumn {
  T value;
  int column;

  __device__ bool is_before(const RankedColumn& other) const {
    return value > other.value || (value == other.value && column < other.column);
  }
};

/// The first of the columns for which is_candidate(j, column) holds; without one, column INT_MAX. Values are
/// numbers.
template <int kWidth, typename T, typename IsCandidate>
__device__ RankedColumn<T> best_column(const T (&values)[kWidth], int num_columns, IsCandidate is_candidate) {
  RankedColumn<T> best{kLowest<T>, INT_MAX};
  for_each_column<kWidth>(num_columns, [&](int j, int column) {
    const RankedColumn<T> candidate{values[j], column};
    if (is_candidate(j, column) && candidate.is_before(best)) best = candidate;
  });
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const RankedColumn<T> other{__shfl_xor_sync(kWholeWarp, best.value, distance),
                                __shfl_xor_sync(kWholeWarp, best.column, distance)};
    if (other.is_before(best)) best = other;
  }
  return best;
}

/// Sets place[j] to the column's place among the k best, the best first; -1 of others.
template <int kWidth, typename T>
__device__ void rank_best(const T (&values)[kWidth], int num_columns, int k, int (&place)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) place[j] = -1;
  for (int rank = 0; rank < k; ++rank) {
    const auto best = best_column(values, num_columns, [&](int j, int) { return place[j] < 0; });
    for_each_column<kWidth>(num_columns, [&](int j, int column) {
      if (column == best.column) place[j] = rank;
    });
  }
}

/// Loads a row for ranking: a NaN is less than any number.
template <typename T>
__device__ T as_number(T value) {
  return isnan(value) ? kLowest<T> : value;
}

constexpr int kWarpsOfBlock = 4;

/// The row of this warp, where warps take one each.
__device__ inline std::int64_t row_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * kWarpsOfBlock + threadIdx.x / kWarp;
}

/// Calls launch(std::integral_constant<int, kWidth>, blocks, threads) for rows of so many columns, at most
/// 1024.
template <typename Launch>
void launch_for_rows(std::int64_t num_rows, std::int64_t num_columns, Launch&& launch) {
  if (num_rows == 0) return;
  const auto blocks = static_cast<unsigned>((num_rows + kWarpsOfBlock - 1) / kWarpsOfBlock);
  const unsigned threads = kWarpsOfBlock * kWarp;
  if (num_columns <= 32) return launch(std::integral_constant<int, 1>(), blocks, threads);
  if (num_columns <= 64) return launch(std::integral_constant<int, 2>(), blocks, threads);
  if (num_columns <= 128) return launch(std::integral_constant<int, 4>(), blocks, threads);
  if (num_columns <= 256) return launch(std::integral_constant<int, 8>(), blocks, threads);
  if (num_columns <= 512) return launch(std::integral_constant<int, 16>(), blocks, threads);
  launch(std::integral_constant<int, 32>(), blocks, threads);
}

}  // namespace flexep::moe::on_cuda
