// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "moe_lm/cross_entropy.h"

namespace moe_lm {
namespace {

constexpr int kNumBytes = 256;

double deviation_for(int num_inputs) {
  return 1 / std::sqrt(static_cast<double>(num_inputs));
}

}  // namespace

template <typename T>
ByteModel<T>::ByteModel(const ModelConfig& config, std::shared_ptr<flexep::moe::ExpertParallelGroup> group)
    : embedding_("embedding", config.embedding_dim),
      input_("input", kContextBytes * config.embedding_dim, config.moe.hidden_size),
      norm_("norm", config.moe.hidden_size),
      output_("output", config.moe.hidden_size, kNumBytes),
      activations_(allocate(config)),
      gradients_(allocate(config)) {
  for (int b = 0; b < config.num_blocks; ++b) {
    const std::string name = fmt::format("block{}", b);
    blocks_.emplace_back(name, config.moe, group, config.max_samples,
                         RandomStream(config.seed, name).bits(0));
  }
  initialize(config);
  parameters_.replicated = {&embedding_.table, &input_.weight, &input_.bias};
  for (MoeBlock<T>& block : blocks_) block.append_parameters(parameters_);
  parameters_.replicated.insert(parameters_.replicated.end(), {&norm_.gain, &output_.weight, &output_.bias});
}

template <typename T>
typename ByteModel<T>::Activations ByteModel<T>::allocate(const ModelConfig& config) {
  const auto rows = [&](std::int64_t width) {
    return flexep::Tensor::zeros({config.max_samples, width}, flexep::kDTypeOf<T>);
  };
  Activations a = {.embedded = rows(kContextBytes * config.embedding_dim),
                   .normed = rows(config.moe.hidden_size),
                   .logits = rows(kNumBytes)};
  for (int b = 0; b <= config.num_blocks; ++b) a.hidden.push_back(rows(config.moe.hidden_size));
  return a;
}

template <typename T>
typename ByteModel<T>::Activations ByteModel<T>::Activations::rows(std::int64_t num_samples) const {
  Activations a = {.embedded = embedded.rows(0, num_samples),
                   .normed = normed.rows(0, num_samples),
                   .logits = logits.rows(0, num_samples)};
  for (const flexep::Tensor& h : hidden) a.hidden.push_back(h.rows(0, num_samples));
  return a;
}

/// Biases start at zero, and the MoE layers draw their own weights.
template <typename T>
void ByteModel<T>::initialize(const ModelConfig& config) {
  randomize(embedding_.table, 1.0, config.seed);
  randomize(input_.weight, deviation_for(kContextBytes * config.embedding_dim), config.seed);
  randomize(output_.weight, deviation_for(config.moe.hidden_size), config.seed);
}

template <typename T>
PassResult ByteModel<T>::forward(const Batch& batch, Ablation ablation, bool is_training,
                                 const Activations& a) {
  PassResult result;
  embedding_.forward(batch.contexts, a.embedded);
  input_.forward(a.embedded, a.hidden[0]);
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    auto statistics = blocks_[b].forward(a.hidden[b], a.hidden[b + 1], ablation, is_training);
    result.aux_loss += statistics.aux_loss;
    result.tokens_per_expert.push_back(std::move(statistics.tokens_per_expert));
  }
  norm_.forward(a.hidden.back(), a.normed);
  output_.forward(a.normed, a.logits);
  return result;
}

/// `grad.logits` is given.
template <typename T>
void ByteModel<T>::backward(const Batch& batch, const Activations& a, const Activations& grad) {
  output_.backward(a.normed, grad.logits, grad.normed);
  std::ranges::fill(grad.hidden.back().template values<T>(), T{0});
  norm_.backward(a.hidden.back(), grad.normed, grad.hidden.back());
  for (std::size_t b = blocks_.size(); b-- > 0;) {
    blocks_[b].backward(a.hidden[b], grad.hidden[b + 1], grad.hidden[b]);
  }
  input_.backward(a.embedded, grad.hidden[0], grad.embedded);
  embedding_.backward(batch.contexts, grad.embedded);
}

template <typename T>
PassResult ByteModel<T>::evaluate(const Batch& batch, Ablation ablation) {
  const Activations a = activations_.rows(batch.size());
  PassResult result = forward(batch, ablation, /*is_training=*/false, a);
  result.loss = cross_entropy<T>(a.logits, batch.targets);
  return result;
}

template <typename T>
PassResult ByteModel<T>::train(const Batch& batch, double loss_scale) {
  const Activations a = activations_.rows(batch.size());
  PassResult result = forward(batch, Ablation::kNone, /*is_training=*/true, a);
  const Activations grad = gradients_.rows(batch.size());
  result.loss = cross_entropy_backward<T>(a.logits, batch.targets, loss_scale, grad.logits);
  backward(batch, a, grad);
  return result;
}

template <typename T>
void ByteModel<T>::finish_step() {
  for (MoeBlock<T>& block : blocks_) block.finish_step();
}

template <typename T>
double ByteModel<T>::dispatch_seconds() const {
  double sum = 0;
  for (const MoeBlock<T>& block : blocks_) sum += block.seconds().dispatch;
  return sum;
}

template <typename T>
double ByteModel<T>::combine_seconds() const {
  double sum = 0;
  for (const MoeBlock<T>& block : blocks_) sum += block.seconds().combine;
  return sum;
}

template class ByteModel<float>;
template class ByteModel<double>;

}  // namespace moe_lm
