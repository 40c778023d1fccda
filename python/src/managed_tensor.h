// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "dlpack_abi.h"
#include "flexep/tensor.h"

/// Between DLPack's tensors and ours; both ways the memory is shared.
namespace flexep::python::dlpack {

/// Takes the tensor, which is deleted with the last copy of the result, on any thread. @throws
/// InvalidArgument.
template <typename Managed>
Tensor adopt(Managed* managed, const char* argument);

/// A new managed tensor that keeps `tensor`.
template <typename Managed>
Managed* lend(const Tensor& tensor);

/// @throws InvalidArgument for a type that flexep does not have.
DType dtype_from(nanobind::dlpack::dtype dtype, const char* argument);
/// @throws InvalidArgument for anything but the host and GPUs of CUDA.
Device device_from(nanobind::dlpack::device device, const char* argument);
nanobind::dlpack::device device_to(Device device);

}  // namespace flexep::python::dlpack
