// SPDX-License-Identifier: Apache-2.0
#include "tensor_exchange.h"

#include <nanobind/ndarray.h>

#include <array>
#include <string>

#include "flexep/error.h"

namespace flexep::python {
namespace {

constexpr nb::dlpack::dtype make_dtype(nb::dlpack::dtype_code code, std::size_t num_bytes) {
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(8 * num_bytes), 1};
}

constexpr nb::dlpack::dtype to_dlpack_dtype(DType dtype) {
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

DType from_dlpack_dtype(nb::dlpack::dtype given, const char* argument) {
  for (const DType dtype : kAllDTypes) {
    if (to_dlpack_dtype(dtype) == given) return dtype;
  }
  throw InvalidArgument(argument, std::string(argument) +
                                      " has an element type that flexep does not have (DLPack code " +
                                      std::to_string(given.code) + ", " + std::to_string(given.bits) +
                                      " bits): view it as an integer type of the same size");
}

/// Keeps the array of another library; may go on any thread.
template <typename Array>
std::shared_ptr<void> keep(Array array) {
  return {new Array(std::move(array)), [](Array* kept) {
            // Threads of ours may outlive the interpreter, and then there is nobody to tell.
            if (!Py_IsInitialized()) return;
            nb::gil_scoped_acquire acquire;
            delete kept;
          }};
}

Shape shape_of(const std::int64_t* extents, std::size_t num_dims) {
  return Shape(std::span(extents, num_dims));
}

template <typename Array>
Tensor share(Array array, const char* argument) {
  if (array.device_type() != nb::device::cpu::value) {
    PyErr_SetString(
        PyExc_NotImplementedError,
        "flexep for Python moves tensors of the CPU today: use tensor.cpu(), or the C++ interface");
    throw nb::python_error();
  }
  const DType dtype = from_dlpack_dtype(array.dtype(), argument);
  const Shape shape = shape_of(array.shape_ptr(), array.ndim());
  const Shape strides = shape_of(array.stride_ptr(), array.ndim());
  void* const data = const_cast<void*>(static_cast<const void*>(array.data()));
  // Strides of what has no elements mean nothing, and libraries put anything there.
  if (shape.num_elements() == 0) return Tensor::from_memory(data, shape, dtype, keep(std::move(array)));
  return Tensor::from_memory(data, shape, strides, dtype, keep(std::move(array)));
}

template <typename Array>
Tensor import(nb::handle object, const char* argument) {
  Array array;
  if (!nb::try_cast(object, array)) {
    throw InvalidArgument(argument,
                          std::string(argument) +
                              " must be a tensor that speaks DLPack or the buffer protocol, and is a " +
                              nb::type_name(object.type()).c_str());
  }
  return share(std::move(array), argument);
}

}  // namespace

Tensor tensor_from(nb::handle object, const char* argument, Access access) {
  if (object.is_none()) return {};
  Tensor* ours = nullptr;
  if (nb::try_cast(object, ours)) return *ours;
  return access == Access::kWrite ? import <nb::ndarray<>>(object, argument)
                                  : import <nb::ndarray<nb::ro>>(object, argument);
}

nb::object to_dlpack(const Tensor& tensor, const nb::kwargs& request) {
  std::array<std::size_t, Shape::kMaxDims> shape{};
  std::array<std::int64_t, Shape::kMaxDims> strides{};
  for (int dim = 0; dim < tensor.num_dims(); ++dim) {
    shape[static_cast<std::size_t>(dim)] = static_cast<std::size_t>(tensor.size(dim));
    strides[static_cast<std::size_t>(dim)] = tensor.stride(dim);
  }
  const nb::capsule owner(new Tensor(tensor), [](void* kept) noexcept { delete static_cast<Tensor*>(kept); });
  const nb::ndarray<nb::array_api> array(tensor.data(), static_cast<std::size_t>(tensor.num_dims()),
                                         shape.data(), owner, strides.data(), to_dlpack_dtype(tensor.dtype()),
                                         nb::device::cpu::value, 0);
  return nb::cast(array).attr("__dlpack__")(**request);
}

nb::object to_python(const Tensor& tensor) {
  return tensor.defined() ? nb::cast(tensor) : nb::none();
}

DType dtype_named(std::string_view name) {
  for (const DType dtype : kAllDTypes) {
    if (name_of(dtype) == name) return dtype;
  }
  throw InvalidArgument("dtype", "there is no element type \"" + std::string(name) + "\"");
}

}  // namespace flexep::python
