// SPDX-License-Identifier: Apache-2.0
//
// Sums of rows, 16 bytes of each at a time: docs/numerics.md, "One sum".
#pragma once

#include <cstddef>
#include <cstdint>

#include "flexep/types.h"
#include "kernels/cuda/operation.cuh"

namespace flexep::cuda {

/// One row to be summed, as one word: its address, whose lowest four bits rows of whole 16-byte vectors leave
/// free.
class SumTerm {
 public:
  SumTerm() = default;
  /// @param ends_group  the rows up to this one, from the one after the last that ended a group, are summed
  /// and rounded before they are added to the groups before (stage L).
  __device__ SumTerm(const std::byte* row, bool ends_group)
      : word_(reinterpret_cast<std::uint64_t>(row) | (ends_group ? 1u : 0u)) {}
  __device__ const std::byte* row() const {
    return reinterpret_cast<const std::byte*>(word_ & ~std::uint64_t{15});
  }
  __device__ bool ends_group() const { return (word_ & 1) != 0; }

 private:
  std::uint64_t word_;
};

/// Elements of T in 16 bytes, as what they are accumulated in.
template <typename T>
struct Lanes;

template <>
struct Lanes<BFloat16> {
  static constexpr int kCount = 8;
  using Sum = float;
  static __device__ Sum get(const uint4& v, int i) {
    const std::uint32_t word = (&v.x)[i / 2];
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
  }
  static __device__ void set(uint4& v, int i, Sum sum) {
    const std::uint32_t bits = BFloat16(sum).bits;
    std::uint32_t& word = (&v.x)[i / 2];
    word = i % 2 == 0 ? bits : word | bits << 16;
  }
  static __device__ Sum rounded(Sum sum) { return static_cast<float>(BFloat16(sum)); }
};

template <>
struct Lanes<Float16> {
  static constexpr int kCount = 8;
  using Sum = float;
  static __device__ Sum get(const uint4& v, int i) {
    const std::uint32_t word = (&v.x)[i / 2];
    return static_cast<float>(Float16::from_bits(static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16)));
  }
  static __device__ void set(uint4& v, int i, Sum sum) {
    const std::uint32_t bits = Float16(sum).bits;
    std::uint32_t& word = (&v.x)[i / 2];
    word = i % 2 == 0 ? bits : word | bits << 16;
  }
  static __device__ Sum rounded(Sum sum) { return static_cast<float>(Float16(sum)); }
};

template <>
struct Lanes<float> {
  static constexpr int kCount = 4;
  using Sum = float;
  static __device__ Sum get(const uint4& v, int i) { return __uint_as_float((&v.x)[i]); }
  static __device__ void set(uint4& v, int i, Sum sum) { (&v.x)[i] = __float_as_uint(rounded(sum)); }
  static __device__ Sum rounded(Sum sum) { return sum == sum ? sum : __uint_as_float(0x7FC00000u); }
};

template <>
struct Lanes<double> {
  static constexpr int kCount = 2;
  using Sum = double;
  static __device__ Sum get(const uint4& v, int i) {
    return __hiloint2double(static_cast<int>((&v.x)[2 * i + 1]), static_cast<int>((&v.x)[2 * i]));
  }
  static __device__ void set(uint4& v, int i, Sum sum) {
    const double value = rounded(sum);
    (&v.x)[2 * i] = static_cast<std::uint32_t>(__double2loint(value));
    (&v.x)[2 * i + 1] = static_cast<std::uint32_t>(__double2hiint(value));
  }
  static __device__ Sum rounded(Sum sum) { return sum == sum ? sum : __hiloint2double(0x7FF80000, 0); }
};

/// A running sum of rows, in groups.
template <typename T>
class VectorSum {
 public:
  using L = Lanes<T>;

  __device__ VectorSum() {
#pragma unroll
    for (int i = 0; i < L::kCount; ++i) group_[i] = total_[i] = 0;
  }
  /// Adds a row to a plain sum.
  __device__ void add(const uint4& row) {
#pragma unroll
    for (int i = 0; i < L::kCount; ++i) total_[i] += L::get(row, i);
  }
  /// Adds a row to its group, and the group to the total when it ends.
  __device__ void add(const uint4& row, bool ends_group) {
    num_rows_of_group_ += 1;
    if (ends_group && num_rows_of_group_ == 1) {
      add(row);
    } else {
#pragma unroll
      for (int i = 0; i < L::kCount; ++i) group_[i] += L::get(row, i);
      if (!ends_group) return;
#pragma unroll
      for (int i = 0; i < L::kCount; ++i) total_[i] += L::rounded(group_[i]);
    }
    num_rows_of_group_ = 0;
#pragma unroll
    for (int i = 0; i < L::kCount; ++i) group_[i] = 0;
  }
  __device__ uint4 rounded() const {
    uint4 v;
#pragma unroll
    for (int i = 0; i < L::kCount; ++i) L::set(v, i, total_[i]);
    return v;
  }

 private:
  typename L::Sum group_[L::kCount];
  typename L::Sum total_[L::kCount];
  int num_rows_of_group_ = 0;
};

constexpr int kMaxTermsInFlight = 8;

/// Sums kNum rows that all have been loaded before the first is added.
template <typename T, int kNum, bool kInGroups>
__device__ void add_terms(VectorSum<T>& sum, const SumTerm* terms, std::size_t offset) {
  uint4 values[kNum];
#pragma unroll
  for (int i = 0; i < kNum; ++i) values[i] = load_row16(terms[i].row() + offset);
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    if constexpr (kInGroups) {
      sum.add(values[i], terms[i].ends_group());
    } else {
      sum.add(values[i]);
    }
  }
}

/// Bytes [begin, end) of rows: a warp's part of them. Multiples of 16.
struct RowPart {
  std::size_t begin;
  std::size_t end;

  __device__ std::size_t first_of_lane() const {
    return begin + static_cast<std::size_t>(lane_in_warp()) * sizeof(uint4);
  }
  static constexpr std::size_t kStep = kWarpSize * sizeof(uint4);
};

/// kNum rows to one; the warp strides over their vectors.
template <typename T, int kNum, bool kInGroups>
__device__ void sum_exactly(const SumTerm* shared_terms, std::byte* out, const RowPart& part) {
  SumTerm terms[kNum];
#pragma unroll
  for (int i = 0; i < kNum; ++i) terms[i] = shared_terms[i];
  for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep) {
    VectorSum<T> sum;
    add_terms<T, kNum, kInGroups>(sum, terms, at);
    store_row16(out + at, sum.rounded());
  }
}

/// More rows than are worth a loop of their own.
template <typename T>
__device__ void sum_many(const SumTerm* terms, int num_terms, std::byte* out, const RowPart& part) {
  for (std::size_t at = part.first_of_lane(); at < part.end; at += RowPart::kStep) {
    VectorSum<T> sum;
    int i = 0;
    for (; i + kMaxTermsInFlight <= num_terms; i += kMaxTermsInFlight)
      add_terms<T, kMaxTermsInFlight, true>(sum, terms + i, at);
    for (; i < num_terms; ++i) add_terms<T, 1, true>(sum, terms + i, at);
    store_row16(out + at, sum.rounded());
  }
}

__device__ inline void copy_part(const std::byte* from, std::byte* out, const RowPart& part) {
  constexpr int kVectors = 4;  // in flight for each lane
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

/// Writes a part of the sum of the terms; a lone row is copied, no row gives zeros. Not inlined: it holds a
/// loop for each number of rows.
/// @param in_groups  whether some group has several rows.
template <typename T>
__device__ __noinline__ void sum_rows(const SumTerm* terms, int num_terms, bool in_groups, std::byte* out,
                                      const RowPart part) {
  if (num_terms == 0) return zero_part(out, part);
  if (num_terms == 1) return copy_part(terms[0].row(), out, part);
  if (num_terms > kMaxTermsInFlight) return sum_many<T>(terms, num_terms, out, part);
  const auto sum = [&]<int kNum>() {
    return in_groups ? sum_exactly<T, kNum, true>(terms, out, part)
                     : sum_exactly<T, kNum, false>(terms, out, part);
  };
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
    case 8:
      return sum.template operator()<8>();
  }
}

}  // namespace flexep::cuda
