// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/cublas_products.h"

#include "flexep/error.h"
#include "moe/cuda/check.h"

namespace flexep::moe::on_cuda {
namespace {

cudaDataType_t type_of(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::kBFloat16:
      return CUDA_R_16BF;
    case DType::kFloat16:
      return CUDA_R_16F;
    case DType::kFloat32:
      return CUDA_R_32F;
    case DType::kFloat64:
      return CUDA_R_64F;
    case DType::kFloat8E4M3:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
      break;
  }
  throw InvalidArgument("dtype", "a product's factors must be bf16, fp16, fp32 or fp64");
}

CublasComputeType compute_type_of(const Tensor& factor) {
  return factor.dtype() == DType::kFloat64 ? CublasComputeType::kFloat64 : CublasComputeType::kFloat32;
}

CublasOperation operation_of(const Factor& factor) {
  return factor.is_transposed ? CublasOperation::kTranspose : CublasOperation::kNone;
}

// Elements from one row of the memory to the next.
int stride_of(const Tensor& matrix) {
  return static_cast<int>(matrix.size(matrix.num_dims() - 1));
}

// Of a product, in the type that it is computed in: alpha and beta.
struct Scalars {
  const void* one;
  const void* zero;
};
Scalars scalars_for(const Tensor& factor) {
  static constexpr double kOne = 1, kZero = 0;
  static constexpr float kOneFloat = 1, kZeroFloat = 0;
  if (factor.dtype() == DType::kFloat64) return {&kOne, &kZero};
  return {&kOneFloat, &kZeroFloat};
}

}  // namespace

CublasProducts::CublasProducts() {
  check(cublas().create(&handle_), "start");
  check(cublas().set_math_mode(handle_, CublasMathMode::kNoNarrowReduction), "set its arithmetic");
}

CublasProducts::~CublasProducts() {
  cublas().destroy(handle_);
}

void CublasProducts::multiply(const Factor& a, const Factor& b, const Tensor& out,
                              cudaStream_t stream) const {
  if (out.num_elements() == 0) return;
  if (a.columns() == 0)
    return check(cudaMemsetAsync(out.data(), 0, out.num_bytes(), stream), "clear a product");
  const Scalars scalars = scalars_for(a.matrix);
  check(cublas().set_stream(handle_, stream), "take a stream");
  check(cublas().multiply(handle_, operation_of(b), operation_of(a), static_cast<int>(out.size(1)),
                          static_cast<int>(out.size(0)), static_cast<int>(a.columns()), scalars.one,
                          b.matrix.data(), type_of(b.matrix), stride_of(b.matrix), a.matrix.data(),
                          type_of(a.matrix), stride_of(a.matrix), scalars.zero, out.data(), type_of(out),
                          stride_of(out), compute_type_of(a.matrix), CublasAlgorithm::kDefault),
        "multiply matrices");
}

}  // namespace flexep::moe::on_cuda
