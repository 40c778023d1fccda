// SPDX-License-Identifier: Apache-2.0
#include "arbitrary_tensor.h"

#include <algorithm>
#include <array>

/// Memory that cannot be had is OutOfMemory, also where a sanitizer hands it out.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
extern "C" const char* __tsan_default_options() {
  return "allocator_may_return_null=1";
}

namespace flexep::fuzz {
namespace {

using Extents = std::array<std::int64_t, Shape::kMaxDims>;

constexpr std::int64_t kMaxElements = 1 << 16;  // with memory behind them

Shape shape_of(const Extents& extents, int num_dims) {
  return Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(num_dims)));
}

/// The strides of a dense tensor whose dimension `order[i]` is the i-th from the inside, each row `gap`
/// longer than its elements.
Extents strides_in_order(const Shape& shape, std::span<const int> order, std::int64_t gap) {
  Extents strides{};
  std::int64_t stride = 1;
  for (const int dim : order) {
    strides[static_cast<std::size_t>(dim)] = stride;
    stride = std::min(stride * std::max<std::int64_t>(shape[dim], 1), kMaxElements) + gap;
  }
  return strides;
}

/// How many elements of memory the tensor spans, or kMaxElements if that is less.
std::int64_t span_of(const Shape& shape, const Extents& strides) {
  std::int64_t last = 0;
  for (int dim = 0; dim < shape.num_dims(); ++dim) {
    const std::int64_t extent = std::min(shape[dim], kMaxElements);
    if (extent > 1) last += (extent - 1) * strides[static_cast<std::size_t>(dim)];
  }
  return std::min(last + 1, kMaxElements);
}

}  // namespace

DType draw_dtype(FuzzInput& input) {
  return kAllDTypes[input.byte() % kAllDTypes.size()];
}

Shape draw_shape(FuzzInput& input) {
  Extents extents{};
  const int num_dims = input.in_range(0, Shape::kMaxDims);
  for (int dim = 0; dim < num_dims; ++dim) {
    std::int64_t& extent = extents[static_cast<std::size_t>(dim)];
    extent = input.in_range(0, 17);
    if (input.rarely()) extent = input.integer<std::int64_t>() | (std::int64_t{1} << 45);
  }
  return shape_of(extents, num_dims);
}

Tensor with_some_strides(FuzzInput& input, const Shape& shape, DType dtype) {
  std::array<int, Shape::kMaxDims> order{};
  const auto num_dims = static_cast<std::size_t>(shape.num_dims());
  for (std::size_t i = 0; i < num_dims; ++i) order[i] = static_cast<int>(num_dims - 1 - i);
  if (input.rarely()) std::reverse(order.begin(), order.begin() + num_dims);
  Extents strides =
      strides_in_order(shape, std::span(order).first(num_dims), input.flag() ? input.in_range(0, 3) : 0);
  const bool repeats = input.rarely();
  // What memory cannot back repeats the same elements.
  for (int dim = 0; dim < shape.num_dims(); ++dim) {
    if (repeats || span_of(shape, strides) == kMaxElements) strides[static_cast<std::size_t>(dim)] = 0;
  }
  const Tensor memory = Tensor::zeros({span_of(shape, strides)}, dtype);
  return Tensor::from_memory(memory.data(), shape, shape_of(strides, shape.num_dims()), dtype,
                             memory.owner());
}

Tensor draw_tensor(FuzzInput& input) {
  if (input.rarely()) return {};
  const DType dtype = draw_dtype(input);
  try {
    return with_some_strides(input, draw_shape(input), dtype);
  } catch (const InvalidArgument&) {
    return {};
  }
}

}  // namespace flexep::fuzz
