// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "flexep/tensor.h"

namespace flexep::python {

namespace nb = nanobind;

enum class Access { kRead, kWrite };

/// The memory of a tensor of any library that speaks DLPack or the buffer protocol; shared, not copied, and
/// kept alive. None is "no tensor". @throws InvalidArgument, NotImplementedError for a device's memory.
Tensor tensor_from(nb::handle object, const char* argument, Access access = Access::kRead);

/// A capsule of DLPack that shares the tensor's memory and keeps it alive. `request` holds the arguments of
/// __dlpack__, such as the version that the consumer understands.
nb::object to_dlpack(const Tensor& tensor, const nb::kwargs& request);

/// None for "no tensor".
nb::object to_python(const Tensor& tensor);

/// int32 [values.size()] over memory that `owner` keeps alive.
template <typename Owner>
Tensor view_of(std::span<const std::int32_t> values, const Owner& owner) {
  return Tensor::from_memory(const_cast<std::int32_t*>(values.data()),
                             {static_cast<std::int64_t>(values.size())}, DType::kInt32,
                             std::make_shared<Owner>(owner));
}

/// @throws InvalidArgument for a name that name_of does not give.
DType dtype_named(std::string_view name);

}  // namespace flexep::python
