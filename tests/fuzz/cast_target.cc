// SPDX-License-Identifier: Apache-2.0
//
// Rows to fp8 and back, for any tensors: what was quantised can be restored, what cannot be is refused.
#include <cstring>

#include "arbitrary_tensor.h"
#include "flexep/cast.h"

namespace flexep::fuzz {
namespace {

/// Whatever bits are left, so that every number and NaN occurs. Overlapping elements may get them twice.
void fill(const Tensor& tensor, FuzzInput& input) {
  if (!tensor || tensor.num_elements() == 0 || !tensor.is_contiguous()) return;
  const std::string_view bits = input.rest();
  if (bits.empty()) return;
  std::memcpy(tensor.data(), bits.data(), std::min(bits.size(), tensor.num_bytes()));
}

void run(FuzzInput& input) {
  const ScaleFormat format = input.flag() ? ScaleFormat::kUE8M0 : ScaleFormat::kFloat32;
  const DType dtype = draw_dtype(input);
  const Tensor x = draw_tensor(input), sf = draw_tensor(input);
  accepts([&] { cast_from_fp8(x, sf, dtype); });
  fill(x, input);
  QuantisedRows rows;
  if (!accepts([&] { rows = cast_to_fp8(x, format); })) return;
  const Tensor restored = cast_from_fp8(rows.x, rows.sf, x.dtype());
  promise(restored.shape() == x.shape());
  accepts([&] { cast_from_fp8(rows.x, sf, dtype); });
}

}  // namespace
}  // namespace flexep::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  flexep::fuzz::FuzzInput input(data, size);
  flexep::fuzz::run(input);
  return 0;
}
