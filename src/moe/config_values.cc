// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "flexep/moe/moe_config.h"

namespace flexep::moe {
namespace {

constexpr int kDeepEpNumSms = 20;
constexpr int kManyExperts = 32;  // from here on Megatron asks for a router dtype

}  // namespace

std::optional<double> MoeConfig::expert_capacity_factor() const {
  if (moe_expert_capacity_factor && *moe_expert_capacity_factor < 0) return std::nullopt;
  return moe_expert_capacity_factor;
}

int MoeConfig::quantization_alignment() const {
  if (use_transformer_engine_op_fuser) return 256;
  if (fp8 != Fp8Format::kNone) return fp8_recipe == Fp8Recipe::kMxFp8 ? 32 : 16;
  return fp4 != Fp4Format::kNone ? 128 : 0;
}

FlexDispatcherBackend MoeConfig::flex_dispatcher_backend() const {
  return moe_enable_deepep ? FlexDispatcherBackend::kDeepEp : moe_flex_dispatcher_backend;
}

int MoeConfig::flex_dispatcher_num_sms() const {
  for (const auto& asked : {moe_flex_dispatcher_num_sms, moe_deepep_num_sms, moe_hybridep_num_sms})
    if (asked) return *asked;
  return flex_dispatcher_backend() == FlexDispatcherBackend::kDeepEp ? kDeepEpNumSms : 0;
}

std::vector<std::string> MoeConfig::warnings() const {
  std::vector<std::string> all;
  const auto warn_if = [&](bool condition, const char* text) {
    if (condition) all.emplace_back(text);
  };
  warn_if(!moe_router_dtype && num_moe_experts >= kManyExperts,
          "moe_router_dtype is not set: the router computes in fp32; name fp32 or fp64 with so many experts");
  warn_if(moe_enable_deepep,
          "moe_enable_deepep is deprecated: name moe_flex_dispatcher_backend deepep instead");
  warn_if(moe_enable_deepep && moe_flex_dispatcher_backend == FlexDispatcherBackend::kNcclEp,
          "moe_enable_deepep overrides moe_flex_dispatcher_backend ncclep");
  warn_if(moe_deepep_num_sms.has_value(),
          "moe_deepep_num_sms is deprecated: name moe_flex_dispatcher_num_sms instead");
  warn_if(moe_hybridep_num_sms.has_value(),
          "moe_hybridep_num_sms is deprecated: name moe_flex_dispatcher_num_sms instead");
  warn_if(moe_router_padding_for_fp8,
          "moe_router_padding_for_fp8 is deprecated: name moe_router_padding_for_quantization instead");
  const auto warn_if_unused = [&](bool is_set, const char* name) {
    if (is_set) all.push_back(fmt::format("{} changes nothing: rows are stored where they belong", name));
  };
  warn_if_unused(moe_hybridep_num_blocks_permute.has_value(), "moe_hybridep_num_blocks_permute");
  warn_if_unused(moe_hybridep_num_blocks_unpermute.has_value(), "moe_hybridep_num_blocks_unpermute");
  warn_if_unused(moe_hybridep_num_sms_preprocessing != MoeConfig().moe_hybridep_num_sms_preprocessing,
                 "moe_hybridep_num_sms_preprocessing");
  warn_if(fp8 != Fp8Format::kNone, "fp8 decides only how rows are padded: experts compute in params_dtype");
  warn_if(fp4 != Fp4Format::kNone, "fp4 decides only how rows are padded: experts compute in params_dtype");
  return all;
}

}  // namespace flexep::moe
