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
  Matrix latent_down, latent_up;  ///< [L][H] and [H][L]; empty without moe_latent_size
  Expert shared_expert;           ///< fc1 [2S][H], fc2 [H][S]; empty without a shared expert
  Matrix shared_gate;             ///< [1][H]; empty without moe_shared_expert_gate
};

/// The whole layer's parameters, or gradients, from every rank's share in rank order. What is replicated is
/// taken from rank 0.
Parameters gather_parameters(const MoeConfig& config, std::span<const MoeParameters<Tensor>> shares);

/// What routing depends on besides hidden, weight and configuration; see RouterInput.
struct RouteInput {
  Row expert_bias;                ///< [E] or empty
  Row past_load;                  ///< [E] or empty
  std::size_t num_sequences = 1;  ///< token t belongs to sequence t % num_sequences
};

struct Routing {
  Matrix scores;                         ///< [T][E], of all experts
  std::vector<std::vector<int>> chosen;  ///< [T][K], best first, of equal ones the lower first
  Matrix map;                            ///< [T][E], 1 where capacity leaves the pair, or pads with it
  Matrix probs;                          ///< [T][E], 0 outside the map
  double aux_loss = 0;                   ///< load balancing and z-loss
};

/// Capacity counts all tokens as one rank's. Knows neither sinkhorn nor anything random.
Routing route(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
              const RouteInput& input = {});

struct RoutingGradients {
  Matrix hidden;
  Matrix router_weight;
};

RoutingGradients route_backward(const MoeConfig& config, const Matrix& hidden, const Matrix& router_weight,
                                const Matrix& grad_probs, double grad_aux_loss, const RouteInput& input = {});

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

LayerOutput moe_layer(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                      const RouteInput& input = {});

struct LayerGradients {
  Matrix hidden;
  Matrix probs;  ///< [T][E], 0 where not chosen
  Parameters parameters;
};

LayerGradients moe_layer_backward(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                                  const Matrix& grad_output, double grad_aux_loss,
                                  const RouteInput& input = {});

}  // namespace flexep::moe::reference
