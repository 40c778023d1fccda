// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "plan/plan_report.h"

namespace flexep::tool {
namespace {

constexpr double kMegabyte = 1e6;

std::string headline(const Plan& plan) {
  const PlanInputs& in = plan.inputs;
  std::string text = fmt::format(
      "{} domains of {} ranks, {} experts ({} on a rank), top-{}; {} tokens a rank of {} x {}, {:.0f} bytes "
      "a row\n",
      in.num_scaleout_ranks, in.num_scaleup_ranks, in.num_experts, in.num_local_experts(), in.num_topk,
      in.num_tokens, in.hidden, name_of(in.dtype), in.row_bytes());
  if (plan.num_sampled_tokens == 0) {
    text += "uniform routing: expected values";
  } else {
    text +=
        fmt::format("zipf:{} routing: {} tokens of each rank drawn{}", in.zipf_exponent,
                    plan.num_sampled_tokens, plan.num_sampled_tokens < in.num_tokens ? " and scaled up" : "");
  }
  return text + fmt::format("; a token goes to {:.3f} ranks in {:.3f} domains\n", plan.ranks_per_token,
                            plan.domains_per_token);
}

std::string cell(double rows, const PlanInputs& in) {
  return fmt::format("{:>9.0f} {:>9.1f}", rows, rows * in.row_bytes() / kMegabyte);
}

std::string rows_table(const Plan& plan) {
  std::string text =
      "\nRows and megabytes (1e6) of one rank, mean over ranks; what it sends in a dispatch, gets back in a "
      "combine\n";
  text += fmt::format("{:<24}{:<10}{:<8}{:>19}{:>19}{:>19}{:>19}\n", "", "", "", "local", "scale-up",
                      "(of it forwarded)", "scale-out");
  for (const auto& [variant, load, time] : plan.variants) {
    text += fmt::format("{:<24}{:<10}{:<8}{}{}{}{}\n", variant.operation_name(), variant.layout_name(),
                        variant.mode_name(), cell(load.mean.local, plan.inputs),
                        cell(load.mean.scaleup, plan.inputs), cell(load.mean.forwarded, plan.inputs),
                        cell(load.mean.scaleout, plan.inputs));
  }
  return text;
}

std::string times_table(const Plan& plan) {
  const Machine& machine = plan.inputs.machine;
  std::string text = fmt::format(
      "\nTime in us{}: link {:g} GB/s and {:g} us, network {:g} GB/s and {:g} us, memory {:g} GB/s\n",
      plan.num_sampled_tokens > 0 ? " with the busiest rank's rows" : "", machine.link_gbs, machine.link_us,
      machine.net_gbs, machine.net_us, machine.dispatch.memory_gbs);
  text += fmt::format("{:<24}{:<10}{:<8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}  {}\n", "", "", "", "scale-up",
                      "scale-out", "memory", "exchange", "travel", "total", "bottleneck");
  for (const auto& [variant, load, time] : plan.variants) {
    text += fmt::format("{:<24}{:<10}{:<8}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}  {}\n",
                        variant.operation_name(), variant.layout_name(), variant.mode_name(), time.link_us,
                        time.net_us, time.memory_us, time.exchange_us + time.host_us, time.travel_us,
                        time.total_us(), time.bottleneck());
  }
  return text;
}

std::string comparison(const Plan& plan) {
  if (plan.inputs.num_scaleout_ranks == 1)
    return "\nOne domain: nothing crosses a network, there is no hybrid mode\n";
  std::string text = "\nDirect against hybrid (above 1: hybrid is better):";
  for (const bool do_expand : {false, true}) {
    for (const Operation operation : {Operation::kDispatch, Operation::kCombine}) {
      const auto& direct = find_variant(plan, operation, do_expand, false);
      const auto& hybrid = find_variant(plan, operation, do_expand, true);
      text +=
          fmt::format("\n  {:<10}{:<10}network bytes {:.2f}, time {:.2f}", direct.variant.operation_name(),
                      direct.variant.layout_name(), direct.load.mean.scaleout / hybrid.load.mean.scaleout,
                      direct.time.total_us() / hybrid.time.total_us());
    }
  }
  return text + "\n";
}

std::string memory_page(const Plan& plan) {
  std::string text = "\nMemory of a rank, compact: " + plan.compact_memory.to_string() +
                     "expanded: " + plan.expanded_memory.to_string();
  if (plan.busiest_memory) {
    text += fmt::format("busiest rank with this routing, bytes: {:.0f} compact, {:.0f} expanded\n",
                        plan.busiest_memory->compact_arena, plan.busiest_memory->expanded_arena);
  }
  return text;
}

std::string sms_page(const Plan& plan) {
  const NumSmsModel& sms = plan.sms;
  return fmt::format(
      "\nnum_sms {}, num_qps {} (docs/plan_model.md; per row sent to a rank: SM read {:.4f}, SM write "
      "{:.4f}, "
      "scale-up {:.4f}, scale-out {:.4f};\nbound by {} at {:g} GB/s: {:.3f} SMs fill it, a quarter to "
      "spare)\n",
      sms.num_sms, plan.num_qps, sms.sm_read, sms.sm_write, sms.nvlink_traffic, sms.rdma_traffic,
      sms.is_rdma_bound ? "scale-out" : "scale-up", sms.link_gbs, sms.unrounded_sms);
}

std::string doubling_page(const Plan& plan, const Plan& twice) {
  std::string text = fmt::format(
      "\nAt twice the ranks ({} domains of {}, {} experts{}): a token goes to {:.3f} ranks in {:.3f} "
      "domains, num_sms {}\n",
      twice.inputs.num_scaleout_ranks, twice.inputs.num_scaleup_ranks, twice.inputs.num_experts,
      twice.inputs.num_experts == plan.inputs.num_experts ? "" : ", as the ranks have to divide them",
      twice.ranks_per_token, twice.domains_per_token, twice.sms.num_sms);
  const bool had_domains = plan.inputs.num_scaleout_ranks > 1;
  for (const bool do_expand : {false, true}) {
    for (const Operation operation : {Operation::kDispatch, Operation::kCombine}) {
      const auto& now = find_variant(plan, operation, do_expand, had_domains);
      const auto& then = find_variant(twice, operation, do_expand, true);
      text += fmt::format(
          "  {:<10}{:<10}{} {:.1f} us, hybrid then {:.1f} us; scale-out {:.1f} MB, then {:.1f} MB\n",
          now.variant.operation_name(), now.variant.layout_name(), now.variant.mode_name(),
          now.time.total_us(), then.time.total_us(),
          now.load.mean.scaleout * plan.inputs.row_bytes() / kMegabyte,
          then.load.mean.scaleout * plan.inputs.row_bytes() / kMegabyte);
    }
  }
  text += fmt::format("  memory    compact   {:.1f} MB, then {:.1f} MB; expanded {:.1f} MB, then {:.1f} MB\n",
                      static_cast<double>(plan.compact_memory.total_bytes()) / kMegabyte,
                      static_cast<double>(twice.compact_memory.total_bytes()) / kMegabyte,
                      static_cast<double>(plan.expanded_memory.total_bytes()) / kMegabyte,
                      static_cast<double>(twice.expanded_memory.total_bytes()) / kMegabyte);
  return text;
}

}  // namespace

std::string text_of(const Plan& plan, const Plan& twice) {
  return headline(plan) + rows_table(plan) + times_table(plan) + comparison(plan) + memory_page(plan) +
         sms_page(plan) + doubling_page(plan, twice);
}

std::string text_of(const std::vector<GrowthStep>& steps) {
  const PlanInputs& first = steps.front().inputs;
  std::string text = fmt::format(
      "Simulated over the library's planning: domains of {} ranks, top-{}, {} tokens a rank, {:.0f} bytes a "
      "row, {}\n"
      "time: us, last rank (mean over ranks); MB: 1e6 bytes a rank, mean (busiest); memory: busiest rank\n",
      first.num_scaleup_ranks, first.num_topk, first.num_tokens, first.row_bytes(),
      first.zipf_exponent > 0 ? fmt::format("zipf:{} routing", first.zipf_exponent) : "uniform routing");
  for (const GrowthStep& step : steps) {
    const PlanInputs& in = step.inputs;
    text += fmt::format(
        "\n{} ranks, {} experts; {} tokens a rank {}; arena {:.1f} MB compact, {:.1f} expanded; plan {:.2f} "
        "MB\n",
        in.num_ranks(), in.num_experts, step.num_sampled_tokens,
        step.num_sampled_tokens < in.num_tokens ? "drawn and scaled up" : "drawn, all of them",
        step.memory.compact_arena / kMegabyte, step.memory.expanded_arena / kMegabyte,
        step.memory.plan / kMegabyte);
    for (const auto& [variant, load, time] : step.variants) {
      const auto megabytes = [&](double rows) { return rows * in.row_bytes() / kMegabyte; };
      text += fmt::format(
          "  {:<24}{:<10}{:<8}{:>10.1f} ({:.1f}) us; scale-up {:.1f} ({:.1f}), scale-out {:.1f} ({:.1f}) "
          "MB\n",
          variant.operation_name(), variant.layout_name(), variant.mode_name(), time.total_us, time.mean_us,
          megabytes(load.mean.scaleup), megabytes(load.busiest.link_rows()), megabytes(load.mean.scaleout),
          megabytes(load.busiest.net_rows()));
    }
  }
  return text;
}

}  // namespace flexep::tool
