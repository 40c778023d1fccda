// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "common/check.h"
#include "flexep/moe/moe_config.h"

namespace flexep::moe {
namespace {

template <typename T>
T parse_number(std::string_view name, std::string_view text, const char* what) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    throw InvalidArgument(std::string(name), fmt::format("{} must be {}, not \"{}\"", name, what, text));
  return value;
}

MoeOption integer(std::string_view name, int MoeConfig::*member, std::string_view help) {
  return {
      .name = name,
      .type = OptionType::kInteger,
      .help = help,
      .get = [member](const MoeConfig& config) { return fmt::to_string(config.*member); },
      .set = [=](MoeConfig& config,
                 std::string_view text) { config.*member = parse_number<int>(name, text, "an integer"); }};
}

MoeOption number(std::string_view name, double MoeConfig::*member, std::string_view help) {
  return {
      .name = name,
      .type = OptionType::kNumber,
      .help = help,
      .get = [member](const MoeConfig& config) { return fmt::to_string(config.*member); },
      .set = [=](MoeConfig& config,
                 std::string_view text) { config.*member = parse_number<double>(name, text, "a number"); }};
}

MoeOption boolean(std::string_view name, bool MoeConfig::*member, std::string_view help) {
  return {.name = name,
          .type = OptionType::kBoolean,
          .help = help,
          .get = [member](const MoeConfig& config) { return config.*member ? "true" : "false"; },
          .set =
              [=](MoeConfig& config, std::string_view text) {
                if (text != "true" && text != "false")
                  throw InvalidArgument(std::string(name),
                                        fmt::format("{} must be true or false, not \"{}\"", name, text));
                config.*member = text == "true";
              }};
}

template <typename T>
struct Choices {
  std::vector<std::pair<std::string_view, T>> available;
  std::vector<std::string_view> not_available_yet = {};  // legal in Megatron

  T parse(std::string_view name, std::string_view text) const {
    std::vector<std::string_view> names;
    for (const auto& [known, value] : available) {
      if (known == text) return value;
      names.push_back(known);
    }
    const bool is_known = std::count(not_available_yet.begin(), not_available_yet.end(), text) > 0;
    throw InvalidArgument(std::string(name),
                          fmt::format("{} \"{}\" is not {}; available: {}", name, text,
                                      is_known ? "available yet" : "a legal value", fmt::join(names, ", ")));
  }

  std::string name_of(T value) const {
    const auto found = std::find_if(available.begin(), available.end(),
                                    [value](const auto& choice) { return choice.second == value; });
    return std::string(found->first);
  }
};

template <typename T>
MoeOption choice(std::string_view name, T MoeConfig::*member, std::string_view help,
                 const Choices<T>& choices) {
  return {
      .name = name,
      .type = OptionType::kChoice,
      .help = help,
      .get = [=](const MoeConfig& config) { return choices.name_of(config.*member); },
      .set = [=](MoeConfig& config, std::string_view text) { config.*member = choices.parse(name, text); }};
}

const Choices<DType> kFloatingTypes{{{"fp32", DType::kFloat32}, {"fp64", DType::kFloat64}}};

std::vector<MoeOption> make_options() {
  using C = MoeConfig;
  return {
      integer("hidden_size", &C::hidden_size, "Width of a token's row"),
      integer("num_moe_experts", &C::num_moe_experts, "Experts of a layer, over all ranks"),
      integer("moe_ffn_hidden_size", &C::moe_ffn_hidden_size, "Width inside an expert"),
      integer("expert_model_parallel_size", &C::expert_model_parallel_size,
              "Groups of ranks that the experts are divided between"),
      integer("expert_tensor_parallel_size", &C::expert_tensor_parallel_size,
              "Ranks that share each expert, a slice of moe_ffn_hidden_size each"),
      integer("moe_router_topk", &C::moe_router_topk, "Experts that each token goes to"),
      choice<RouterScoreFunction>(
          "moe_router_score_function", &C::moe_router_score_function, "softmax | sigmoid",
          {{{"softmax", RouterScoreFunction::kSoftmax}, {"sigmoid", RouterScoreFunction::kSigmoid}}}),
      boolean("moe_router_pre_softmax", &C::moe_router_pre_softmax,
              "Softmax over all experts before the top k is chosen, instead of over the chosen"),
      choice<DType>("moe_router_dtype", &C::moe_router_dtype, "fp32 | fp64: arithmetic of the router",
                    kFloatingTypes),
      number("moe_router_topk_scaling_factor", &C::moe_router_topk_scaling_factor,
             "Factor on the probabilities of the chosen experts"),
      choice<RouterLoadBalancing>(
          "moe_router_load_balancing_type", &C::moe_router_load_balancing_type, "aux_loss | none",
          {{{"aux_loss", RouterLoadBalancing::kAuxLoss}, {"none", RouterLoadBalancing::kNone}},
           {"seq_aux_loss", "global_aux_loss", "sinkhorn"}}),
      number("moe_aux_loss_coeff", &C::moe_aux_loss_coeff, "Weight of the load-balancing loss; 0 = none"),
      choice<TokenDispatcherType>("moe_token_dispatcher_type", &C::moe_token_dispatcher_type, "flex",
                                  {{{"flex", TokenDispatcherType::kFlex}}, {"allgather", "alltoall"}}),
      choice<FlexDispatcherBackend>(
          "moe_flex_dispatcher_backend", &C::moe_flex_dispatcher_backend, "deepepv2",
          {{{"deepepv2", FlexDispatcherBackend::kDeepEpV2}}, {"deepep", "hybridep", "ncclep"}}),
      integer("moe_flex_dispatcher_num_sms", &C::moe_flex_dispatcher_num_sms,
              "Threads (SMs on a GPU) of a dispatch or combine; 0 = automatic"),
      boolean("moe_permute_fusion", &C::moe_permute_fusion,
              "Rows arrive grouped by expert, instead of being permuted after they came"),
      choice<DType>("params_dtype", &C::params_dtype,
                    "fp32 | fp64: type of the parameters and of expert arithmetic", kFloatingTypes),
      number("init_method_std", &C::init_method_std, "Standard deviation of the initial weights"),
  };
}

}  // namespace

std::string MoeOption::flag() const {
  std::string dashed(name);
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return "--" + dashed;
}

std::span<const MoeOption> moe_options() {
  static const std::vector<MoeOption> options = make_options();
  return options;
}

}  // namespace flexep::moe
