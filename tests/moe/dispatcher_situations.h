// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <vector>

#include "dispatcher_cases.h"

/// What may happen to a microbatch on its way: each situation is a change of an ordinary one.
namespace flexep::moe::testing {

struct Situation {
  const char* name;
  std::function<void(Batch& batch)> change_batch = [](Batch&) {};
  std::function<void(MoeConfig& config)> change_config = [](MoeConfig&) {};
  bool is_for_allgather = true;
};

inline void make_probs_dense(Batch& batch) {
  for (std::size_t token = 0; token < batch.probs.size(); ++token)
    for (std::size_t expert = 0; expert < 8; ++expert)
      if (batch.routing_map[token][expert] == 0) batch.probs[token][expert] = 0.25;
}

inline void make_map_dense(Batch& batch) {
  for (Row& probs : batch.probs)
    for (double& prob : probs) prob += 0.5;
  for (Row& map : batch.routing_map) map.assign(8, 1);
}

/// As a router with a capacity factor does it: every third token loses an expert, every fourth all.
inline void drop_pairs(Batch& batch) {
  for (std::size_t token = 0; token < batch.probs.size(); ++token) {
    for (std::size_t expert = 0, seen = 0; expert < 8; ++expert) {
      if (batch.routing_map[token][expert] == 0) continue;
      const bool is_dropped = token % 4 == 0 || (token % 3 == 0 && seen == 0);
      ++seen;
      if (is_dropped) batch.routing_map[token][expert] = batch.probs[token][expert] = 0;
    }
  }
}

inline void exclude_best_experts(Batch& batch) {
  for (std::size_t token = 0; token < batch.probs.size(); token += 2)
    batch.routing_map[token][largest(batch.probs[token], 1)[0]] = 0;
}

inline void send_all_to_one_expert(Batch& batch) {
  for (std::size_t token = 0; token < batch.probs.size(); ++token) {
    batch.probs[token] = batch.routing_map[token] = Row(8);
    batch.probs[token][5] = batch.routing_map[token][5] = 1;
  }
}

inline const std::vector<Situation>& all_situations() {
  static const std::vector<Situation> all = {
      {"RouterProbs"},
      {"DenseProbsWithAMapOfFew", make_probs_dense},
      {"EveryTokenToEveryExpert", make_map_dense},
      {"ZeroProbs",
       [](Batch& batch) {
         for (Row& probs : batch.probs) probs.assign(8, 0);
       }},
      {"DroppedPairs", drop_pairs, [](MoeConfig& config) { config.moe_expert_capacity_factor = 1.0; }},
      {"AMapThatIsRespected", exclude_best_experts,
       [](MoeConfig& config) { config.moe_respect_routing_map = true; }},
      {"AllTokensToOneExpert", send_all_to_one_expert},
      {"LatentRows", [](Batch&) {},
       [](MoeConfig& config) {
         config.hidden_size = 16;
         config.moe_latent_size = 4;
       }},
      {"NoTokensAnywhere",
       [](Batch& batch) { batch = router_batch(std::vector<std::int64_t>(batch.num_tokens.size()), 1); }},
      {"PaddingForQuantisation", [](Batch&) {},
       [](MoeConfig& config) {
         config.fp8 = Fp8Format::kE4M3;
         config.moe_router_padding_for_quantization = true;
       },
       /*is_for_allgather=*/false},
  };
  return all;
}

/// This rank's part of the batch in one situation, with every dispatcher: what differs from the sums, or "".
inline std::string check_situation(const Grid& grid, const Situation& situation, Batch batch,
                                   const std::shared_ptr<ExpertParallelGroup>& group) {
  situation.change_batch(batch);
  std::string mistakes;
  for (const DispatcherKind& kind : all_dispatchers()) {
    if (kind.type == TokenDispatcherType::kAllGather && !situation.is_for_allgather) continue;
    MoeConfig config = config_of(grid, kind);
    situation.change_config(config);
    const std::string mistake = check_layer(config, kind, batch, group);
    if (!mistake.empty()) mistakes += fmt::format("{}: {}\n", situation.name, mistake);
  }
  return mistakes;
}

}  // namespace flexep::moe::testing
