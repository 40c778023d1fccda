// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "plan/plan_report.h"

namespace flexep::tool {
namespace {

using Json = nlohmann::ordered_json;

Json json_of_inputs(const PlanInputs& in) {
  return {{"num_scaleout_ranks", in.num_scaleout_ranks},
          {"num_scaleup_ranks", in.num_scaleup_ranks},
          {"num_ranks", in.num_ranks()},
          {"num_experts", in.num_experts},
          {"num_topk", in.num_topk},
          {"num_tokens", in.num_tokens},
          {"hidden", in.hidden},
          {"dtype", name_of(in.dtype)},
          {"row_bytes", in.row_bytes()},
          {"side_bytes", in.side_bytes()},
          {"zipf_exponent", in.zipf_exponent},
          {"link_gbs", in.machine.link_gbs},
          {"net_gbs", in.machine.net_gbs},
          {"memory_gbs", in.machine.dispatch.memory_gbs},
          {"link_us", in.machine.link_us},
          {"net_us", in.machine.net_us},
          {"message_us", in.machine.message_us},
          {"chunk_mib", in.machine.chunk_mib}};
}

Json json_of_variant(const Variant& variant) {
  return {{"op", variant.operation == Operation::kDispatch ? "dispatch" : "combine"},
          {"layout", variant.layout_name()},
          {"mode", variant.mode_name()},
          {"allow_multiple_reduction", variant.allow_multiple_reduction}};
}

Json json_of_load(const RankLoad& load, const PlanInputs& in) {
  return {{"local_rows", load.local},
          {"scaleup_rows", load.scaleup},
          {"forwarded_rows", load.forwarded},
          {"scaleout_rows", load.scaleout},
          {"scaleout_messages", load.messages},
          {"memory_rows_read", load.rows_read},
          {"memory_rows_written", load.rows_written},
          {"local_bytes", load.local * in.row_bytes()},
          {"scaleup_bytes", load.scaleup * in.row_bytes()},
          {"scaleout_bytes", load.scaleout * in.row_bytes()},
          {"memory_bytes", (load.rows_read + load.rows_written) * in.row_bytes()}};
}

Json json_of_time(const Prediction& time) {
  return {{"scaleup_us", time.link_us},      {"scaleout_us", time.net_us},     {"memory_us", time.memory_us},
          {"exchange_us", time.exchange_us}, {"travel_us", time.travel_us},    {"host_us", time.host_us},
          {"total_us", time.total_us()},     {"bottleneck", time.bottleneck()}};
}

Json json_of_memory(const MemoryNeed& need) {
  return {{"num_recv_tokens", need.num_recv_tokens},
          {"num_rows", need.num_rows},
          {"recv_x_bytes", need.recv_x},
          {"recv_topk_idx_bytes", need.recv_topk_idx},
          {"recv_topk_weights_bytes", need.recv_topk_weights},
          {"recv_src_metadata_bytes", need.recv_src_metadata},
          {"expert_output_bytes", need.expert_output},
          {"combined_x_bytes", need.combined_x},
          {"combined_topk_weights_bytes", need.combined_topk_weights},
          {"staging_bytes", need.staging},
          {"total_bytes", need.total_bytes()}};
}

Json json_of_rank_memory(const RankMemory& memory) {
  return {{"compact_arena_bytes", memory.compact_arena},
          {"expanded_arena_bytes", memory.expanded_arena},
          {"plan_bytes", memory.plan}};
}

Json json_of_sms(const Plan& plan) {
  const NumSmsModel& sms = plan.sms;
  return {{"num_sms", sms.num_sms},
          {"num_qps", plan.num_qps},
          {"ranks_per_token", sms.ranks_per_token},
          {"domains_per_token", sms.domains_per_token},
          {"sm_read", sms.sm_read},
          {"sm_write", sms.sm_write},
          {"scaleup_traffic", sms.nvlink_traffic},
          {"scaleout_traffic", sms.rdma_traffic},
          {"is_scaleout_bound", sms.is_rdma_bound},
          {"link_gbs", sms.link_gbs},
          {"unrounded_sms", sms.unrounded_sms}};
}

Json json_of_plan(const Plan& plan) {
  Json operations = Json::array();
  for (const auto& [variant, load, time] : plan.variants) {
    Json operation = json_of_variant(variant);
    operation["mean"] = json_of_load(load.mean, plan.inputs);
    operation["busiest"] = json_of_load(load.busiest, plan.inputs);
    operation["time"] = json_of_time(time);
    operations.push_back(std::move(operation));
  }
  return {{"inputs", json_of_inputs(plan.inputs)},
          {"num_sampled_tokens", plan.num_sampled_tokens},
          {"ranks_per_token", plan.ranks_per_token},
          {"domains_per_token", plan.domains_per_token},
          {"operations", std::move(operations)},
          {"memory",
           {{"compact", json_of_memory(plan.compact_memory)},
            {"expanded", json_of_memory(plan.expanded_memory)},
            {"busiest", plan.busiest_memory ? json_of_rank_memory(*plan.busiest_memory) : Json()}}},
          {"num_sms_model", json_of_sms(plan)}};
}

}  // namespace

nlohmann::ordered_json json_of(const Plan& plan, const Plan& twice) {
  return {{"schema_version", 1}, {"plan", json_of_plan(plan)}, {"at_twice_the_ranks", json_of_plan(twice)}};
}

nlohmann::ordered_json json_of(const std::vector<GrowthStep>& steps) {
  Json list = Json::array();
  for (const GrowthStep& step : steps) {
    Json operations = Json::array();
    for (const auto& [variant, load, time] : step.variants) {
      Json operation = json_of_variant(variant);
      operation["mean"] = json_of_load(load.mean, step.inputs);
      operation["busiest"] = json_of_load(load.busiest, step.inputs);
      operation["time"] = {{"total_us", time.total_us},
                           {"mean_us", time.mean_us},
                           {"scaleup_us", time.link_us},
                           {"scaleout_us", time.net_us},
                           {"memory_us", time.memory_us}};
      operations.push_back(std::move(operation));
    }
    list.push_back({{"inputs", json_of_inputs(step.inputs)},
                    {"num_sampled_tokens", step.num_sampled_tokens},
                    {"memory", json_of_rank_memory(step.memory)},
                    {"operations", std::move(operations)}});
  }
  return {{"schema_version", 1}, {"simulation", std::move(list)}};
}

}  // namespace flexep::tool
