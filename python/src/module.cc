// SPDX-License-Identifier: Apache-2.0
#include "bindings.h"
#include "blocking.h"
#include "flexep/flexep.h"
#include "flexep/interruption.h"
#include "streams.h"
#include "tensor_exchange.h"

NB_MODULE(_core, module) {
  using namespace flexep::python;

  module.doc() = "The C++ interface of flexep; the package flexep names what is public.";
  // Modules keep tensors and buffers until the interpreter ends, which is no leak.
  nb::set_leak_warnings(false);
  module.attr("__version__") = flexep::version();
  module.attr("has_cuda") = has_cuda();
  module.def(
      "record_stream",
      [](nb::handle tensor, StreamHandle stream) {
        record_stream(tensor_from(tensor, "tensor", stream), stream);
      },
      nb::arg("tensor"), nb::arg("stream"),
      "As Tensor.record_stream, for a tensor of any library that shares a buffer's memory.");
  bind_errors(module);
  bind_tensor(module);
  bind_event(module);
  bind_communicator(module);
  bind_dispatch_handle(module);
  bind_elastic_buffer(module);
  bind_plan_model(module);
  flexep::set_interruption_check(&is_signal_pending);
}
