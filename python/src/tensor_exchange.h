// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "flexep/tensor.h"
#include "streams.h"

namespace flexep::python {

namespace nb = nanobind;

enum class Access { kRead, kWrite };

/// The memory of a tensor of any library that speaks DLPack or the buffer protocol; shared, not copied, and
/// kept alive. None is "no tensor". What a GPU still writes there is complete for `stream`, except in
/// capsules and in tensors of libraries with an exchange API, which are as complete as for stream_of. @throws
/// InvalidArgument.
Tensor tensor_from(nb::handle object, const char* argument, StreamHandle stream,
                   Access access = Access::kRead);

/// The current stream of the library whose tensor `object` is, where it tells; else the legacy default
/// stream.
StreamHandle stream_of(nb::handle object, Device device);

/// A capsule of DLPack that shares the tensor's memory and keeps it alive. `request` holds the arguments of
/// __dlpack__: the version that the consumer understands, and the stream on which it is going to use the
/// tensor.
nb::object to_dlpack(const Tensor& tensor, const nb::kwargs& request);
/// DLPack's number of the tensor's device.
nb::tuple dlpack_device(const Tensor& tensor);

/// The tensor as one of another library's `type`, which has an exchange API; waits for no stream. None is "no
/// tensor".
nb::object to_library(const Tensor& tensor, nb::handle type);

/// None for "no tensor".
nb::object to_python(const Tensor& tensor);

/// int32 [values.size()] over memory that `owner` keeps alive.
template <typename Owner>
Tensor view_of(std::span<const std::int32_t> values, const Owner& owner) {
  return Tensor::from_memory(const_cast<std::int32_t*>(values.data()),
                             {static_cast<std::int64_t>(values.size())}, DType::kInt32,
                             std::make_shared<Owner>(owner));
}

/// "cpu", "cuda:0": as PyTorch names devices.
std::string name_of(Device device);
/// The reverse; "cuda" is the first GPU. @throws InvalidArgument.
Device device_named(std::string_view name);
/// @throws InvalidArgument for a name that name_of does not give.
DType dtype_named(std::string_view name);

}  // namespace flexep::python
