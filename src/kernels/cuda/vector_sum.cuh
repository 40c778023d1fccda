// SPDX-License-Identifier: Apache-2.0
//
// The sum of rows in 16 bytes of each: docs/numerics.md, "One sum".
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

/// Elements of T in 16 bytes, as what they are accumulated in. put() rounds to nearest even; which NaN a NaN
/// becomes is settled by put_canonical().
template <typename T>
struct Lanes;

/// Two elements of 16 bits in each word. The GPU's conversions round as ours do, subnormals included, but for
/// NaN.
template <typename T>
struct HalfLanes {
  static constexpr int kCount = 8;
  using Sum = float;

  static __device__ uint4 put_canonical(const float (&sums)[kCount]) {
    uint4 v = Lanes<T>::put(sums);
    bool has_nan = false;
#pragma unroll
    for (int i = 0; i < kCount; ++i) has_nan = has_nan || sums[i] != sums[i];
    if (has_nan) make_canonical(v, sums);
    return v;
  }

 private:
  static __device__ void make_canonical(uint4& v, const float (&sums)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (sums[i] == sums[i]) continue;
      const int shift = i % 2 * 16;
      std::uint32_t& word = (&v.x)[i / 2];
      word = (word & ~(0xFFFFu << shift)) | Lanes<T>::kNan << shift;
    }
  }
};

template <>
struct Lanes<BFloat16> : HalfLanes<BFloat16> {
  static constexpr std::uint32_t kNan = 0x7FC0;
  static __device__ float get(const uint4& v, int i) {
    const std::uint32_t word = (&v.x)[i / 2];
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xFFFF0000u);
  }
  static __device__ uint4 put(const float (&sums)[kCount]) {
    uint4 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) (&v.x)[i] = pack_bfloat16(sums[2 * i], sums[2 * i + 1]);
    return v;
  }
};

template <>
struct Lanes<Float16> : HalfLanes<Float16> {
  static constexpr std::uint32_t kNan = 0x7E00;
  static __device__ float get(const uint4& v, int i) {
    const std::uint32_t word = (&v.x)[i / 2];
    return float_of_half(static_cast<std::uint16_t>(i % 2 == 0 ? word : word >> 16));
  }
  static __device__ uint4 put(const float (&sums)[kCount]) {
    uint4 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) (&v.x)[i] = pack_half(sums[2 * i], sums[2 * i + 1]);
    return v;
  }
};

template <>
struct Lanes<float> {
  static constexpr int kCount = 4;
  using Sum = float;
  static __device__ Sum get(const uint4& v, int i) { return __uint_as_float((&v.x)[i]); }
  static __device__ uint4 put(const float (&sums)[kCount]) {
    return {__float_as_uint(sums[0]), __float_as_uint(sums[1]), __float_as_uint(sums[2]),
            __float_as_uint(sums[3])};
  }
  static __device__ uint4 put_canonical(const float (&sums)[kCount]) {
    uint4 v = put(sums);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (sums[i] != sums[i]) (&v.x)[i] = 0x7FC00000u;
    }
    return v;
  }
};

template <>
struct Lanes<double> {
  static constexpr int kCount = 2;
  using Sum = double;
  static __device__ Sum get(const uint4& v, int i) {
    return __hiloint2double(static_cast<int>((&v.x)[2 * i + 1]), static_cast<int>((&v.x)[2 * i]));
  }
  static __device__ uint4 put(const double (&sums)[kCount]) {
    uint4 v;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      (&v.x)[2 * i] = static_cast<std::uint32_t>(__double2loint(sums[i]));
      (&v.x)[2 * i + 1] = static_cast<std::uint32_t>(__double2hiint(sums[i]));
    }
    return v;
  }
  static __device__ uint4 put_canonical(const double (&sums)[kCount]) {
    uint4 v = put(sums);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (sums[i] == sums[i]) continue;
      (&v.x)[2 * i] = 0;
      (&v.x)[2 * i + 1] = 0x7FF80000u;
    }
    return v;
  }
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
      add(L::put(group_));
    }
    num_rows_of_group_ = 0;
#pragma unroll
    for (int i = 0; i < L::kCount; ++i) group_[i] = 0;
  }
  __device__ uint4 rounded() const {
    return L::put_canonical(total_);
  }

 private:
  typename L::Sum group_[L::kCount];
  typename L::Sum total_[L::kCount];
  int num_rows_of_group_ = 0;
};

}  // namespace flexep::cuda
