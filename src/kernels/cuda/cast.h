// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "flexep/types.h"

namespace flexep::cuda {

/// Rows to fp8 or back, one pass; see cast.h. Not a communication kernel: it takes the whole GPU. Strides are
/// in elements.
struct CastLaunch {
  DType dtype = DType::kBFloat16;  ///< of the rows that are not fp8
  std::int64_t num_tokens = 0;
  std::int64_t hidden = 0;
  const std::byte* from = nullptr;  ///< [num_tokens, hidden]
  std::int64_t row_stride = 0;
  std::int64_t column_stride = 1;
  std::byte* to = nullptr;  ///< [num_tokens, hidden] contiguous, 16-byte aligned
  /// [num_tokens, packs]: fp32, one factor each, or int32 of four exponents each.
  std::uint32_t* sf = nullptr;
  std::int64_t sf_row_stride = 0;
  std::int64_t sf_pack_stride = 1;
  bool has_packed_exponents = false;
};

cudaError_t launch_cast_to_fp8(const CastLaunch& launch, cudaStream_t stream);
cudaError_t launch_cast_from_fp8(const CastLaunch& launch, cudaStream_t stream);

}  // namespace flexep::cuda
