// SPDX-License-Identifier: Apache-2.0
//
// How sums of each element type are accumulated and rounded. Included once per instruction set (see
// hwy/foreach_target.h).

#if defined(FLEXEP_KERNELS_CPU_ROW_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLEXEP_KERNELS_CPU_ROW_SUMS_INL_H_
#undef FLEXEP_KERNELS_CPU_ROW_SUMS_INL_H_
#else
#define FLEXEP_KERNELS_CPU_ROW_SUMS_INL_H_
#endif

#include <limits>

#include "flexep/types.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flexep::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Two vectors that lie next to each other in a row: what one step of a kernel loads, sums and stores. Two,
/// so that the steps of the loop over sources are shared by two chains of additions.
template <class D>
struct Block {
  using T = hn::TFromD<D>;
  static constexpr std::size_t kVectorBytes = hn::MaxLanes(D()) * sizeof(T);
  static constexpr std::size_t kBytes = 2 * kVectorBytes;

  hn::Vec<D> first;
  hn::Vec<D> second;

  static HWY_INLINE Block load(const std::byte* p) {
    const T* lanes = reinterpret_cast<const T*>(p);
    return {hn::LoadU(D(), lanes), hn::LoadU(D(), lanes + hn::Lanes(D()))};
  }
  HWY_INLINE void store(std::byte* p) const {
    T* lanes = reinterpret_cast<T*>(p);
    hn::StoreU(first, D(), lanes);
    hn::StoreU(second, D(), lanes + hn::Lanes(D()));
  }
  /// Around the caches; `p` is a multiple of kVectorBytes.
  HWY_INLINE void stream(std::byte* p) const {
    T* lanes = reinterpret_cast<T*>(p);
    hn::Stream(first, D(), lanes);
    hn::Stream(second, D(), lanes + hn::Lanes(D()));
  }
};

/// A vector of sums of fp32 or fp64, in their own precision.
template <typename T>
struct FloatSum {
  using D = hn::ScalableTag<T>;
  using V = hn::Vec<D>;

  V sum;

  HWY_INLINE FloatSum() : sum(hn::Zero(D())) {}
  HWY_INLINE void add(V x) { sum = hn::Add(sum, x); }
  HWY_INLINE void add_rounded(const FloatSum& x) { sum = hn::Add(sum, x.sum); }
  HWY_INLINE V rounded() const {
    const V quiet_nan = hn::Set(D(), std::numeric_limits<T>::quiet_NaN());
    return hn::IfThenElse(hn::IsNaN(sum), quiet_nan, sum);
  }
};

/// A vector of sums of bf16, two to a 32-bit lane. The halves of the lanes are summed apart, as two vectors
/// of fp32: that spares the shuffles of widening and narrowing.
struct BFloat16Sum {
  using D = hn::ScalableTag<std::uint32_t>;
  using V = hn::Vec<D>;
  using Floats = hn::ScalableTag<float>;

  hn::Vec<Floats> low;
  hn::Vec<Floats> high;

  HWY_INLINE BFloat16Sum() : low(hn::Zero(Floats())), high(hn::Zero(Floats())) {}
  HWY_INLINE void add(V x) {
    low = hn::Add(low, hn::BitCast(Floats(), hn::ShiftLeft<16>(x)));
    high = hn::Add(high, upper_half(x));
  }
  /// Adds what x is as bf16, kept wide. No look at NaN: a NaN among sums of bf16 has zeros in its lower half,
  /// so that rounding leaves it a NaN, and the last rounding makes it canonical.
  HWY_INLINE void add_rounded(const BFloat16Sum& x) {
    low = hn::Add(low, upper_half(nearest(x.low)));
    high = hn::Add(high, upper_half(nearest(x.high)));
  }
  HWY_INLINE V rounded() const {
    return hn::Or(hn::And(canonical(high), upper_mask()), hn::ShiftRight<16>(canonical(low)));
  }

 private:
  static HWY_INLINE V upper_mask() { return hn::Set(D(), 0xFFFF0000u); }
  static HWY_INLINE hn::Vec<Floats> upper_half(V bits) {
    return hn::BitCast(Floats(), hn::And(bits, upper_mask()));
  }

  /// The upper half of each lane becomes the bf16 nearest to `v`, ties to even; the lower half is arbitrary.
  static HWY_INLINE V nearest(hn::Vec<Floats> v) {
    const D d;
    const V bits = hn::BitCast(d, v);
    const V is_odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
    return hn::Add(hn::Add(bits, hn::Set(d, 0x7FFFu)), is_odd);
  }
  static HWY_INLINE V canonical(hn::Vec<Floats> v) {
    return hn::IfThenElse(hn::RebindMask(D(), hn::IsNaN(v)), hn::Set(D(), 0x7FC00000u), nearest(v));
  }
};

/// A vector of sums of fp16, two to a 32-bit lane, the halves apart as for bf16. Widening and narrowing are
/// those of Float16, in vectors: conversion instructions flush subnormals on some machines.
struct Float16Sum {
  using D = hn::ScalableTag<std::uint32_t>;
  using V = hn::Vec<D>;
  using Floats = hn::ScalableTag<float>;

  hn::Vec<Floats> low;
  hn::Vec<Floats> high;

  HWY_INLINE Float16Sum() : low(hn::Zero(Floats())), high(hn::Zero(Floats())) {}
  HWY_INLINE void add(V x) {
    low = hn::Add(low, widened(hn::And(x, hn::Set(D(), 0xFFFFu))));
    high = hn::Add(high, widened(hn::ShiftRight<16>(x)));
  }
  HWY_INLINE void add_rounded(const Float16Sum& x) { add(x.rounded()); }
  HWY_INLINE V rounded() const { return hn::Or(hn::ShiftLeft<16>(nearest(high)), nearest(low)); }

 private:
  /// The fp16 in the lower half of each lane, as fp32. Exact.
  static HWY_INLINE hn::Vec<Floats> widened(V half) {
    const D d;
    const V magnitude = hn::And(half, hn::Set(d, 0x7FFFu));
    const V sign = hn::ShiftLeft<16>(hn::Sub(half, magnitude));
    const V shifted = hn::ShiftLeft<13>(magnitude);
    const V exponent = hn::And(shifted, hn::Set(d, 0x1Fu << 23));
    const V normal = hn::Add(shifted, hn::Set(d, 112u << 23));
    const V special = hn::Add(shifted, hn::Set(d, 224u << 23));
    const auto as_integer = hn::ConvertTo(Floats(), hn::BitCast(hn::ScalableTag<std::int32_t>(), magnitude));
    const V subnormal = hn::BitCast(d, hn::Mul(as_integer, hn::Set(Floats(), 0x1p-24f)));
    V bits = hn::IfThenElse(hn::Eq(exponent, hn::Set(d, 0x1Fu << 23)), special, normal);
    bits = hn::IfThenElse(hn::Eq(exponent, hn::Zero(d)), subnormal, bits);
    return hn::BitCast(Floats(), hn::Or(bits, sign));
  }

  /// The fp16 nearest to `v`, ties to even, in the lower half of each lane.
  static HWY_INLINE V nearest(hn::Vec<Floats> v) {
    const D d;
    const V bits = hn::BitCast(d, v);
    const V magnitude = hn::And(bits, hn::Set(d, 0x7FFFFFFFu));
    const V sign = hn::ShiftRight<16>(hn::Sub(bits, magnitude));
    const V rebased = hn::Sub(magnitude, hn::Set(d, 112u << 23));
    const V is_odd = hn::And(hn::ShiftRight<13>(rebased), hn::Set(d, 1u));
    const V normal = hn::ShiftRight<13>(hn::Add(hn::Add(rebased, hn::Set(d, 0xFFFu)), is_odd));
    // The last place of numbers from 1/2 to 1 is 2^-24, that of the subnormals: the addition rounds to it.
    const auto half = hn::Set(Floats(), 0.5f);
    const V subnormal =
        hn::Sub(hn::BitCast(d, hn::Add(hn::BitCast(Floats(), magnitude), half)), hn::BitCast(d, half));
    // Magnitudes are below 2^31, so that they compare as signed numbers, which every instruction set can do.
    const hn::ScalableTag<std::int32_t> di;
    const auto signed_magnitude = hn::BitCast(di, magnitude);
    const auto is_below = [&](std::int32_t bound) {
      return hn::RebindMask(d, hn::Lt(signed_magnitude, hn::Set(di, bound)));
    };
    V result = hn::IfThenElse(is_below(0x38800000), subnormal, normal);
    result = hn::IfThenElse(is_below(0x47800000), result, hn::Set(d, 0x7C00u));
    result = hn::Or(result, sign);
    return hn::IfThenElse(is_below(0x7F800001), result, hn::Set(d, 0x7E00u));
  }
};

template <typename T>
struct SumOfElement {
  using type = FloatSum<T>;
};
template <>
struct SumOfElement<BFloat16> {
  using type = BFloat16Sum;
};
template <>
struct SumOfElement<Float16> {
  using type = Float16Sum;
};
/// A vector of sums of elements T.
template <typename T>
using SumOf = typename SumOfElement<T>::type;

/// A block of sums.
template <class Sum>
struct BlockSum {
  using Rows = Block<typename Sum::D>;

  Sum first;
  Sum second;

  HWY_INLINE BlockSum() {}
  HWY_INLINE void add(const Rows& x) {
    first.add(x.first);
    second.add(x.second);
  }
  HWY_INLINE void add_rounded(const BlockSum& x) {
    first.add_rounded(x.first);
    second.add_rounded(x.second);
  }
  HWY_INLINE Rows rounded() const { return {first.rounded(), second.rounded()}; }
};

}  // namespace flexep::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per target
