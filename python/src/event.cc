// SPDX-License-Identifier: Apache-2.0
#include "flexep/event.h"

#include "bindings.h"
#include "blocking.h"
#include "streams.h"

namespace flexep::python {
namespace {

using namespace nb::literals;

void wait(const Event& event) {
  while (!blocking([&] { return event.wait_for(kSignalInterval); })) {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
}

}  // namespace

void bind_event(nb::module_& module) {
  nb::class_<Event>(module, "Event",
                    "A moment that work can wait for, such as the end of an asynchronous operation.")
      .def("wait", &wait,
           "Blocks until the moment has come; raises what the operation behind it failed with. A signal ends "
           "the "
           "wait, not the operation.")
      .def(
          "wait_on",
          [](const Event& self, StreamHandle stream) { blocking([&] { let_wait(stream, self); }); },
          "stream"_a,
          "What a stream of CUDA, given by its handle, is given from now on starts after the moment. Blocks "
          "only for "
          "the moments of a CPU's operations. What an operation on a GPU failed with is raised by wait().")
      .def("is_done", &Event::is_done)
      .def("__bool__", [](const Event& self) { return static_cast<bool>(self); });
}

}  // namespace flexep::python
