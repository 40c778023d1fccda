// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "flexep/error.h"
#include "flexep/moe/moe_config.h"

/// Which options MoeConfig::validate refuses, and what it says.
namespace flexep::moe {
namespace {

using Settings = std::vector<std::pair<std::string_view, std::string_view>>;

MoeConfig with(const Settings& settings) {
  MoeConfig config{.hidden_size = 8, .num_moe_experts = 4, .moe_ffn_hidden_size = 6};
  for (const auto& [name, value] : settings) {
    const auto options = moe_options();
    std::find_if(options.begin(), options.end(), [name = name](const auto& o) {
      return o.name == name;
    })->set(config, value);
  }
  return config;
}

struct Misuse {
  Settings settings;
  std::string argument;
  std::string message;  // of the error, as a whole
};

void PrintTo(const Misuse& misuse, std::ostream* out) {
  *out << misuse.message;
}

class ConfigRuleTest : public ::testing::TestWithParam<Misuse> {};

TEST_P(ConfigRuleTest, RefusesInTheseWords) {
  try {
    with(GetParam().settings).validate();
    FAIL() << "no error";
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), GetParam().argument);
    EXPECT_EQ(std::string(error.what()), GetParam().message);
    EXPECT_NE(GetParam().message.find(GetParam().argument), std::string::npos);
  }
}

const std::vector<Misuse> kSizes{
    {{{"hidden_size", "0"}}, "hidden_size", "hidden_size must be at least 1, not 0"},
    {{{"num_moe_experts", "0"}, {"expert_model_parallel_size", "2"}},
     "num_moe_experts",
     "num_moe_experts must be at least 1, not 0"},
    {{{"moe_ffn_hidden_size", "-1"}},
     "moe_ffn_hidden_size",
     "moe_ffn_hidden_size must be at least 1, not -1"},
    {{{"moe_latent_size", "0"}}, "moe_latent_size", "moe_latent_size must be at least 1, not 0"},
    {{{"expert_model_parallel_size", "0"}},
     "expert_model_parallel_size",
     "expert_model_parallel_size must be at least 1, not 0"},
    {{{"expert_tensor_parallel_size", "0"}},
     "expert_tensor_parallel_size",
     "expert_tensor_parallel_size must be at least 1, not 0"},
    {{{"expert_model_parallel_size", "3"}},
     "num_moe_experts",
     "num_moe_experts 4 must be a multiple of expert_model_parallel_size 3"},
    {{{"expert_tensor_parallel_size", "4"}},
     "moe_ffn_hidden_size",
     "moe_ffn_hidden_size 6 must be a multiple of expert_tensor_parallel_size 4"},
    {{{"init_method_std", "-1"}},
     "init_method_std",
     "init_method_std must be a number of at least 0, not -1"}};

const std::vector<Misuse> kSharedExperts{
    {{{"moe_shared_expert_intermediate_size", "0"}},
     "moe_shared_expert_intermediate_size",
     "moe_shared_expert_intermediate_size must be at least 1, not 0"},
    {{{"moe_shared_expert_gate", "true"}},
     "moe_shared_expert_gate",
     "moe_shared_expert_gate needs moe_shared_expert_intermediate_size"},
    {{{"moe_shared_expert_overlap", "true"}},
     "moe_shared_expert_overlap",
     "moe_shared_expert_overlap needs moe_shared_expert_intermediate_size"},
    {{{"moe_shared_expert_intermediate_size", "4"}, {"moe_shared_expert_overlap", "true"}},
     "moe_shared_expert_overlap",
     "moe_shared_expert_overlap needs moe_token_dispatcher_type alltoall or flex"},
    {{{"moe_shared_expert_intermediate_size", "4"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_shared_expert_overlap", "true"},
      {"overlap_moe_expert_parallel_comm", "true"}},
     "moe_shared_expert_overlap",
     "moe_shared_expert_overlap and overlap_moe_expert_parallel_comm exclude each other"}};

const std::vector<Misuse> kRouter{
    {{{"moe_router_topk", "0"}},
     "moe_router_topk",
     "moe_router_topk must be in [1, num_moe_experts = 4], not 0"},
    {{{"moe_router_topk", "5"}},
     "moe_router_topk",
     "moe_router_topk must be in [1, num_moe_experts = 4], not 5"},
    {{{"moe_router_topk", "1"}},
     "moe_router_topk",
     "moe_router_topk 1 with softmax needs moe_router_pre_softmax"},
    {{{"moe_router_score_function", "sigmoid"}, {"moe_router_pre_softmax", "true"}},
     "moe_router_pre_softmax",
     "moe_router_pre_softmax needs moe_router_score_function softmax"},
    {{{"moe_router_num_groups", "3"}, {"moe_router_group_topk", "1"}},
     "moe_router_num_groups",
     "moe_router_num_groups must divide num_moe_experts 4, and moe_router_group_topk needs it"},
    {{{"moe_router_group_topk", "1"}},
     "moe_router_num_groups",
     "moe_router_num_groups must divide num_moe_experts 4, and moe_router_group_topk needs it"},
    {{{"moe_router_num_groups", "2"}},
     "moe_router_group_topk",
     "moe_router_group_topk must be in [1, 2] (moe_router_num_groups 2, moe_router_topk 2), not 0"},
    {{{"moe_router_num_groups", "4"}, {"moe_router_group_topk", "1"}},
     "moe_router_group_topk",
     "moe_router_group_topk 1 groups of 1 experts are too few for moe_router_topk 2"},
    {{{"moe_router_topk_scaling_factor", "-1"}},
     "moe_router_topk_scaling_factor",
     "moe_router_topk_scaling_factor must be a number of at least 0, not -1"},
    {{{"moe_router_enable_expert_bias", "true"}},
     "moe_router_enable_expert_bias",
     "moe_router_enable_expert_bias needs moe_router_score_function sigmoid or sqrtsoftplus"},
    {{{"moe_router_bias_update_rate", "-1"}},
     "moe_router_bias_update_rate",
     "moe_router_bias_update_rate must be a number of at least 0, not -1"},
    {{{"moe_aux_loss_coeff", "nan"}},
     "moe_aux_loss_coeff",
     "moe_aux_loss_coeff must be a number of at least 0, not nan"},
    {{{"moe_aux_loss_coeff", "0.5"}, {"moe_router_load_balancing_type", "none"}},
     "moe_aux_loss_coeff",
     "moe_aux_loss_coeff 0.5 needs moe_router_load_balancing_type aux_loss, seq_aux_loss or global_aux_loss"},
    {{{"moe_z_loss_coeff", "-1"}},
     "moe_z_loss_coeff",
     "moe_z_loss_coeff must be a number of at least 0, not -1"},
    {{{"moe_input_jitter_eps", "1"}},
     "moe_input_jitter_eps",
     "moe_input_jitter_eps must be in [0, 1), not 1"},
    {{{"moe_router_force_biased", "inf"}},
     "moe_router_force_biased",
     "moe_router_force_biased must be a finite number, not inf"}};

const std::vector<Misuse> kCapacity{
    {{{"moe_expert_capacity_factor", "nan"}},
     "moe_expert_capacity_factor",
     "moe_expert_capacity_factor must be a finite number, not nan"},
    {{{"moe_expert_capacity_factor", "1"}, {"moe_router_load_balancing_type", "sinkhorn"}},
     "moe_expert_capacity_factor",
     "moe_expert_capacity_factor needs moe_router_load_balancing_type aux_loss, seq_aux_loss, "
     "global_aux_loss "
     "or none"},
    {{{"moe_pad_expert_input_to_capacity", "true"}, {"moe_expert_capacity_factor", "-1"}},
     "moe_pad_expert_input_to_capacity",
     "moe_pad_expert_input_to_capacity needs moe_expert_capacity_factor"},
    {{{"moe_pad_expert_input_to_capacity", "true"},
      {"moe_expert_capacity_factor", "1"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_flex_dispatcher_backend", "deepepv2"}},
     "moe_pad_expert_input_to_capacity",
     "moe_pad_expert_input_to_capacity is not for moe_flex_dispatcher_backend deepep and deepepv2"},
    {{{"moe_expert_rank_capacity_factor", "1"}, {"moe_token_dispatcher_type", "flex"}},
     "moe_expert_rank_capacity_factor",
     "moe_expert_rank_capacity_factor needs moe_flex_dispatcher_backend hybridep or ncclep"},
    {{{"moe_expert_rank_capacity_factor", "1"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_flex_dispatcher_backend", "hybridep"}},
     "moe_expert_rank_capacity_factor",
     "moe_expert_rank_capacity_factor with hybridep needs use_transformer_engine_op_fuser"},
    {{{"moe_expert_rank_capacity_factor", "0"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_flex_dispatcher_backend", "ncclep"}},
     "moe_expert_rank_capacity_factor",
     "moe_expert_rank_capacity_factor must be a number above 0, not 0"},
    {{{"moe_token_dispatcher_type", "flex"}, {"moe_flex_dispatcher_backend", "ncclep"}},
     "moe_expert_rank_capacity_factor",
     "moe_flex_dispatcher_backend ncclep needs moe_expert_rank_capacity_factor"},
    {{{"moe_paged_stash", "true"}},
     "moe_paged_stash",
     "moe_paged_stash needs moe_expert_rank_capacity_factor"},
    {{{"fp8", "e4m3"}, {"fp4", "e2m1"}}, "fp4", "fp4 and fp8 exclude each other"},
    {{{"moe_router_padding_for_quantization", "true"}},
     "moe_router_padding_for_quantization",
     "moe_router_padding_for_quantization needs fp8 or fp4"},
    {{{"moe_router_padding_for_fp8", "true"}},
     "moe_router_padding_for_fp8",
     "moe_router_padding_for_fp8 needs fp8 or fp4"},
    {{{"moe_router_padding_for_quantization", "true"}, {"fp8", "e4m3"}},
     "moe_router_padding_for_quantization",
     "moe_router_padding_for_quantization needs moe_token_dispatcher_type alltoall or flex"},
    {{{"moe_apply_probs_on_input", "true"}},
     "moe_apply_probs_on_input",
     "moe_apply_probs_on_input needs moe_router_topk 1, not 2"}};

const std::vector<Misuse> kDispatchers{
    {{{"variable_seq_lengths", "true"}},
     "variable_seq_lengths",
     "variable_seq_lengths needs moe_token_dispatcher_type alltoall or flex"},
    {{{"overlap_moe_expert_parallel_comm", "true"}},
     "overlap_moe_expert_parallel_comm",
     "overlap_moe_expert_parallel_comm needs moe_token_dispatcher_type alltoall or flex"},
    {{{"moe_enable_deepep", "true"}},
     "moe_enable_deepep",
     "moe_enable_deepep needs moe_token_dispatcher_type flex"},
    {{{"moe_enable_deepep", "true"},
      {"moe_token_dispatcher_type", "flex"},
      {"moe_flex_dispatcher_backend", "hybridep"}},
     "moe_enable_deepep",
     "moe_enable_deepep contradicts a moe_flex_dispatcher_backend other than deepep"},
    {{{"moe_flex_dispatcher_backend", "ncclep"}},
     "moe_flex_dispatcher_backend",
     "moe_flex_dispatcher_backend ncclep needs moe_token_dispatcher_type flex"},
    {{{"moe_flex_dispatcher_num_sms", "-1"}},
     "moe_flex_dispatcher_num_sms",
     "moe_flex_dispatcher_num_sms must be at least 0, not -1"},
    {{{"moe_flex_dispatcher_num_sms", "8"}, {"moe_deepep_num_sms", "6"}},
     "moe_deepep_num_sms",
     "moe_deepep_num_sms 6 contradicts moe_flex_dispatcher_num_sms 8"},
    {{{"moe_deepep_num_sms", "6"}, {"moe_hybridep_num_sms", "4"}},
     "moe_hybridep_num_sms",
     "moe_hybridep_num_sms 4 contradicts moe_deepep_num_sms 6"},
    {{{"moe_token_dispatcher_type", "flex"}, {"moe_flex_dispatcher_num_sms", "5"}},
     "moe_flex_dispatcher_num_sms",
     "moe_flex_dispatcher_num_sms must be even with moe_flex_dispatcher_backend deepep, not 5"},
    {{{"moe_hybridep_num_blocks_permute", "0"}},
     "moe_hybridep_num_blocks_permute",
     "moe_hybridep_num_blocks_permute must be at least 1, not 0"},
    {{{"moe_hybridep_num_blocks_unpermute", "0"}},
     "moe_hybridep_num_blocks_unpermute",
     "moe_hybridep_num_blocks_unpermute must be at least 1, not 0"},
    {{{"moe_hybridep_num_sms_preprocessing", "0"}},
     "moe_hybridep_num_sms_preprocessing",
     "moe_hybridep_num_sms_preprocessing must be at least 1, not 0"},
    {{{"moe_ncclep_static_shape", "true"}},
     "moe_ncclep_static_shape",
     "moe_ncclep_static_shape needs experts that skip rows on the device, which flexep lacks"},
    {{{"moe_ncclep_use_symm_mem", "true"}},
     "moe_ncclep_use_symm_mem",
     "moe_ncclep_use_symm_mem is not implemented; memory of ElasticBuffer::empty is sent without a copy "
     "anyway"}};

INSTANTIATE_TEST_SUITE_P(Sizes, ConfigRuleTest, ::testing::ValuesIn(kSizes));
INSTANTIATE_TEST_SUITE_P(SharedExperts, ConfigRuleTest, ::testing::ValuesIn(kSharedExperts));
INSTANTIATE_TEST_SUITE_P(Router, ConfigRuleTest, ::testing::ValuesIn(kRouter));
INSTANTIATE_TEST_SUITE_P(Capacity, ConfigRuleTest, ::testing::ValuesIn(kCapacity));
INSTANTIATE_TEST_SUITE_P(Dispatchers, ConfigRuleTest, ::testing::ValuesIn(kDispatchers));

TEST(ConfigRulesTest, LegalCombinationsPass) {
  for (const Settings& settings : std::vector<Settings>{
           {},
           {{"moe_router_topk", "1"}, {"moe_router_pre_softmax", "true"}},
           {{"moe_router_topk", "1"}, {"moe_router_load_balancing_type", "sinkhorn"}},
           {{"moe_router_num_groups", "2"}, {"moe_router_group_topk", "1"}},
           {{"moe_token_dispatcher_type", "flex"},
            {"moe_flex_dispatcher_backend", "ncclep"},
            {"moe_expert_rank_capacity_factor", "1.5"},
            {"moe_paged_stash", "true"}},
           {{"moe_token_dispatcher_type", "flex"},
            {"moe_flex_dispatcher_backend", "hybridep"},
            {"moe_expert_rank_capacity_factor", "1.5"},
            {"use_transformer_engine_op_fuser", "true"}},
           {{"moe_token_dispatcher_type", "flex"}, {"moe_enable_deepep", "true"}},
           {{"moe_flex_dispatcher_num_sms", "8"}, {"moe_deepep_num_sms", "8"}, {"moe_hybridep_num_sms", "8"}},
           {{"moe_token_dispatcher_type", "alltoall"},
            {"moe_expert_capacity_factor", "1"},
            {"moe_pad_expert_input_to_capacity", "true"},
            {"fp8", "e4m3"},
            {"moe_router_padding_for_fp8", "true"}}})
    EXPECT_NO_THROW(with(settings).validate());
}

}  // namespace
}  // namespace flexep::moe
