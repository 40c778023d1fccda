// SPDX-License-Identifier: Apache-2.0
#include "tensor_exchange.h"

#include <nanobind/ndarray.h>

#include <charconv>
#include <string>
#include <unordered_map>

#include "dlpack_abi.h"
#include "flexep/error.h"
#include "managed_tensor.h"

namespace flexep::python {
namespace {

using dlpack::ExchangeApi;
using dlpack::ManagedTensor;
using dlpack::VersionedTensor;

const ExchangeApi* look_up_exchange_api(nb::handle type) {
  PyObject* const found = PyObject_GetAttrString(type.ptr(), ExchangeApi::kAttribute);
  const nb::object capsule = nb::steal(found);
  void* const api = found ? PyCapsule_GetPointer(found, ExchangeApi::kCapsule) : nullptr;
  if (api == nullptr) PyErr_Clear();
  const auto* const exchange = static_cast<const ExchangeApi*>(api);
  return exchange != nullptr && exchange->version.major == 1 ? exchange : nullptr;
}

// Null for types that have none.
const ExchangeApi* exchange_api_of(nb::handle type) {
  static std::unordered_map<PyObject*, const ExchangeApi*> known;
  const auto found = known.find(type.ptr());
  if (found != known.end()) return found->second;
  const ExchangeApi* const api = look_up_exchange_api(type);
  if (api != nullptr) known.emplace(type.inc_ref().ptr(), api);
  return api;
}

[[noreturn]] void refuse_read_only(const char* argument) {
  throw InvalidArgument(argument, std::string(argument) + " is written to, and must not be read-only");
}

template <typename Managed>
Tensor adopt_capsule(PyObject* capsule, const char* argument) {
  auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kCapsule));
  if (managed == nullptr) throw nb::python_error();
  PyCapsule_SetName(capsule, Managed::kUsedCapsule);
  PyCapsule_SetDestructor(capsule, nullptr);
  return dlpack::adopt(managed, argument);
}

Tensor from_capsule(nb::handle capsule, const char* argument, Access access) {
  if (!PyCapsule_IsValid(capsule.ptr(), VersionedTensor::kCapsule))
    return adopt_capsule<ManagedTensor>(capsule.ptr(), argument);
  const auto* const managed =
      static_cast<VersionedTensor*>(PyCapsule_GetPointer(capsule.ptr(), VersionedTensor::kCapsule));
  if (access == Access::kWrite && (managed->flags & dlpack::kReadOnly) != 0) refuse_read_only(argument);
  return adopt_capsule<VersionedTensor>(capsule.ptr(), argument);
}

Tensor from_object_with_api(const ExchangeApi& api, nb::handle object, const char* argument, Access access) {
  VersionedTensor* managed = nullptr;
  if (api.from_object(object.ptr(), &managed) != 0) throw nb::python_error();
  Tensor tensor = dlpack::adopt(managed, argument);
  if (access == Access::kWrite && (managed->flags & dlpack::kReadOnly) != 0) refuse_read_only(argument);
  return tensor;
}

bool is_on_gpu(nb::handle object) {
  if (!nb::hasattr(object, "__dlpack_device__")) return false;
  return nb::cast<int>(nb::int_(object.attr("__dlpack_device__")()[0])) == dlpack::kCuda;
}

/// Keeps the array of another library; may go on any thread.
template <typename Array>
std::shared_ptr<void> keep(Array array) {
  return {new Array(std::move(array)), [](Array* kept) {
            if (!Py_IsInitialized()) return;
            nb::gil_scoped_acquire acquire;
            delete kept;
          }};
}

template <typename Array>
Tensor from_host_array(nb::handle object, const char* argument) {
  Array array;
  if (!nb::try_cast(object, array)) {
    throw InvalidArgument(argument,
                          std::string(argument) +
                              " must be a tensor that speaks DLPack or the buffer protocol, and is a " +
                              nb::type_name(object.type()).c_str());
  }
  const DType dtype = dlpack::dtype_from(array.dtype(), argument);
  const Shape shape(std::span(array.shape_ptr(), array.ndim()));
  const Shape strides(std::span(array.stride_ptr(), array.ndim()));
  void* const data = const_cast<void*>(static_cast<const void*>(array.data()));
  if (shape.num_elements() == 0) return Tensor::from_memory(data, shape, dtype, keep(std::move(array)));
  return Tensor::from_memory(data, shape, strides, dtype, keep(std::move(array)));
}

template <typename Managed>
nb::object capsule_of(const Tensor& tensor) {
  PyObject* const capsule =
      PyCapsule_New(dlpack::lend<Managed>(tensor), Managed::kCapsule, [](PyObject* dying) {
        if (!PyCapsule_IsValid(dying, Managed::kCapsule)) return;  // somebody has taken it
        auto* const managed = static_cast<Managed*>(PyCapsule_GetPointer(dying, Managed::kCapsule));
        managed->deleter(managed);
      });
  return nb::steal(capsule);
}

nb::object argument_of(const nb::kwargs& request, const char* name) {
  return request.contains(name) ? nb::object(request[name]) : nb::none();
}

}  // namespace

Tensor tensor_from(nb::handle object, const char* argument, StreamHandle stream, Access access) {
  if (object.is_none()) return {};
  if (const ExchangeApi* api = exchange_api_of(object.type()))
    return from_object_with_api(*api, object, argument, access);
  if (PyCapsule_CheckExact(object.ptr())) return from_capsule(object, argument, access);
  Tensor* ours = nullptr;
  if (nb::try_cast(object, ours)) return *ours;
  if (is_on_gpu(object)) {
    // The protocol has another number for the legacy default stream.
    const nb::object capsule = object.attr("__dlpack__")(nb::arg("stream") = stream == 0 ? 1 : stream);
    return from_capsule(capsule, argument, access);
  }
  return access == Access::kWrite ? from_host_array<nb::ndarray<>>(object, argument)
                                  : from_host_array<nb::ndarray<nb::ro>>(object, argument);
}

StreamHandle stream_of(nb::handle object, Device device) {
  const ExchangeApi* const api = exchange_api_of(object.type());
  if (api == nullptr) return 0;
  void* stream = nullptr;
  if (api->current_stream(dlpack::kCuda, device.index, &stream) != 0) throw nb::python_error();
  return reinterpret_cast<StreamHandle>(stream);
}

nb::object to_dlpack(const Tensor& tensor, const nb::kwargs& request) {
  const nb::object device = argument_of(request, "dl_device"), copy = argument_of(request, "copy");
  if (!copy.is_none() && nb::cast<bool>(copy)) throw nb::buffer_error("flexep copies no tensors: copy=True");
  if (!device.is_none() && !device.equal(dlpack_device(tensor)))
    throw nb::buffer_error("flexep moves no tensors to other devices: dl_device");
  const nb::object stream = argument_of(request, "stream"), version = argument_of(request, "max_version");
  if (!tensor.device().is_host()) {
    const auto handle = stream.is_none() ? 1 : nb::cast<std::intptr_t>(stream);
    if (handle != -1) let_use(static_cast<StreamHandle>(handle), tensor);
  }
  const bool has_versions = !version.is_none() && nb::cast<int>(version[0]) >= 1;
  return has_versions ? capsule_of<VersionedTensor>(tensor) : capsule_of<ManagedTensor>(tensor);
}

nb::tuple dlpack_device(const Tensor& tensor) {
  const auto device = dlpack::device_to(tensor.device());
  return nb::make_tuple(device.device_type, device.device_id);
}

nb::object to_library(const Tensor& tensor, nb::handle type) {
  if (!tensor.defined()) return nb::none();
  const ExchangeApi* const api = exchange_api_of(type);
  if (api == nullptr) throw nb::type_error("this type of tensors has no exchange API of DLPack");
  void* object = nullptr;
  if (api->to_object(dlpack::lend<VersionedTensor>(tensor), &object) != 0) throw nb::python_error();
  return nb::steal(static_cast<PyObject*>(object));
}

nb::object to_python(const Tensor& tensor) {
  return tensor.defined() ? nb::cast(tensor) : nb::none();
}

std::string name_of(Device device) {
  return device.is_host() ? "cpu" : device.to_string();
}

Device device_named(std::string_view name) {
  if (name == "cpu") return Device::host();
  if (name == "cuda") return Device::cuda(0);
  int index = 0;
  if (name.starts_with("cuda:")) {
    const char* const end = name.data() + name.size();
    const auto [read, error] = std::from_chars(name.data() + 5, end, index);
    if (error == std::errc() && read == end && index >= 0) return Device::cuda(index);
  }
  throw InvalidArgument(
      "device", "device must be \"cpu\", \"cuda\" or \"cuda:<index>\", and is \"" + std::string(name) + "\"");
}

DType dtype_named(std::string_view name) {
  for (const DType dtype : kAllDTypes) {
    if (name_of(dtype) == name) return dtype;
  }
  throw InvalidArgument("dtype", "there is no element type \"" + std::string(name) + "\"");
}

}  // namespace flexep::python
