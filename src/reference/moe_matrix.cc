// SPDX-License-Identifier: Apache-2.0
#include "reference/moe_matrix.h"

#include <algorithm>

namespace flexep::moe::reference {
namespace {

double value_at(const Tensor& tensor, std::size_t i) {
  switch (tensor.dtype()) {
    case DType::kBFloat16:
      return static_cast<float>(tensor.data<BFloat16>()[i]);
    case DType::kFloat16:
      return static_cast<float>(tensor.data<Float16>()[i]);
    case DType::kFloat32:
      return tensor.data<float>()[i];
    case DType::kFloat64:
      return tensor.data<double>()[i];
    case DType::kInt32:
      return tensor.data<std::int32_t>()[i];
    case DType::kInt64:
      return static_cast<double>(tensor.data<std::int64_t>()[i]);
    case DType::kFloat8E4M3:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
      break;
  }
  return 0;
}

// The share's expert, as rows [begin, begin + count) of a matrix with `columns` columns.
Matrix matrix_of_expert(const Tensor& weights, std::int64_t expert) {
  return to_matrix(weights.rows(expert, expert + 1).reshape({weights.size(1), weights.size(2)}));
}

Matrix matrix_or_none(const Tensor& tensor) {
  return tensor ? to_matrix(tensor) : Matrix();
}

// Puts a tensor rank's slice of F columns to where it belongs in the whole expert.
void place_slice(const Matrix& fc1, const Matrix& fc2, std::size_t first_column, std::size_t ffn,
                 Expert& expert) {
  const std::size_t local_ffn = fc1.size() / 2;
  for (std::size_t f = 0; f < local_ffn; ++f) {
    expert.fc1[first_column + f] = fc1[f];
    expert.fc1[ffn + first_column + f] = fc1[local_ffn + f];
    for (std::size_t h = 0; h < fc2.size(); ++h) expert.fc2[h][first_column + f] = fc2[h][f];
  }
}

}  // namespace

Matrix to_matrix(const Tensor& tensor) {
  const auto num_columns = static_cast<std::size_t>(tensor.size(1));
  Matrix matrix = zeros(static_cast<std::size_t>(tensor.size(0)), num_columns);
  for (std::size_t i = 0; i < matrix.size(); ++i)
    for (std::size_t j = 0; j < num_columns; ++j) matrix[i][j] = value_at(tensor, i * num_columns + j);
  return matrix;
}

Tensor to_tensor(const Matrix& matrix, std::int64_t num_columns) {
  Tensor tensor = Tensor::empty({static_cast<std::int64_t>(matrix.size()), num_columns}, DType::kFloat64);
  double* to = tensor.data<double>();
  for (const Row& row : matrix) to = std::copy(row.begin(), row.end(), to);
  return tensor;
}

Parameters gather_parameters(const MoeConfig& config, std::span<const MoeParameters<Tensor>> shares) {
  const auto hidden = static_cast<std::size_t>(config.dispatched_hidden_size());
  const auto ffn = static_cast<std::size_t>(config.moe_ffn_hidden_size);
  const Expert no_expert{.fc1 = zeros(2 * ffn, hidden), .fc2 = zeros(hidden, ffn)};
  Parameters whole{
      .router_weight = to_matrix(shares.front().router_weight),
      .experts = std::vector<Expert>(static_cast<std::size_t>(config.num_moe_experts), no_expert),
      .latent_down = matrix_or_none(shares.front().latent.down),
      .latent_up = matrix_or_none(shares.front().latent.up),
      .shared_expert = {.fc1 = matrix_or_none(shares.front().shared_expert.fc1),
                        .fc2 = matrix_or_none(shares.front().shared_expert.fc2)},
      .shared_gate = matrix_or_none(shares.front().shared_expert.gate)};
  const auto tp = static_cast<std::size_t>(config.expert_tensor_parallel_size);
  const auto num_local_experts = static_cast<std::size_t>(config.num_local_experts());
  for (std::size_t rank = 0; rank < shares.size(); ++rank) {
    const std::size_t tp_idx = rank % tp, ep_idx = rank / tp;
    const auto& share = shares[rank].experts;
    for (std::size_t local = 0; local < num_local_experts; ++local)
      place_slice(matrix_of_expert(share.fc1, static_cast<std::int64_t>(local)),
                  matrix_of_expert(share.fc2, static_cast<std::int64_t>(local)), tp_idx * ffn / tp, ffn,
                  whole.experts[ep_idx * num_local_experts + local]);
  }
  return whole;
}

}  // namespace flexep::moe::reference
