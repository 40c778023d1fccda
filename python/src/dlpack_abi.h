// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>

/// The structures of DLPack 1 around its tensor, as https://dmlc.github.io/dlpack defines them in C.
namespace flexep::python::dlpack {

/// Numbers of devices.
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::int32_t kCuda = 2;

inline constexpr std::uint64_t kReadOnly = 1;

/// What a capsule held before there were versions.
struct ManagedTensor {
  static constexpr const char* kCapsule = "dltensor";
  static constexpr const char* kUsedCapsule = "used_dltensor";

  nanobind::dlpack::dltensor tensor;
  void* context = nullptr;
  void (*deleter)(ManagedTensor*) = nullptr;
};

struct Version {
  std::uint32_t major = 1;
  std::uint32_t minor = 1;
};

struct VersionedTensor {
  static constexpr const char* kCapsule = "dltensor_versioned";
  static constexpr const char* kUsedCapsule = "used_dltensor_versioned";

  Version version;
  void* context = nullptr;
  void (*deleter)(VersionedTensor*) = nullptr;
  std::uint64_t flags = 0;
  nanobind::dlpack::dltensor tensor;
};

/// What a library's type of tensors offers as `__dlpack_c_exchange_api__`, in a capsule. Functions return 0,
/// or -1 with an error of Python's set. Nothing waits for a stream.
struct ExchangeApi {
  static constexpr const char* kAttribute = "__dlpack_c_exchange_api__";
  static constexpr const char* kCapsule = "dlpack_exchange_api";

  Version version;
  ExchangeApi* previous;
  int (*allocate)(nanobind::dlpack::dltensor* prototype, VersionedTensor** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*from_object)(void* object, VersionedTensor** out);
  int (*to_object)(VersionedTensor* tensor, void** out);
  int (*view_of_object)(void* object, nanobind::dlpack::dltensor* out);
  int (*current_stream)(std::int32_t device_type, std::int32_t device_index, void** out);
};

}  // namespace flexep::python::dlpack
