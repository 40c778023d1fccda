// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <vector>

#include "flexep/moe/moe_config.h"
#include "flexep/moe/moe_layer.h"

/// The oracle of the MoE layer: the whole batch in one process, in fp64 and the plainest code, forward and
/// backward. It knows no ranks: what it says holds for any division of tokens and experts between them.
namespace flexep::moe::reference {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;  ///< [rows][columns]

/// A tensor [rows, columns], bf16, fp16, fp32 or fp64, and an fp64 tensor of a matrix.
Matrix to_matrix(const Tensor& tensor);
Tensor to_tensor(const Matrix& matrix, std::int64_t num_columns);

/// Expert: fc1 [2F][H], gate rows first; fc2 [H][F].
struct Expert {
  Matrix fc1;
  Matrix fc2;
};

struct Parameters {
  Matrix router_weight;  ///< [E][H]
  std::vector<Expert> experts;
};

/// The whole layer's parameters, or gradients, from every rank's share in rank order. The router's are taken
/// from rank 0.
Parameters gather_parameters(const MoeConfig& config, std::span<const MoeParameters<Tensor>> shares);

struct Routing {
  Matrix scores;                         ///< [T][E], softmax over all experts, or sigmoid
  std::vector<std::vector<int>> chosen;  ///< [T][K], best first, of equal ones the lower first
  Matrix probs;                          ///< [T][E], 0 where not chosen
  double aux_loss = 0;
};

Routing route(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight);

struct RoutingGradients {
  Matrix hidden;
  Matrix router_weight;
};

RoutingGradients route_backward(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
                                const Matrix& grad_probs, double grad_aux_loss);

struct Permuted {
  Matrix rows;
  Row probs;
  std::vector<int> sorted_indices;     ///< source row of each permuted row
  std::vector<int> tokens_per_expert;  ///< [experts]
};

/// Rows copied expert by expert, source row ascending within an expert. @param routing_map [rows][experts],
/// not 0 = goes there.
Permuted permute(const Matrix& rows, const Matrix& routing_map, const Matrix& probs);

/// Sums of each source row's copies.
Matrix unpermute(const Matrix& permuted, std::span<const int> sorted_indices, std::size_t num_rows);

struct LayerOutput {
  Matrix output;
  double aux_loss = 0;
};

LayerOutput moe_layer(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden);

struct LayerGradients {
  Matrix hidden;
  Matrix probs;  ///< [T][E], 0 where not chosen
  Parameters parameters;
};

LayerGradients moe_layer_backward(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                                  const Matrix& grad_output, double grad_aux_loss);

}  // namespace flexep::moe::reference
