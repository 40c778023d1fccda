// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/check_cuda.h"
#include "backend/cuda/stream.h"
#include "core/device_casts.h"
#include "flexep/cuda.h"
#include "kernels/cuda/cast.h"

namespace flexep {
namespace {

cuda::CastLaunch launch_of(const Tensor& from, const Tensor& to, const Tensor& sf, DType dtype) {
  return {.dtype = dtype,
          .num_tokens = from.size(0),
          .hidden = from.size(1),
          .from = static_cast<const std::byte*>(from.data()),
          .row_stride = from.stride(0),
          .column_stride = from.stride(1),
          .to = static_cast<std::byte*>(to.data()),
          .sf = static_cast<std::uint32_t*>(sf.data()),
          .sf_row_stride = sf.stride(0),
          .sf_pack_stride = sf.stride(1),
          .has_packed_exponents = sf.dtype() == DType::kInt32};
}

}  // namespace

QuantisedRows cast_to_fp8_on_device(const Tensor& x, const Shape& sf_shape, DType sf_dtype) {
  const cuda::DeviceGuard guard(x.device().index);
  QuantisedRows rows{cuda::empty(x.shape(), DType::kFloat8E4M3, x.device()),
                     cuda::empty(sf_shape, sf_dtype, x.device())};
  if (x.num_elements() == 0) return rows;
  const auto launch = launch_of(x, rows.x, rows.sf, x.dtype());
  cuda::check(cuda::launch_cast_to_fp8(launch, cuda::current_stream()), "launch a cast");
  return rows;
}

Tensor cast_from_fp8_on_device(const Tensor& x, const Tensor& sf, DType dtype) {
  const cuda::DeviceGuard guard(x.device().index);
  Tensor rows = cuda::empty(x.shape(), dtype, x.device());
  if (x.num_elements() == 0) return rows;
  cuda::check(cuda::launch_cast_from_fp8(launch_of(x, rows, sf, dtype), cuda::current_stream()),
              "launch a cast");
  return rows;
}

}  // namespace flexep
