// SPDX-License-Identifier: Apache-2.0
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "flexep/error.h"

namespace flexep::python {
namespace {

// The classes are Python's own (flexep/errors.py): they have bases of Python's and attributes.
template <typename... Args>
void raise(const char* name, const Args&... args) {
  const nb::object type = nb::module_::import_("flexep.errors").attr(name);
  const nb::object error = type(args...);
  PyErr_SetObject(type.ptr(), error.ptr());
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const InvalidArgument& error) {
    raise("InvalidArgument", error.what(), error.argument());
  } catch (const CollectiveMismatch& error) {
    raise("CollectiveMismatch", error.what(), error.field(), error.values());
  } catch (const PeerError& error) {
    raise("PeerError", error.what(), error.rank());
  } catch (const TimeoutError& error) {
    raise("TimeoutError", error.what(), error.missing_ranks(), error.operation(), error.sequence_number());
  } catch (const TransportError& error) {
    raise("TransportError", error.what(), error.failed_ranks());
  } catch (const OutOfMemory& error) {
    raise("OutOfMemory", error.what());
  } catch (const CudaError& error) {
    raise("CudaError", error.what());
  } catch (const Error& error) {
    raise("Error", error.what());
  }
}

}  // namespace

void bind_errors(nb::module_&) {
  nb::register_exception_translator(&translate);
}

}  // namespace flexep::python
