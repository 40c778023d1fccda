// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

/// The C++ interface as Python sees it, one function for each part of it. Names and arguments are those of
/// the public headers.
namespace flexep::python {

namespace nb = nanobind;

void bind_errors(nb::module_& module);
void bind_tensor(nb::module_& module);
void bind_event(nb::module_& module);
void bind_communicator(nb::module_& module);
void bind_dispatch_handle(nb::module_& module);
void bind_elastic_buffer(nb::module_& module);
void bind_plan_model(nb::module_& module);

}  // namespace flexep::python
