// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/cublas_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "flexep/error.h"

namespace flexep::moe::on_cuda {
namespace {

void* open_library() {
  std::string errors;
  for (const char* name : {"libcublas.so.13", "libcublas.so.12"}) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    errors += fmt::format("; {}", dlerror());
  }
  throw CudaError(fmt::format(
      "a MoE layer on a GPU needs cuBLAS, and the dynamic linker does not find it (LD_LIBRARY_PATH){}",
      errors));
}

template <typename Function>
void look_up(void* library, const char* name, Function& function) {
  void* address = dlsym(library, name);
  if (address == nullptr) throw CudaError(fmt::format("cuBLAS 12 or later is needed: there is no {}", name));
  function = reinterpret_cast<Function>(address);
}

CublasApi load() {
  void* library = open_library();
  CublasApi api;
  look_up(library, "cublasCreate_v2", api.create);
  look_up(library, "cublasDestroy_v2", api.destroy);
  look_up(library, "cublasSetStream_v2", api.set_stream);
  look_up(library, "cublasSetMathMode", api.set_math_mode);
  look_up(library, "cublasGetStatusString", api.status_string);
  look_up(library, "cublasGemmEx", api.multiply);
  return api;
}

}  // namespace

const CublasApi& cublas() {
  static const CublasApi api = load();
  return api;
}

void check(CublasStatus status, const char* action) {
  if (status != CublasStatus::kSuccess)
    throw CudaError(fmt::format("cuBLAS could not {}: {}", action, cublas().status_string(status)));
}

}  // namespace flexep::moe::on_cuda
