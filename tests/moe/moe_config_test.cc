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

const MoeOption& option_named(std::string_view name) {
  const auto options = moe_options();
  return *std::find_if(options.begin(), options.end(),
                       [&](const auto& option) { return option.name == name; });
}

// A value that is not the default.
std::string other_value(const MoeOption& option) {
  static const std::vector<std::pair<std::string_view, std::string>> choices{
      {"moe_router_score_function", "sqrtsoftplus"},
      {"moe_router_dtype", "fp64"},
      {"moe_router_load_balancing_type", "sinkhorn"},
      {"moe_token_drop_policy", "position"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_flex_dispatcher_backend", "ncclep"},
      {"fp8", "hybrid"},
      {"fp8_recipe", "mxfp8"},
      {"fp4", "e2m1"},
      {"params_dtype", "fp64"}};
  switch (option.type) {
    case OptionType::kInteger:
      return "3";
    case OptionType::kNumber:
      return "0.125";
    case OptionType::kBoolean:
      return "true";
    case OptionType::kChoice:
      break;
  }
  return std::find_if(choices.begin(), choices.end(),
                      [&](const auto& choice) { return choice.first == option.name; })
      ->second;
}

TEST(MoeConfigTest, EveryOptionReadsBackWhatItWrites) {
  for (const auto& option : moe_options()) {
    MoeConfig config;
    option.set(config, other_value(option));
    EXPECT_EQ(option.get(config), other_value(option)) << option.name;
    EXPECT_NE(config, MoeConfig()) << option.name;
    EXPECT_EQ(MoeConfig::from_json(config.to_json()), config) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
    option.set(config, option.get({}));
    EXPECT_EQ(config, MoeConfig()) << option.name;
  }
}

TEST(MoeConfigTest, DefaultsAreMegatrons) {
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, const char*>>{{"moe_token_dispatcher_type", "allgather"},
                                                        {"moe_flex_dispatcher_backend", "deepep"},
                                                        {"moe_enable_deepep", "false"},
                                                        {"moe_flex_dispatcher_num_sms", "none"},
                                                        {"moe_deepep_num_sms", "none"},
                                                        {"moe_hybridep_num_sms", "none"},
                                                        {"moe_expert_capacity_factor", "none"},
                                                        {"moe_pad_expert_input_to_capacity", "false"},
                                                        {"moe_token_drop_policy", "probs"},
                                                        {"moe_expert_rank_capacity_factor", "none"},
                                                        {"moe_router_padding_for_quantization", "false"},
                                                        {"moe_router_padding_for_fp8", "false"},
                                                        {"moe_permute_fusion", "false"},
                                                        {"moe_permute_fusion_into_hybridep", "false"},
                                                        {"moe_hybridep_pad_variable_tokens", "false"},
                                                        {"moe_hybridep_num_blocks_permute", "none"},
                                                        {"moe_hybridep_num_blocks_unpermute", "none"},
                                                        {"moe_hybridep_num_sms_preprocessing", "108"},
                                                        {"moe_ncclep_static_shape", "false"},
                                                        {"moe_ncclep_use_symm_mem", "false"},
                                                        {"moe_router_dtype", "none"},
                                                        {"moe_router_topk", "2"},
                                                        {"moe_shared_expert_intermediate_size", "none"},
                                                        {"moe_shared_expert_gate", "false"},
                                                        {"moe_shared_expert_overlap", "false"},
                                                        {"moe_apply_probs_on_input", "false"},
                                                        {"moe_latent_size", "none"},
                                                        {"moe_paged_stash", "false"}})
    EXPECT_EQ(option_named(name).get({}), value) << name;
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

TEST(MoeConfigTest, NullIsNoneWhereThereIsNone) {
  MoeConfig config;
  config.moe_z_loss_coeff = 0.5;
  EXPECT_NE(config.to_json().find("\"moe_z_loss_coeff\":0.5"), std::string::npos);
  EXPECT_NE(MoeConfig().to_json().find("\"moe_z_loss_coeff\":null"), std::string::npos);
  EXPECT_EQ(MoeConfig::from_json(R"({"moe_z_loss_coeff": null})"), MoeConfig());
  EXPECT_EQ(rejected_argument([] { MoeConfig::from_json(R"({"moe_router_topk": null})"); }),
            "moe_router_topk");
}

// What is said when the option is given as "2x".
std::string message_for_bad_text(const MoeOption& option) {
  switch (option.type) {
    case OptionType::kInteger:
      return fmt::format("{} must be an integer, not \"2x\"", option.name);
    case OptionType::kNumber:
      return fmt::format("{} must be a number, not \"2x\"", option.name);
    case OptionType::kBoolean:
      return fmt::format("{} must be true or false, not \"2x\"", option.name);
    case OptionType::kChoice:
      break;
  }
  return fmt::format("{} must be one of ", option.name);
}

TEST(MoeConfigTest, TextThatDoesNotParseNamesTheOptionAndWhatIsLegal) {
  for (const auto& option : moe_options()) {
    MoeConfig config;
    try {
      option.set(config, "2x");
      ADD_FAILURE() << option.name << " took 2x";
    } catch (const InvalidArgument& error) {
      const std::string message = error.what(), expected = message_for_bad_text(option);
      EXPECT_EQ(error.argument(), option.name);
      EXPECT_EQ(message.substr(0, expected.size()), expected);
      if (option.type != OptionType::kChoice) {
        EXPECT_EQ(message, expected);
      } else if (!option.may_be_none) {
        EXPECT_NE(message.find(option.get({})), std::string::npos) << message;
      }
    }
  }
}

TEST(MoeConfigTest, AnUnknownDispatcherOrBackendIsToldWhichThereAre) {
  const auto message_of = [](const char* name) {
    MoeConfig config;
    try {
      option_named(name).set(config, "pigeon");
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message_of("moe_token_dispatcher_type"),
            "moe_token_dispatcher_type must be one of allgather, alltoall, flex, not \"pigeon\"");
  EXPECT_EQ(message_of("moe_flex_dispatcher_backend"),
            "moe_flex_dispatcher_backend must be one of deepep, deepepv2, hybridep, ncclep, not \"pigeon\"");
  EXPECT_EQ(message_of("moe_token_drop_policy"),
            "moe_token_drop_policy must be one of probs, position, not \"pigeon\"");
}

TEST(MoeConfigTest, ANegativeCapacityFactorIsNone) {
  EXPECT_EQ(MoeConfig{.moe_expert_capacity_factor = -1}.expert_capacity_factor(), std::nullopt);
  EXPECT_EQ(MoeConfig{.moe_expert_capacity_factor = 1.5}.expert_capacity_factor(), 1.5);
}

TEST(MoeConfigTest, QuantisationDecidesTheAlignment) {
  EXPECT_EQ(MoeConfig().quantization_alignment(), 0);
  EXPECT_EQ(MoeConfig{.fp8 = Fp8Format::kE4M3}.quantization_alignment(), 16);
  EXPECT_EQ((MoeConfig{.fp8 = Fp8Format::kHybrid, .fp8_recipe = Fp8Recipe::kMxFp8}.quantization_alignment()),
            32);
  EXPECT_EQ(MoeConfig{.fp4 = Fp4Format::kE2M1}.quantization_alignment(), 128);
  EXPECT_EQ(MoeConfig{.use_transformer_engine_op_fuser = true}.quantization_alignment(), 256);
}

TEST(MoeConfigTest, TheNumberOfSmsIsTheUnifiedOptionThenADeprecatedOneThenTheBackends) {
  using Backend = FlexDispatcherBackend;
  const auto num_sms_of = [](Backend backend, MoeConfig config) {
    config.moe_flex_dispatcher_backend = backend;
    return config.flex_dispatcher_num_sms();
  };
  EXPECT_EQ(num_sms_of(Backend::kDeepEp, {}), 20);
  for (const auto backend : {Backend::kDeepEpV2, Backend::kHybridEp, Backend::kNcclEp}) {
    EXPECT_EQ(num_sms_of(backend, {}), 0);
    EXPECT_EQ(num_sms_of(backend, {.moe_deepep_num_sms = 6}), 6);
    EXPECT_EQ(num_sms_of(backend, {.moe_hybridep_num_sms = 8}), 8);
    EXPECT_EQ(num_sms_of(backend, {.moe_flex_dispatcher_num_sms = 4, .moe_deepep_num_sms = 6}), 4);
    EXPECT_EQ(num_sms_of(backend, {.moe_flex_dispatcher_num_sms = 0, .moe_deepep_num_sms = 6}), 0);
  }
}

TEST(MoeConfigTest, WhatIsDeprecatedIsWarnedOfAndStillWorks) {
  const auto warns = [](const MoeConfig& config, const char* text) {
    const auto all = config.warnings();
    return all.size() == 1 && all.front().find(text) != std::string::npos;
  };
  EXPECT_EQ(MoeConfig().warnings(), std::vector<std::string>{});
  EXPECT_TRUE(warns({.moe_deepep_num_sms = 4}, "moe_deepep_num_sms is deprecated"));
  EXPECT_TRUE(warns({.moe_hybridep_num_sms = 4}, "moe_hybridep_num_sms is deprecated"));
  EXPECT_TRUE(warns({.moe_enable_deepep = true}, "moe_enable_deepep is deprecated"));
  EXPECT_TRUE(warns({.moe_router_padding_for_fp8 = true}, "moe_router_padding_for_fp8 is deprecated"));
  EXPECT_TRUE(warns({.num_moe_experts = 32}, "moe_router_dtype is not set"));
  EXPECT_TRUE(warns({.moe_hybridep_num_blocks_permute = 8}, "moe_hybridep_num_blocks_permute"));
  EXPECT_TRUE(warns({.moe_hybridep_num_blocks_unpermute = 8}, "moe_hybridep_num_blocks_unpermute"));
  EXPECT_TRUE(warns({.moe_hybridep_num_sms_preprocessing = 8}, "moe_hybridep_num_sms_preprocessing"));
  EXPECT_TRUE(MoeConfig{.moe_router_padding_for_fp8 = true}.router_padding_for_quantization());
  const MoeConfig overridden{.moe_flex_dispatcher_backend = FlexDispatcherBackend::kNcclEp,
                             .moe_enable_deepep = true};
  EXPECT_EQ(overridden.flex_dispatcher_backend(), FlexDispatcherBackend::kDeepEp);
  EXPECT_EQ(overridden.warnings().back(), "moe_enable_deepep overrides moe_flex_dispatcher_backend ncclep");
}

TEST(MoeConfigTest, TheDocumentationListsEveryOptionWithTypeAndDefault) {
  std::ifstream file(FLEXEP_DOCS_DIR "/moe.md");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  for (const auto& option : moe_options()) {
    const bool is_size = option.name == "hidden_size" || option.name == "num_moe_experts" ||
                         option.name == "moe_ffn_hidden_size";
    const std::string row = fmt::format("| `{}` | {} | {} |", option.name, name_of(option.type),
                                        is_size ? "must be given" : option.get({}));
    EXPECT_NE(text.find(row), std::string::npos) << row;
  }
}

TEST(MoeConfigTest, FlagsAreNamesWithDashes) {
  EXPECT_EQ(option_named("moe_router_topk").flag(), "--moe-router-topk");
}

}  // namespace
}  // namespace flexep::moe
