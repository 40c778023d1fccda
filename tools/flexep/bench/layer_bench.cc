// SPDX-License-Identifier: Apache-2.0
#include "bench/layer_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <type_traits>

#include "bench/layer_cases.h"
#include "bench/layer_check.h"

namespace flexep::tool {
namespace {

using StepSeconds = std::array<double, kLayerSteps.size()>;
constexpr std::size_t kRouterGemms = 1, kExperts = 3, kSharedExpert = 5;  // in kLayerSteps

/// One run on one rank.
struct LayerSample {
  Span span;
  StepSeconds steps{};
};
static_assert(std::is_trivially_copyable_v<LayerSample>);
using LayerSamples = std::vector<LayerSample>;

StepSeconds seconds_of(const moe::MoeLayer& layer) {
  const moe::MoeSeconds& seconds = layer.seconds();
  return {seconds.router - seconds.router_gemms,
          seconds.router_gemms,
          seconds.dispatch,
          seconds.experts,
          seconds.combine,
          seconds.shared_expert};
}

/// What passes on this rank from construction on.
class LayerClock {
 public:
  explicit LayerClock(const moe::MoeLayer& layer) : layer_(layer), steps_(seconds_of(layer)) {}

  LayerSample read() const {
    LayerSample sample{.span = {begin_ns_, now_ns(), thread_cpu_ns() - begin_cpu_ns_},
                       .steps = seconds_of(layer_)};
    for (std::size_t i = 0; i < steps_.size(); ++i) sample.steps[i] -= steps_[i];
    return sample;
  }

 private:
  const moe::MoeLayer& layer_;
  StepSeconds steps_;
  std::int64_t begin_cpu_ns_ = thread_cpu_ns();
  std::int64_t begin_ns_ = now_ns();
};

struct Inputs {
  Tensor hidden;
  Tensor grad_output;
};

/// A layer, and what it took.
struct TimedLayer {
  std::string name;
  moe::MoeLayer layer;
  LayerSamples forward;
  LayerSamples forward_backward;
  bool verified = true;
};

LayerValues run(TimedLayer& timed, Communicator& comm, const Inputs& inputs) {
  comm.barrier();
  const LayerClock clock(timed.layer);
  auto forward = timed.layer.forward(inputs.hidden);
  timed.forward.push_back(clock.read());
  auto gradients =
      timed.layer.backward(std::move(forward.context), {.output = inputs.grad_output, .aux_loss = 0.0});
  timed.forward_backward.push_back(clock.read());
  return {forward.output, std::move(gradients)};
}

bool holds(const BenchOptions& options, Communicator& comm, const TimedLayer& timed,
           const LayerValues& expected, const LayerValues& got) {
  const Finding finding = compare_layers(options, expected, got);
  if (finding) fmt::print(stderr, "flexep: rank {}: layer with {}: {}\n", comm.rank(), timed.name, *finding);
  const auto answers = comm.all_gather(static_cast<char>(!finding));
  return std::all_of(answers.begin(), answers.end(), [](char answer) { return answer != 0; });
}

/// Runs every layer once and compares. The first one is what others are held against, and is itself as good
/// as its agreement with the second, whose code is another.
void verify(const BenchOptions& options, Communicator& comm, const Inputs& inputs,
            std::vector<TimedLayer>& layers) {
  const LayerValues expected = run(layers.front(), comm, inputs);
  for (std::size_t i = 1; i < layers.size(); ++i) {
    const LayerValues got = run(layers[i], comm, inputs);
    if (!holds(options, comm, layers[i], expected, got)) layers[i].verified = false;
  }
  if (!layers[1].verified) layers[0].verified = false;
}

std::vector<LayerSamples> of_all_ranks(Communicator& comm, const LayerSamples& mine) {
  std::vector<LayerSamples> all;
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine)))) {
    auto& samples = all.emplace_back(mine.size());
    std::memcpy(samples.data(), bytes.data(), bytes.size());
  }
  return all;
}

/// The median over iterations of what `value` makes of an iteration's samples.
template <typename Value>
double median_over(const std::vector<LayerSamples>& ranks, Value value) {
  std::vector<double> values;
  for (std::size_t i = 0; i < ranks.front().size(); ++i) {
    LayerSamples of_iteration;
    for (const LayerSamples& samples : ranks) of_iteration.push_back(samples[i]);
    values.push_back(value(of_iteration));
  }
  return median_of(std::move(values));
}

double rest_of(const LayerSamples& of_ranks) {
  std::int64_t begin = of_ranks.front().span.begin_ns, end = 0;
  double gemms = 0;
  for (const LayerSample& sample : of_ranks) {
    begin = std::min(begin, sample.span.begin_ns);
    end = std::max(end, sample.span.end_ns);
    gemms = std::max(gemms, sample.steps[kRouterGemms] + sample.steps[kExperts]);
  }
  return static_cast<double>(end - begin) / 1000 - 1e6 * gemms;
}

LayerResult summarise(Communicator& comm, std::string op, const TimedLayer& timed, const LayerSamples& mine) {
  Samples spans;
  for (const LayerSample& sample : mine) spans.push_back(sample.span);
  LayerResult result{.op = std::move(op), .dispatcher = timed.name};
  result.times = *summarise(comm, spans, /*num_warmups=*/0);
  const auto ranks = of_all_ranks(comm, mine);
  result.rest_us = median_over(ranks, rest_of);
  for (std::size_t step = 0; step < kLayerSteps.size(); ++step) {
    result.steps_us[step] = median_over(ranks, [&](const LayerSamples& of_ranks) {
      double sum = 0;
      for (const LayerSample& sample : of_ranks) sum += sample.steps[step];
      return 1e6 * sum / static_cast<double>(of_ranks.size());
    });
  }
  return result;
}

/// For each result of a layer with overlap, against that of the layer without.
void add_hidden_parts(std::vector<LayerResult>& results) {
  constexpr std::string_view kOverlap = "+overlap";
  for (LayerResult& result : results) {
    if (!result.dispatcher.ends_with(kOverlap)) continue;
    const auto name = result.dispatcher.substr(0, result.dispatcher.size() - kOverlap.size());
    const auto without = std::find_if(results.begin(), results.end(), [&](const LayerResult& other) {
      return other.op == result.op && other.dispatcher == name;
    });
    result.shared_expert_hidden = 1 - result.steps_us[kSharedExpert] / without->steps_us[kSharedExpert];
  }
}

}  // namespace

bool layer_bench_is_available() {
  return true;
}

std::vector<LayerResult> measure_layers(const BenchOptions& options, const Communicator& communicator) {
  Communicator comm = communicator;
  const auto group = std::make_shared<moe::ExpertParallelGroup>(comm);
  const Shape shape({options.num_tokens, options.hidden});
  const std::uint64_t seed = 2 * (options.seed * 256 + static_cast<std::uint64_t>(comm.rank()));
  const Inputs inputs{.hidden = normal_tensor(shape, options.element_type(), seed),
                      .grad_output = normal_tensor(shape, options.element_type(), seed + 1)};

  std::vector<TimedLayer> layers;
  for (const LayerCase& each : layer_cases(options))
    layers.push_back({.name = each.name, .layer = moe::MoeLayer(each.config, group, options.seed)});

  verify(options, comm, inputs, layers);
  for (int i = 0; i < options.num_warmups; ++i)
    for (TimedLayer& layer : layers) run(layer, comm, inputs);
  for (TimedLayer& layer : layers) layer.forward.clear(), layer.forward_backward.clear();
  for (int i = 0; i < options.num_iters; ++i)
    for (TimedLayer& layer : layers) run(layer, comm, inputs);

  std::vector<LayerResult> results;
  for (const TimedLayer& layer : layers)
    results.push_back(summarise(comm, "layer_forward", layer, layer.forward));
  for (const TimedLayer& layer : layers)
    results.push_back(summarise(comm, "layer_forward_backward", layer, layer.forward_backward));
  add_hidden_parts(results);

  verify(options, comm, inputs, layers);
  for (std::size_t i = 0; i < results.size(); ++i) results[i].verified = layers[i % layers.size()].verified;
  return results;
}

}  // namespace flexep::tool
