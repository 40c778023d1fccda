// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/check.h"

namespace flexep::moe {
namespace {

using Json = nlohmann::ordered_json;

void require_at_least(int minimum, const char* name, int value) {
  require_argument(value >= minimum, name, "{} must be at least {}, not {}", name, minimum, value);
}

void require_not_negative(const char* name, double value) {
  require_argument(std::isfinite(value) && value >= 0, name, "{} must be a number of at least 0, not {}",
                   name, value);
}

void require_floating(const char* name, DType dtype) {
  require_argument(dtype == DType::kFloat32 || dtype == DType::kFloat64, name,
                   "{} must be fp32 or fp64, not {}", name, name_of(dtype));
}

void validate_sizes(const MoeConfig& config) {
  require_at_least(1, "hidden_size", config.hidden_size);
  require_at_least(1, "num_moe_experts", config.num_moe_experts);
  require_at_least(1, "moe_ffn_hidden_size", config.moe_ffn_hidden_size);
  require_at_least(1, "expert_model_parallel_size", config.expert_model_parallel_size);
  require_at_least(1, "expert_tensor_parallel_size", config.expert_tensor_parallel_size);
  require_argument(config.num_moe_experts % config.expert_model_parallel_size == 0, "num_moe_experts",
                   "num_moe_experts {} must be a multiple of expert_model_parallel_size {}",
                   config.num_moe_experts, config.expert_model_parallel_size);
  require_argument(config.moe_ffn_hidden_size % config.expert_tensor_parallel_size == 0,
                   "moe_ffn_hidden_size",
                   "moe_ffn_hidden_size {} must be a multiple of expert_tensor_parallel_size {}",
                   config.moe_ffn_hidden_size, config.expert_tensor_parallel_size);
}

void validate_router(const MoeConfig& config) {
  require_argument(1 <= config.moe_router_topk && config.moe_router_topk <= config.num_moe_experts,
                   "moe_router_topk", "moe_router_topk must be in [1, num_moe_experts = {}], not {}",
                   config.num_moe_experts, config.moe_router_topk);
  const bool is_softmax = config.moe_router_score_function == RouterScoreFunction::kSoftmax;
  require_argument(is_softmax || !config.moe_router_pre_softmax, "moe_router_pre_softmax",
                   "moe_router_pre_softmax needs moe_router_score_function softmax");
  // A softmax over one chosen expert is 1 whatever the logits are: the router would have no gradient.
  require_argument(config.moe_router_topk > 1 || !is_softmax || config.moe_router_pre_softmax,
                   "moe_router_topk", "moe_router_topk 1 with softmax needs moe_router_pre_softmax");
  require_floating("moe_router_dtype", config.moe_router_dtype);
  require_not_negative("moe_router_topk_scaling_factor", config.moe_router_topk_scaling_factor);
  require_not_negative("moe_aux_loss_coeff", config.moe_aux_loss_coeff);
  require_argument(config.moe_aux_loss_coeff == 0 ||
                       config.moe_router_load_balancing_type == RouterLoadBalancing::kAuxLoss,
                   "moe_aux_loss_coeff",
                   "moe_aux_loss_coeff {} needs moe_router_load_balancing_type aux_loss",
                   config.moe_aux_loss_coeff);
}

const MoeOption& find_option(const std::string& name) {
  const auto options = moe_options();
  const auto found =
      std::find_if(options.begin(), options.end(), [&](const auto& option) { return option.name == name; });
  if (found == options.end()) throw InvalidArgument(name, fmt::format("unknown option \"{}\"", name));
  return *found;
}

// The value as option.set reads it; its JSON type must be the option's.
std::string text_of(const MoeOption& option, const Json& value) {
  const auto require_type = [&](bool matches, const char* type) {
    if (!matches)
      throw InvalidArgument(std::string(option.name),
                            fmt::format("{} must be {} in JSON, not {}", option.name, type, value.dump()));
  };
  switch (option.type) {
    case OptionType::kInteger:
      require_type(value.is_number_integer(), "an integer");
      return value.dump();
    case OptionType::kNumber:
      require_type(value.is_number(), "a number");
      return value.dump();
    case OptionType::kBoolean:
      require_type(value.is_boolean(), "true or false");
      return value.dump();
    case OptionType::kChoice:
      require_type(value.is_string(), "a string");
      return value.get<std::string>();
  }
  return {};
}

}  // namespace

void MoeConfig::validate() const {
  validate_sizes(*this);
  validate_router(*this);
  require_at_least(0, "moe_flex_dispatcher_num_sms", moe_flex_dispatcher_num_sms);
  require_floating("params_dtype", params_dtype);
  require_not_negative("init_method_std", init_method_std);
}

MoeConfig MoeConfig::from_json(std::string_view text) {
  const auto json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  require_argument(json.is_object(), "json", "the options of a MoE layer must be one JSON object");
  MoeConfig config;
  for (const auto& item : json.items()) {
    const MoeOption& option = find_option(item.key());
    option.set(config, text_of(option, item.value()));
  }
  return config;
}

std::string MoeConfig::to_json() const {
  auto json = Json::object();
  for (const auto& option : moe_options()) {
    const std::string text = option.get(*this);
    const bool is_text = option.type == OptionType::kChoice;
    json[std::string(option.name)] = is_text ? Json(text) : Json::parse(text);
  }
  return json.dump();
}

}  // namespace flexep::moe
