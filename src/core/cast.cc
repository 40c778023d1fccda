// SPDX-License-Identifier: Apache-2.0
#include "flexep/cast.h"

#include <algorithm>
#include <vector>

#include "common/check.h"
#include "common/fp8_scaling.h"
#include "common/math.h"
#include "core/device_casts.h"

namespace flexep {
namespace {

using fp8::kExponentsPerInt;
using fp8::kGroup;

void require_rows(const Tensor& x, const char* name) {
  require_argument(x.defined() && x.num_dims() == 2, name, "{} must be [num_tokens, hidden], not {}", name,
                   x.defined() ? x.shape().to_string() : "absent");
}

void require_element_type(DType dtype, const char* name) {
  require_argument(fp8::visit_rows(dtype, [](auto) {}), name, "{} must be bf16, fp16 or fp32, not {}", name,
                   name_of(dtype));
}

/// Where the factor of a group is kept.
class Scales {
 public:
  Scales(const Tensor& sf, std::int64_t token) : sf_(sf), token_(token) {}

  void store(std::int64_t group, float factor) const {
    if (sf_.dtype() == DType::kFloat32) {
      sf_.data<float>()[index(group)] = factor;
    } else {
      const std::int64_t lane = group % kExponentsPerInt;
      auto& packed = sf_.data<std::int32_t>()[index(group / kExponentsPerInt)];
      packed = static_cast<std::int32_t>(static_cast<std::uint32_t>(packed) | fp8::exponent_of(factor)
                                                                                  << (8 * lane));
    }
  }
  float load(std::int64_t group) const {
    if (sf_.dtype() == DType::kFloat32) return sf_.data<float>()[index(group)];
    const std::int64_t lane = group % kExponentsPerInt;
    const auto packed = static_cast<std::uint32_t>(sf_.data<std::int32_t>()[index(group / kExponentsPerInt)]);
    return fp8::power_of_exponent((packed >> (8 * lane)) & 0xFFu);
  }

 private:
  std::int64_t index(std::int64_t pack) const { return token_ * sf_.stride(0) + pack * sf_.stride(1); }

  const Tensor& sf_;
  std::int64_t token_;
};

void quantise_row(std::span<const float> row, ScaleFormat format, Float8E4M3* out, const Scales& scales) {
  const auto hidden = static_cast<std::int64_t>(row.size());
  for (std::int64_t begin = 0; begin < hidden; begin += kGroup) {
    const std::int64_t end = std::min(begin + kGroup, hidden);
    float largest = fp8::kSmallestMagnitude;
    for (std::int64_t i = begin; i < end; ++i)
      largest = fp8::larger(largest, fp8::magnitude_of(row[static_cast<std::size_t>(i)]));
    const float factor = fp8::factor_of(largest, format == ScaleFormat::kUE8M0);
    const float reciprocal = 1.0f / factor;
    for (std::int64_t i = begin; i < end; ++i)
      out[i] = fp8::quantise(row[static_cast<std::size_t>(i)], reciprocal);
    scales.store(begin / kGroup, factor);
  }
}

std::int64_t num_packs(std::int64_t hidden, DType dtype) {
  const std::int64_t num_groups = ceil_div(hidden, kGroup);
  return dtype == DType::kFloat32 ? num_groups : ceil_div(num_groups, kExponentsPerInt);
}

}  // namespace

QuantisedRows cast_to_fp8(const Tensor& x, ScaleFormat format) {
  require_rows(x, "x");
  require_element_type(x.dtype(), "x");
  const DType sf_dtype = format == ScaleFormat::kFloat32 ? DType::kFloat32 : DType::kInt32;
  const std::int64_t hidden = x.size(1);
  const Shape sf_shape{x.size(0), num_packs(hidden, sf_dtype)};
  if (!x.device().is_host()) return cast_to_fp8_on_device(x, sf_shape, sf_dtype);
  QuantisedRows rows{Tensor::empty(x.shape(), DType::kFloat8E4M3), Tensor::zeros(sf_shape, sf_dtype)};
  if (x.num_elements() == 0) return rows;
  fp8::visit_rows(x.dtype(), [&]<typename T>(T) {
    std::vector<float> row(static_cast<std::size_t>(hidden));
    for (std::int64_t token = 0; token < x.size(0); ++token) {
      const T* from = x.data<T>() + token * x.stride(0);
      for (std::int64_t i = 0; i < hidden; ++i)
        row[static_cast<std::size_t>(i)] = static_cast<float>(from[i * x.stride(1)]);
      quantise_row(row, format, rows.x.data<Float8E4M3>() + token * hidden, Scales(rows.sf, token));
    }
  });
  return rows;
}

Tensor cast_from_fp8(const Tensor& x, const Tensor& sf, DType dtype) {
  require_rows(x, "x");
  require_rows(sf, "sf");
  require_argument(x.dtype() == DType::kFloat8E4M3, "x", "x must be fp8_e4m3, not {}", name_of(x.dtype()));
  require_argument(sf.dtype() == DType::kFloat32 || sf.dtype() == DType::kInt32, "sf",
                   "sf must be fp32 or int32, not {}", name_of(sf.dtype()));
  const Shape expected{x.size(0), num_packs(x.size(1), sf.dtype())};
  require_argument(sf.shape() == expected, "sf", "sf has shape {}, but must be {}", sf.shape(), expected);
  require_element_type(dtype, "dtype");
  require_argument(sf.device() == x.device(), "sf", "sf is in memory of {}, but x in memory of {}",
                   sf.device().to_string(), x.device().to_string());
  if (!x.device().is_host()) return cast_from_fp8_on_device(x, sf, dtype);
  Tensor rows = Tensor::empty(x.shape(), dtype);
  if (x.num_elements() == 0) return rows;
  fp8::visit_rows(dtype, [&]<typename T>(T) {
    for (std::int64_t token = 0; token < x.size(0); ++token) {
      const Float8E4M3* from = x.data<Float8E4M3>() + token * x.stride(0);
      T* to = rows.data<T>() + token * x.size(1);
      const Scales scales(sf, token);
      for (std::int64_t i = 0; i < x.size(1); ++i)
        to[i] = T(fp8::restore(from[i * x.stride(1)], scales.load(i / kGroup)));
    }
  });
  return rows;
}

}  // namespace flexep
