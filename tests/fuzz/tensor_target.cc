// SPDX-License-Identifier: Apache-2.0
//
// Making tensors and looking at them in every way.
#include "arbitrary_tensor.h"

namespace flexep::fuzz {
namespace {

Shape any_shape(FuzzInput& input) {
  std::array<std::int64_t, 6> extents{};
  const auto num_dims = static_cast<std::size_t>(input.in_range(0, 6));
  for (std::int64_t& extent : std::span(extents).first(num_dims)) extent = input.integer<std::int64_t>();
  return Shape(std::span<const std::int64_t>(extents).first(num_dims));
}

/// What no machine has, or little.
Shape allocatable_shape(FuzzInput& input) {
  const Shape shape = input.flag() ? draw_shape(input) : any_shape(input);
  constexpr std::int64_t kSmall = 1 << 16, kBeyondAnyMachine = std::int64_t{1} << 50;
  const std::int64_t num_elements = shape.num_elements();
  return num_elements < kSmall || num_elements > kBeyondAnyMachine ? shape : Shape{1};
}

void look_at(const Tensor& tensor, FuzzInput& input) {
  promise(!tensor.shape().to_string().empty());
  accepts([&] { tensor.values<float>(); });
  accepts([&] { tensor.data<std::int64_t>(); });
  accepts([&] { tensor.reshape(any_shape(input)); });
  accepts([&] {
    const auto begin = input.integer<std::int64_t>(), end = input.integer<std::int64_t>();
    promise(tensor.rows(begin, end).size(0) <= tensor.size(0));
  });
  if (tensor.num_elements() > 1 << 16) return;
  const Tensor copy = tensor.clone();
  promise(copy.is_contiguous() && copy.shape() == tensor.shape() && copy.num_bytes() == tensor.num_bytes());
  promise(tensor.contiguous().is_contiguous());
}

void run(FuzzInput& input) {
  const DType dtype = draw_dtype(input);
  accepts([&] { look_at(Tensor::empty(allocatable_shape(input), dtype), input); });
  accepts([&] { look_at(Tensor::zeros(allocatable_shape(input), dtype), input); });
  accepts([&] { look_at(draw_tensor(input), input); });
  accepts([&] {  // never read: no memory is behind it
    const Shape shape = any_shape(input), strides = any_shape(input);
    const Tensor tensor = Tensor::from_memory(nullptr, shape, strides, dtype);
    promise(tensor.is_contiguous() || tensor.num_elements() > 0);
  });
}

}  // namespace
}  // namespace flexep::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  flexep::fuzz::FuzzInput input(data, size);
  flexep::fuzz::run(input);
  return 0;
}
