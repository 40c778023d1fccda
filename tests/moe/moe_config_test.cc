// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "matrices.h"

namespace flexep::moe {
namespace {

using testing::rejected_argument;

const MoeConfig kValid{.hidden_size = 8, .num_moe_experts = 4, .moe_ffn_hidden_size = 6};

const MoeOption& option_named(std::string_view name) {
  const auto options = moe_options();
  return *std::find_if(options.begin(), options.end(),
                       [&](const auto& option) { return option.name == name; });
}

// kValid after one option was set from text.
MoeConfig with(std::string_view name, std::string_view text) {
  MoeConfig config = kValid;
  option_named(name).set(config, text);
  return config;
}

TEST(MoeConfigTest, EveryOptionReadsBackWhatItWrites) {
  const std::vector<std::pair<std::string, std::string>> other_values{
      {"moe_router_score_function", "sigmoid"},   {"moe_router_dtype", "fp64"},
      {"moe_router_load_balancing_type", "none"}, {"params_dtype", "fp64"},
      {"moe_token_dispatcher_type", "flex"},      {"moe_flex_dispatcher_backend", "deepepv2"}};
  for (const auto& option : moe_options()) {
    const auto named = std::find_if(other_values.begin(), other_values.end(),
                                    [&](const auto& pair) { return pair.first == option.name; });
    const std::string text = named != other_values.end()           ? named->second
                             : option.type == OptionType::kBoolean ? "true"
                             : option.type == OptionType::kNumber  ? "0.125"
                                                                   : "3";
    MoeConfig config;
    option.set(config, text);
    EXPECT_EQ(option.get(config), text) << option.name;
    EXPECT_EQ(MoeConfig::from_json(config.to_json()), config) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
  }
}

TEST(MoeConfigTest, JsonKeepsDefaultsOfAbsentOptions) {
  const auto config =
      MoeConfig::from_json(R"({"hidden_size": 8, "moe_permute_fusion": true, "moe_aux_loss_coeff": 1})");
  EXPECT_EQ(config, (MoeConfig{.hidden_size = 8, .moe_aux_loss_coeff = 1, .moe_permute_fusion = true}));
}

TEST(MoeConfigTest, JsonOfAnUnknownNameOrWrongTypeIsNamed) {
  const auto reject = [](const char* text) { return rejected_argument([=] { MoeConfig::from_json(text); }); };
  EXPECT_EQ(reject(R"({"moe_router_top": 2})"), "moe_router_top");
  EXPECT_EQ(reject(R"({"moe_router_topk": "2"})"), "moe_router_topk");
  EXPECT_EQ(reject(R"({"moe_router_topk": 2.5})"), "moe_router_topk");
  EXPECT_EQ(reject(R"({"moe_permute_fusion": 1})"), "moe_permute_fusion");
  EXPECT_EQ(reject(R"({"moe_router_dtype": 32})"), "moe_router_dtype");
  EXPECT_THROW(MoeConfig::from_json("[]"), InvalidArgument);
  EXPECT_THROW(MoeConfig::from_json("{"), InvalidArgument);
}

TEST(MoeConfigTest, TextThatDoesNotParseNamesTheOption) {
  for (const auto& option : moe_options())
    EXPECT_EQ(rejected_argument([&] { with(option.name, "2x"); }), option.name);
}

TEST(MoeConfigTest, WhatMegatronHasAndFlexepHasNotYetSaysSo) {
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, const char*>>{{"moe_token_dispatcher_type", "alltoall"},
                                                        {"moe_token_dispatcher_type", "allgather"},
                                                        {"moe_flex_dispatcher_backend", "deepep"},
                                                        {"moe_flex_dispatcher_backend", "hybridep"},
                                                        {"moe_flex_dispatcher_backend", "ncclep"},
                                                        {"moe_router_load_balancing_type", "sinkhorn"}}) {
    try {
      with(name, value);
      FAIL() << name << " accepted " << value;
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), name);
      EXPECT_NE(std::string(error.what()).find("not available yet"), std::string::npos) << error.what();
    }
  }
}

TEST(MoeConfigTest, IllegalValuesNameTheOption) {
  EXPECT_NO_THROW(kValid.validate());
  for (const auto& illegal :
       std::vector<std::pair<const char*, const char*>>{{"hidden_size", "0"},
                                                        {"num_moe_experts", "0"},
                                                        {"moe_ffn_hidden_size", "-1"},
                                                        {"expert_model_parallel_size", "0"},
                                                        {"expert_tensor_parallel_size", "0"},
                                                        {"moe_router_topk", "0"},
                                                        {"moe_router_topk", "5"},
                                                        {"moe_router_topk", "1"},
                                                        {"moe_aux_loss_coeff", "-1"},
                                                        {"moe_aux_loss_coeff", "nan"},
                                                        {"moe_router_topk_scaling_factor", "-1"},
                                                        {"moe_flex_dispatcher_num_sms", "-1"},
                                                        {"init_method_std", "-1"}})
    EXPECT_EQ(rejected_argument([&] { with(illegal.first, illegal.second).validate(); }), illegal.first)
        << illegal.second;
}

TEST(MoeConfigTest, OptionsThatContradictEachOtherAreNamed) {
  MoeConfig config = with("expert_model_parallel_size", "3");
  EXPECT_EQ(rejected_argument([&] { config.validate(); }), "num_moe_experts");
  config = with("expert_tensor_parallel_size", "4");
  EXPECT_EQ(rejected_argument([&] { config.validate(); }), "moe_ffn_hidden_size");
  config = with("moe_router_score_function", "sigmoid");
  config.moe_router_pre_softmax = true;
  EXPECT_EQ(rejected_argument([&] { config.validate(); }), "moe_router_pre_softmax");
  config = with("moe_router_load_balancing_type", "none");
  config.moe_aux_loss_coeff = 0.01;
  EXPECT_EQ(rejected_argument([&] { config.validate(); }), "moe_aux_loss_coeff");
  config = with("moe_router_topk", "1");
  config.moe_router_pre_softmax = true;
  EXPECT_NO_THROW(config.validate());
}

TEST(MoeConfigTest, TheDocumentationListsEveryOptionWithItsDefault) {
  std::ifstream file(FLEXEP_DOCS_DIR "/moe.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  for (const auto& option : moe_options()) {
    const std::string fallback = option.get({}) == "0" && option.help.find("0 =") == std::string_view::npos
                                     ? "must be given"
                                     : option.get({});
    EXPECT_NE(text.find(fmt::format("| `{}` | {} |", option.name, fallback)), std::string::npos)
        << option.name << " " << fallback;
  }
}

TEST(MoeConfigTest, FlagsAreNamesWithDashes) {
  EXPECT_EQ(option_named("moe_router_topk").flag(), "--moe-router-topk");
}

}  // namespace
}  // namespace flexep::moe
