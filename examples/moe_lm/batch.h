// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "moe_lm/corpus.h"
#include "moe_lm/random.h"
#include "moe_lm/share.h"

namespace moe_lm {

/// Bytes that the model sees of the past.
constexpr int kContextBytes = 32;

/// Samples: predict targets[i] from the kContextBytes before it.
struct Batch {
  Bytes contexts;  ///< [size, kContextBytes], oldest byte first; 0 before the start of the text
  Bytes targets;   ///< [size]
  std::int64_t size() const { return static_cast<std::int64_t>(targets.size()); }
};

/// Draws the batches of a training run.
///
/// The global batch is a function of the seed and the step alone: sample i comes from a random place in the
/// i-th of `batch_size` equal strips of the text. A rank takes a contiguous range of the samples and so reads
/// only its share of the text.
class BatchSampler {
 public:
  /// `text` must outlive the sampler and hold at least one byte.
  BatchSampler(std::span<const std::uint8_t> text, std::int64_t batch_size, std::uint64_t seed);

  /// Samples `range` of the global batch of `step`.
  void draw(std::int64_t step, Range range, Batch& batch) const;

 private:
  std::span<const std::uint8_t> text_;
  std::int64_t batch_size_;
  RandomStream random_;
};

/// Samples `range` of `num_samples` that are spread evenly over the text.
void draw_evenly(std::span<const std::uint8_t> text, std::int64_t num_samples, Range range, Batch& batch);

}  // namespace moe_lm
