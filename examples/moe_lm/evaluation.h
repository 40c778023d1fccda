// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "flexep/communicator.h"
#include "moe_lm/model.h"

namespace moe_lm {

/// Nats to bits.
constexpr double kBitsPerNat = 1.4426950408889634;

/// Measures a model on text that it does not train on: always the same samples, shared among the ranks.
class Evaluator {
 public:
  /// @param text         must outlive the evaluator.
  /// @param num_samples  spread evenly over the text; at most all of it.
  /// @param batch_size   samples of one pass, over all ranks.
  Evaluator(std::span<const std::uint8_t> text, std::int64_t num_samples, std::int64_t batch_size);

  /// Mean loss in bits per byte, the same on every rank. Collective.
  double bits_per_byte(flexep::Communicator& comm, ByteModel<float>& model,
                       Ablation ablation = Ablation::kNone);

 private:
  std::span<const std::uint8_t> text_;
  std::int64_t num_samples_;
  std::int64_t batch_size_;
  Batch batch_;
};

}  // namespace moe_lm
