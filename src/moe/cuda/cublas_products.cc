// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/cublas_products.h"

#include <vector>

#include "flexep/cuda.h"
#include "flexep/error.h"
#include "moe/cuda/check.h"
#include "moe/cuda/kernels.h"

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

// Calls visit(expert, first row, end of its rows) for each expert.
template <typename Visitor>
void for_each_expert(std::span<const std::int32_t> tokens_per_expert, Visitor&& visit) {
  std::int64_t begin = 0;
  for (std::size_t expert = 0; expert < tokens_per_expert.size(); ++expert) {
    const std::int64_t end = begin + tokens_per_expert[expert];
    visit(static_cast<std::int64_t>(expert), begin, end);
    begin = end;
  }
}

// One product for each expert with rows, for multiply_groups. What cuBLAS calls a and b are our second and
// first factor: it has matrices by columns, and the transpose of a product is the product of the transposes,
// swapped.
struct Groups {
  std::vector<CublasOperation> op_a, op_b;
  std::vector<int> m, n, k, stride_a, stride_b, stride_c, size;
  std::vector<const void*> a, b, c;

  void add(const Factor& first, const Factor& second, const Tensor& out) {
    op_a.push_back(operation_of(second));
    op_b.push_back(operation_of(first));
    m.push_back(static_cast<int>(out.size(1)));
    n.push_back(static_cast<int>(out.size(0)));
    k.push_back(static_cast<int>(first.columns()));
    stride_a.push_back(stride_of(second.matrix));
    stride_b.push_back(stride_of(first.matrix));
    stride_c.push_back(stride_of(out));
    size.push_back(1);
    a.push_back(second.matrix.data());
    b.push_back(first.matrix.data());
    c.push_back(out.data());
  }
};

// cuBLAS multiplies groups of one type; the pointers have to be in device memory.
void multiply_groups(CublasHandle handle, const Groups& groups, const Tensor& factor, Device device,
                     cudaStream_t stream) {
  const std::size_t num_groups = groups.m.size();
  if (num_groups == 0) return;
  std::vector<const void*> pointers(groups.a);
  pointers.insert(pointers.end(), groups.b.begin(), groups.b.end());
  pointers.insert(pointers.end(), groups.c.begin(), groups.c.end());
  const Tensor table =
      flexep::cuda::empty({static_cast<std::int64_t>(pointers.size())}, DType::kInt64, device);
  store_pointers(pointers, table, stream);
  auto* a = static_cast<void**>(table.data());
  const std::vector<float> ones(num_groups, 1.0F), zeros(num_groups, 0.0F);
  check(cublas().multiply_groups(
            handle, groups.op_a.data(), groups.op_b.data(), groups.m.data(), groups.n.data(), groups.k.data(),
            ones.data(), a, type_of(factor), groups.stride_a.data(), a + num_groups, type_of(factor),
            groups.stride_b.data(), zeros.data(), a + 2 * num_groups, type_of(factor), groups.stride_c.data(),
            static_cast<int>(num_groups), groups.size.data(), CublasComputeType::kFloat32),
        "multiply groups of matrices");
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

void CublasProducts::multiply_rows(const ExpertRows& rows, const Factor& weights, const Tensor& out,
                                   cudaStream_t stream) const {
  const bool is_narrow = size_of(out.dtype()) == 2 && out.dtype() == rows.rows.dtype();
  Groups groups;
  for_each_expert(rows.tokens_per_expert, [&](auto expert, auto begin, auto end) {
    if (begin == end) return;
    const Tensor mine = rows.rows.rows(begin, end), result = out.rows(begin, end);
    if (is_narrow)
      groups.add(mine, weights.of_expert(expert), result);
    else
      multiply(mine, weights.of_expert(expert), result, stream);
  });
  check(cublas().set_stream(handle_, stream), "take a stream");
  multiply_groups(handle_, groups, rows.rows, out.device(), stream);
}

// One after the other: a gradient of weights is wider than its factors, and large enough for the whole GPU.
void CublasProducts::multiply_transposed_rows(const ExpertRows& a, const Tensor& b, const Tensor& out,
                                              cudaStream_t stream) const {
  for_each_expert(a.tokens_per_expert, [&](auto expert, auto begin, auto end) {
    multiply(transposed(a.rows.rows(begin, end)), b.rows(begin, end), Factor(out).of_expert(expert).matrix,
             stream);
  });
}

}  // namespace flexep::moe::on_cuda
