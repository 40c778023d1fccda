// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "flexep/moe/permute.h"
#include "moe/rows.h"

namespace flexep::moe {

Tensor pad_routing_map(const Tensor& routing_map, int align_size) {
  require_argument(routing_map.num_dims() == 2 && routing_map.dtype() == DType::kInt32, "routing_map",
                   "routing_map must be int32 [rows, experts], not {} {}", name_of(routing_map.dtype()),
                   routing_map.shape());
  require_argument(align_size >= 1, "align_size", "align_size must be at least 1, not {}", align_size);
  Tensor padded = routing_map.clone();
  std::vector<int> missing(static_cast<std::size_t>(padded.size(1)));  // ones, modulo align_size, up to 0
  for (std::int64_t row = 0; row < padded.size(0); ++row) {
    const auto entries = row_of<std::int32_t>(padded, row);
    for (std::size_t e = 0; e < missing.size(); ++e)
      if (entries[e] != 0) missing[e] = missing[e] == 0 ? align_size - 1 : missing[e] - 1;
  }
  for (std::int64_t row = 0; row < padded.size(0); ++row) {
    const auto entries = row_of<std::int32_t>(padded, row);
    for (std::size_t e = 0; e < missing.size(); ++e) {
      if (entries[e] != 0 || missing[e] == 0) continue;
      entries[e] = 1;
      --missing[e];
    }
  }
  return padded;
}

}  // namespace flexep::moe
