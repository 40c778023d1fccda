// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

namespace flexep::moe::on_cuda {

// The part of cuBLAS's interface that a MoE layer uses, in its values. Declared here because the library is
// looked up at run time: it is large, and a program that uses no GPU starts without it.
using CublasHandle = struct cublasContext*;
enum class CublasStatus : int { kSuccess = 0 };
enum class CublasOperation : int { kNone = 0, kTranspose = 1 };
enum class CublasComputeType : int { kFloat32 = 68, kFloat64 = 70 };
enum class CublasMathMode : int { kNoNarrowReduction = 16 };  // what is split is summed in fp32, too
enum class CublasAlgorithm : int { kDefault = -1 };

struct CublasApi {
  CublasStatus (*create)(CublasHandle*) = nullptr;
  CublasStatus (*destroy)(CublasHandle) = nullptr;
  CublasStatus (*set_stream)(CublasHandle, cudaStream_t) = nullptr;
  CublasStatus (*set_math_mode)(CublasHandle, CublasMathMode) = nullptr;
  const char* (*status_string)(CublasStatus) = nullptr;
  /// c [m, n] = alpha * op(a) * op(b) + beta * c, all by columns.
  CublasStatus (*multiply)(CublasHandle, CublasOperation op_a, CublasOperation op_b, int m, int n, int k,
                           const void* alpha, const void* a, cudaDataType_t, int stride_a, const void* b,
                           cudaDataType_t, int stride_b, const void* beta, void* c, cudaDataType_t,
                           int stride_c, CublasComputeType, CublasAlgorithm) = nullptr;
};

/// Loads libcublas.so.13, else libcublas.so.12, once: one that the process has loaded already, or one that
/// the dynamic linker finds. @throws CudaError that says where it looked, or what the library lacks.
const CublasApi& cublas();

/// @throws CudaError for any failure of `action`.
void check(CublasStatus status, const char* action);

}  // namespace flexep::moe::on_cuda
