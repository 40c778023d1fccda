// SPDX-License-Identifier: Apache-2.0
#include "managed_tensor.h"

#include <array>
#include <memory>
#include <string>

#include "flexep/error.h"

namespace flexep::python::dlpack {
namespace {

namespace nb = nanobind;
using nb::dlpack::dltensor;

constexpr nb::dlpack::dtype make_dtype(nb::dlpack::dtype_code code, std::size_t num_bytes) {
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * num_bytes), 1};
}

constexpr nb::dlpack::dtype dtype_to(DType dtype) {
  using Code = nb::dlpack::dtype_code;
  switch (dtype) {
    case DType::kBFloat16:
      return make_dtype(Code::Bfloat, 2);
    case DType::kFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      return make_dtype(Code::Float, size_of(dtype));
    case DType::kFloat8E4M3:
      return make_dtype(Code::Float8_E4M3FN, 1);
    case DType::kUInt8:
      return make_dtype(Code::UInt, 1);
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
      return make_dtype(Code::Int, size_of(dtype));
  }
  return {};
}

Tensor view(const dltensor& tensor, const char* argument, std::shared_ptr<void> owner) {
  const auto num_dims = static_cast<std::size_t>(tensor.ndim);
  const Shape shape(std::span<const std::int64_t>(tensor.shape, num_dims));
  const DType dtype = dtype_from(tensor.dtype, argument);
  const Device device = device_from(tensor.device, argument);
  void* const data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  // Strides of what has no elements mean nothing, and libraries put anything there.
  if (tensor.strides == nullptr || shape.num_elements() == 0)
    return Tensor::from_memory(data, shape, dtype, std::move(owner), device);
  const Shape strides(std::span<const std::int64_t>(tensor.strides, num_dims));
  return Tensor::from_memory(data, shape, strides, dtype, std::move(owner), device);
}

template <typename Managed>
struct Loan {
  Managed managed;
  Tensor tensor;
  std::array<std::int64_t, Shape::kMaxDims> shape;
  std::array<std::int64_t, Shape::kMaxDims> strides;
};

}  // namespace

DType dtype_from(nb::dlpack::dtype given, const char* argument) {
  for (const DType dtype : kAllDTypes) {
    if (dtype_to(dtype) == given) return dtype;
  }
  throw InvalidArgument(argument, std::string(argument) +
                                      " has an element type that flexep does not have (DLPack code " +
                                      std::to_string(given.code) + ", " + std::to_string(given.bits) +
                                      " bits): view it as an integer type of the same size");
}

Device device_from(nb::dlpack::device device, const char* argument) {
  if (device.device_type == kCpu) return Device::host();
  if (device.device_type == kCuda) return Device::cuda(device.device_id);
  throw InvalidArgument(argument, std::string(argument) +
                                      " is on a device that flexep does not have (DLPack type " +
                                      std::to_string(device.device_type) + ")");
}

nb::dlpack::device device_to(Device device) {
  if (device.is_host()) return {kCpu, 0};
  return {kCuda, device.index};
}

template <typename Managed>
Tensor adopt(Managed* managed, const char* argument) {
  const std::shared_ptr<void> owner(managed, [](Managed* kept) {
    // Threads of ours may outlive the interpreter, and then there is nobody to tell.
    if (kept->deleter != nullptr && Py_IsInitialized()) kept->deleter(kept);
  });
  return view(managed->tensor, argument, owner);
}

template <typename Managed>
Managed* lend(const Tensor& tensor) {
  auto* const loan = new Loan<Managed>{.managed = {}, .tensor = tensor, .shape = {}, .strides = {}};
  for (int dim = 0; dim < tensor.num_dims(); ++dim) {
    loan->shape[static_cast<std::size_t>(dim)] = tensor.size(dim);
    loan->strides[static_cast<std::size_t>(dim)] = tensor.stride(dim);
  }
  loan->managed.context = loan;
  loan->managed.deleter = [](Managed* managed) { delete static_cast<Loan<Managed>*>(managed->context); };
  loan->managed.tensor = {.data = tensor.data(),
                          .device = device_to(tensor.device()),
                          .ndim = tensor.num_dims(),
                          .dtype = dtype_to(tensor.dtype()),
                          .shape = loan->shape.data(),
                          .strides = loan->strides.data(),
                          .byte_offset = 0};
  return &loan->managed;
}

template Tensor adopt(ManagedTensor*, const char*);
template Tensor adopt(VersionedTensor*, const char*);
template ManagedTensor* lend(const Tensor&);
template VersionedTensor* lend(const Tensor&);

}  // namespace flexep::python::dlpack
