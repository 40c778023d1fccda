// SPDX-License-Identifier: Apache-2.0
//
// The planning functions, for any numbers: an answer that makes sense, or a refusal.
#include "arbitrary_tensor.h"
#include "flexep/memory_model.h"
#include "flexep/plan_model.h"

namespace flexep::fuzz {
namespace {

/// Sizes as people ask for them.
int usual_size(FuzzInput& input) {
  return input.one_of({0, 1, 2, 8, 64, 1024, 4096, 7168});
}

/// The same, or any number.
template <typename T>
T draw_size(FuzzInput& input) {
  return input.rarely() ? input.integer<T>() : static_cast<T>(usual_size(input));
}

void run_buffer_size(FuzzInput& input) {
  const BufferSizeInputs in{.num_scaleout_ranks = draw_size<int>(input),
                            .num_scaleup_ranks = draw_size<int>(input),
                            .num_nvlink_ranks = draw_size<int>(input),
                            .num_max_tokens_per_rank = draw_size<std::int64_t>(input),
                            .hidden = draw_size<std::int64_t>(input),
                            .num_topk = draw_size<std::int64_t>(input),
                            .use_fp8_dispatch = input.flag(),
                            .allow_multiple_reduction = input.flag()};
  accepts([&] { promise(get_buffer_size_hint(in) > 0); });
}

void run_num_sms(FuzzInput& input) {
  NumSmsInputs in{.num_scaleout_ranks = draw_size<int>(input),
                  .num_scaleup_ranks = draw_size<int>(input),
                  .num_nvlink_ranks = draw_size<int>(input),
                  .num_experts = draw_size<int>(input),
                  .num_topk = draw_size<int>(input),
                  .num_device_sms = draw_size<int>(input),
                  .prefer_overlap_with_compute = input.flag()};
  for (double* gbs : {&in.nvlink_gbs, &in.rdma_gbs, &in.sm_read_gbs, &in.sm_write_gbs}) {
    *gbs = input.rarely() ? input.bits<double>() : draw_size<int>(input);
  }
  accepts([&] {
    const int best = get_theoretical_num_sms(in);
    promise(best > 0 && best <= in.num_device_sms);
  });
  const int num_sms = draw_size<int>(input), num_allocated_qps = draw_size<int>(input);
  accepts([&] {
    const int num_qps = get_theoretical_num_qps(num_sms, in.prefer_overlap_with_compute, num_allocated_qps);
    promise(num_qps > 0 && num_qps <= num_allocated_qps);
  });
}

void run_memory(FuzzInput& input) {
  const MemoryInputs in{.num_ranks = usual_size(input),
                        .num_tokens = usual_size(input),
                        .hidden = usual_size(input),
                        .num_topk = usual_size(input),
                        .num_experts = usual_size(input),
                        .expert_alignment = usual_size(input),
                        .do_expand = input.flag(),
                        .dtype = draw_dtype(input),
                        .num_sf_packs = usual_size(input),
                        .idx_dtype = draw_dtype(input),
                        .weight_dtype = draw_dtype(input),
                        .combine_dtype = draw_dtype(input),
                        .is_worst_case = input.flag(),
                        .max_recv_tokens = usual_size(input),
                        .num_live_dispatches = usual_size(input)};
  accepts([&] {
    const MemoryNeed need = plan_memory(in);
    promise(need.num_rows >= 0 && need.dispatch_bytes() >= 0 && need.combine_bytes() >= 0);
    promise(need.total_bytes() >= need.combine_bytes() && !need.to_string().empty());
  });
}

}  // namespace
}  // namespace flexep::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  flexep::fuzz::FuzzInput input(data, size);
  flexep::fuzz::run_buffer_size(input);
  flexep::fuzz::run_num_sms(input);
  flexep::fuzz::run_memory(input);
  return 0;
}
