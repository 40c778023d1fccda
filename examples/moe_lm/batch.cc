// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/batch.h"

#include <algorithm>

namespace moe_lm {
namespace {

void resize(Batch& batch, std::int64_t size) {
  batch.targets.resize(static_cast<std::size_t>(size));
  batch.contexts.resize(static_cast<std::size_t>(size * kContextBytes));
}

/// Makes sample `i` of the batch the one whose target is text[position].
void set_sample(std::span<const std::uint8_t> text, std::int64_t position, std::int64_t i, Batch& batch) {
  const std::int64_t num_known = std::min<std::int64_t>(position, kContextBytes);
  const auto context = batch.contexts.begin() + i * kContextBytes;
  const auto known = std::fill_n(context, kContextBytes - num_known, std::uint8_t{0});
  std::copy_n(text.begin() + (position - num_known), num_known, known);
  batch.targets[static_cast<std::size_t>(i)] = text[static_cast<std::size_t>(position)];
}

}  // namespace

BatchSampler::BatchSampler(std::span<const std::uint8_t> text, std::int64_t batch_size, std::uint64_t seed)
    : text_(text), batch_size_(batch_size), random_(seed, "batch") {}

void BatchSampler::draw(std::int64_t step, Range range, Batch& batch) const {
  resize(batch, range.size());
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    const Range strip = share_of(static_cast<std::int64_t>(text_.size()), i, batch_size_);
    const double place = random_.uniform(static_cast<std::uint64_t>(step * batch_size_ + i));
    const auto offset = static_cast<std::int64_t>(place * static_cast<double>(strip.size()));
    set_sample(text_, strip.begin + offset, i - range.begin, batch);
  }
}

void draw_evenly(std::span<const std::uint8_t> text, std::int64_t num_samples, Range range, Batch& batch) {
  resize(batch, range.size());
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    set_sample(text, share_of(static_cast<std::int64_t>(text.size()), i, num_samples).begin, i - range.begin,
               batch);
  }
}

}  // namespace moe_lm
