// SPDX-License-Identifier: Apache-2.0
#include "flexep/tensor.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bindings.h"
#include "tensor_exchange.h"

namespace flexep::python {
namespace {

using namespace nb::literals;

nb::tuple extents_of(const Tensor& tensor, std::int64_t (Tensor::*extent)(int) const) {
  nb::list extents;
  for (int dim = 0; dim < tensor.num_dims(); ++dim) extents.append((tensor.*extent)(dim));
  return nb::tuple(extents);
}

std::string describe(const Tensor& tensor) {
  return "flexep.Tensor(" + tensor.shape().to_string() + ", " + std::string(name_of(tensor.dtype())) + ")";
}

}  // namespace

void bind_tensor(nb::module_& module) {
  nb::class_<Tensor>(
      module, "Tensor",
      "An array that others read through DLPack: torch.from_dlpack(tensor), numpy.from_dlpack(tensor). "
      "Its memory lives until the last of them is gone.")
      .def_prop_ro("shape", [](const Tensor& self) { return extents_of(self, &Tensor::size); })
      .def_prop_ro(
          "strides", [](const Tensor& self) { return extents_of(self, &Tensor::stride); }, "In elements.")
      .def_prop_ro(
          "dtype", [](const Tensor& self) { return name_of(self.dtype()); },
          "\"bf16\", \"fp16\", \"fp32\", \"fp64\", \"fp8_e4m3\", \"uint8\", \"int8\", \"int16\", "
          "\"int32\" or \"int64\".")
      .def_prop_ro(
          "device", [](const Tensor& self) { return name_of(self.device()); }, "\"cpu\", \"cuda:0\".")
      .def_prop_ro("num_bytes", &Tensor::num_bytes)
      .def("is_contiguous", &Tensor::is_contiguous)
      .def("__dlpack__",
           [](const Tensor& self, const nb::kwargs& request) { return to_dlpack(self, request); })
      .def("__dlpack_device__", &dlpack_device)
      .def("to_library", &to_library, "type"_a,
           "This tensor as one of a library whose `type` of tensors has an exchange API of DLPack, such as "
           "torch.Tensor; no stream waits for another.")
      .def("record_stream", &record_stream, "stream"_a,
           "A stream of CUDA, given by its handle, uses the tensor, too: memory of a buffer goes back behind "
           "what "
           "that stream has been given by then.")
      .def("__repr__", &describe);
}

}  // namespace flexep::python
