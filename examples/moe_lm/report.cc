// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

namespace moe_lm {
namespace {

using Json = nlohmann::ordered_json;

Json config_of(const Options& options) {
  return {{"text", options.text_files},
          {"text_bytes", options.text_bytes},
          {"ranks", options.num_ranks},
          {"transport", options.transport},
          {"device", options.device},
          {"steps", options.num_steps},
          {"batch", options.batch_size},
          {"heldout_samples", options.heldout_samples},
          {"learning_rate", options.learning_rate},
          {"seed", options.seed},
          {"blocks", options.num_blocks},
          {"embedding_dim", options.embedding_dim},
          {"moe", Json::parse(options.moe.to_json())}};
}

double worst_expert_load(const TrainingResult& result) {
  double worst = 0;
  for (const Progress& progress : result.progress)
    worst = std::max(worst, progress.expert_load_max_over_mean);
  return worst;
}

Json to_json(const Options& options, const TrainingResult& result, double unigram_bpb) {
  std::vector<double> curve;
  std::vector<std::int64_t> steps;
  for (const Progress& progress : result.progress) {
    curve.push_back(progress.heldout_bpb);
    steps.push_back(progress.step);
  }
  return {{"config", config_of(options)},
          {"unigram_bpb", unigram_bpb},
          {"heldout_bpb", curve.back()},
          {"heldout_bpb_curve", curve},
          {"heldout_steps", steps},
          {"train_loss", result.train_loss},
          {"tokens_per_s", result.tokens_per_s},
          {"expert_load_max_over_mean", worst_expert_load(result)},
          {"ablation_zero_moe_bpb", result.ablation_zero_moe_bpb},
          {"ablation_shuffled_experts_bpb", result.ablation_shuffled_experts_bpb}};
}

}  // namespace

std::string progress_line(const Progress& progress, const Options& options) {
  const auto seconds = static_cast<int>(progress.seconds_left + 0.5);
  return fmt::format(
      "step {:>{}}/{}  held-out {:.3f} bits/byte  {:.0f} tokens/s  expert load {:.2f} max/mean  "
      "dispatch {:2.0f}%  combine {:2.0f}%  {}:{:02} left",
      progress.step, fmt::formatted_size("{}", options.num_steps), options.num_steps, progress.heldout_bpb,
      progress.tokens_per_s, progress.expert_load_max_over_mean, 100 * progress.dispatch_share,
      100 * progress.combine_share, seconds / 60, seconds % 60);
}

std::string summary(const TrainingResult& result, double unigram_bpb) {
  const double heldout_bpb = result.progress.back().heldout_bpb;
  return fmt::format(
      "held-out text: {:.3f} bits/byte; a code that knows only the frequency of each byte takes {:.3f}\n"
      "without the MoE layers' output: {:.3f}; with tokens sent to the wrong experts: {:.3f}\n"
      "{:.0f} tokens/s in training; largest expert load {:.2f} times the mean",
      heldout_bpb, unigram_bpb, result.ablation_zero_moe_bpb, result.ablation_shuffled_experts_bpb,
      result.tokens_per_s, worst_expert_load(result));
}

void write_json(const Options& options, const TrainingResult& result, double unigram_bpb) {
  std::ofstream out(options.json_file);
  out << to_json(options, result, unigram_bpb).dump(2) << '\n';
  out.close();
  if (!out)
    throw std::system_error(errno, std::generic_category(),
                            fmt::format("cannot write {}", options.json_file));
}

}  // namespace moe_lm
