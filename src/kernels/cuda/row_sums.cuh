// SPDX-License-Identifier: Apache-2.0
//
// Sums of rows: a warp strides over their vectors, 16 bytes a lane, and has all rows of a sum in flight
// before it adds the first.
#pragma once

#include "kernels/cuda/vector_sum.cuh"

namespace flexep::cuda {

constexpr int kMaxTermsInFlight = 8;

/// Bytes [begin, end) of rows: a warp's part of them. Multiples of 16.
struct RowPart {
  std::size_t begin;
  std::size_t end;

  __device__ std::size_t first_of_lane() const {
    return begin + static_cast<std::size_t>(lane_in_warp()) * sizeof(uint4);
  }
  static constexpr std::size_t kStep = kWarpSize * sizeof(uint4);
};

/// A sum to be written: `part` of the rows of the terms.
struct TokenSum {
  const SumTerm* terms;  ///< in shared memory
  int num_terms;
  bool in_groups;  ///< some group has several rows
  std::byte* out;  ///< where the row begins
  RowPart part;
};

/// Rows where the experts left them.
template <int kNum>
struct RowsInPlace {
  SumTerm terms[kNum];

  __device__ explicit RowsInPlace(const SumTerm* shared_terms) {
#pragma unroll
    for (int i = 0; i < kNum; ++i) terms[i] = shared_terms[i];
  }
  __device__ uint4 load(int i, std::size_t at) const {
    return load_row16(terms[i].row() + at);
  }
  __device__ bool ends_group(int i) const {
    return terms[i].ends_group();
  }
};

/// Adds kNum rows that all have been loaded before the first is added.
template <typename T, int kNum, bool kInGroups, typename Rows>
__device__ void add_rows(VectorSum<T>& sum, const Rows& rows, std::size_t at) {
  uint4 values[kNum];
#pragma unroll
  for (int i = 0; i < kNum; ++i) values[i] = rows.load(i, at);
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    if constexpr (kInGroups) {
      sum.add(values[i], rows.ends_group(i));
    } else {
      sum.add(values[i]);
    }
  }
}

/// kNum rows to one; the warp strides over their vectors.
template <typename T, int kNum, bool kInGroups, typename Rows>
__device__ void sum_exactly(const Rows& rows, std::byte* out, const RowPart& part) {
  for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep) {
    VectorSum<T> sum;
    add_rows<T, kNum, kInGroups>(sum, rows, at);
    store_row16(out + at, sum.rounded());
  }
}

/// Calls sum<num_terms>(), which has its loop for that number of rows, at least 2.
template <typename Sum>
__device__ void with_num_terms(int num_terms, Sum sum) {
  switch (num_terms) {
    case 2:
      return sum.template operator()<2>();
    case 3:
      return sum.template operator()<3>();
    case 4:
      return sum.template operator()<4>();
    case 5:
      return sum.template operator()<5>();
    case 6:
      return sum.template operator()<6>();
    case 7:
      return sum.template operator()<7>();
    case kMaxTermsInFlight:
      return sum.template operator()<kMaxTermsInFlight>();
  }
}

/// More rows than are worth a loop of their own.
template <typename T>
__device__ void sum_many(const SumTerm* terms, int num_terms, std::byte* out, const RowPart& part) {
  for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep) {
    VectorSum<T> sum;
    int i = 0;
    for (; i + kMaxTermsInFlight <= num_terms; i += kMaxTermsInFlight)
      add_rows<T, kMaxTermsInFlight, true>(sum, RowsInPlace<kMaxTermsInFlight>(terms + i), at);
    for (; i < num_terms; ++i) add_rows<T, 1, true>(sum, RowsInPlace<1>(terms + i), at);
    store_row16(out + at, sum.rounded());
  }
}

__device__ inline void copy_part(const std::byte* from, std::byte* out, const RowPart& part) {
  constexpr int kVectors = 7;  // in flight for each lane; four times as many are 7168 bf16
  std::size_t at = part.first_of_lane();
  for (; at + (kVectors - 1) * RowPart::kStep < part.end; at += kVectors * RowPart::kStep) {
    uint4 values[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) values[i] = load_row16(from + at + i * RowPart::kStep);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) store_row16(out + at + i * RowPart::kStep, values[i]);
  }
  for (; at < part.end; at += RowPart::kStep) store_row16(out + at, load_row16(from + at));
}

__device__ inline void zero_part(std::byte* out, const RowPart& part) {
  for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep)
    store_row16(out + at, uint4{});
}

/// Writes a sum; a lone row is copied, no row gives zeros. Not inlined: it holds a loop for each number of
/// rows.
template <typename T>
__device__ __noinline__ void sum_rows(const TokenSum sum) {
  if (sum.num_terms == 0) return zero_part(sum.out, sum.part);
  if (sum.num_terms == 1) return copy_part(sum.terms[0].row(), sum.out, sum.part);
  if (sum.num_terms > kMaxTermsInFlight) return sum_many<T>(sum.terms, sum.num_terms, sum.out, sum.part);
  with_num_terms(sum.num_terms, [&]<int kNum>() {
    const RowsInPlace<kNum> rows(sum.terms);
    if (sum.in_groups) return sum_exactly<T, kNum, true>(rows, sum.out, sum.part);
    sum_exactly<T, kNum, false>(rows, sum.out, sum.part);
  });
}

/// Writes the sums of which `tokens` lists one after the other: tokens.next(sum) gives a warp its next, or
/// false. Rows go straight into registers.
template <typename T, typename Tokens>
__device__ void sum_in_place(Tokens& tokens) {
  TokenSum sum;
  while (tokens.next(sum)) {
    sum_rows<T>(sum);
    __syncwarp();  // the next list takes the place of this one
  }
}

}  // namespace flexep::cuda
