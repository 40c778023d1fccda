// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/evaluation.h"

#include <algorithm>

namespace moe_lm {

Evaluator::Evaluator(std::span<const std::uint8_t> text, std::int64_t num_samples, std::int64_t batch_size)
    : text_(text),
      num_samples_(std::min(num_samples, static_cast<std::int64_t>(text.size()))),
      batch_size_(batch_size) {}

double Evaluator::bits_per_byte(flexep::Communicator& comm, ByteModel<float>& model, Ablation ablation) {
  double loss = 0;
  for (std::int64_t begin = 0; begin < num_samples_; begin += batch_size_) {
    const Range share = share_of(std::min(batch_size_, num_samples_ - begin), comm.rank(), comm.num_ranks());
    draw_evenly(text_, num_samples_, {.begin = begin + share.begin, .end = begin + share.end}, batch_);
    loss += model.evaluate(batch_, ablation).loss;
  }
  comm.all_reduce_sum(std::span(&loss, 1));
  return loss / static_cast<double>(num_samples_) * kBitsPerNat;
}

}  // namespace moe_lm
