// SPDX-License-Identifier: Apache-2.0
#include "flexep/plan_model.h"

#include "bindings.h"

namespace flexep::python {
namespace {

using namespace nb::literals;

std::int64_t buffer_size_hint(std::int64_t num_max_tokens_per_rank, std::int64_t hidden,
                              std::int64_t num_topk, bool use_fp8_dispatch, bool allow_multiple_reduction,
                              int num_scaleout_ranks, int num_scaleup_ranks, int num_nvlink_ranks) {
  return get_buffer_size_hint({.num_scaleout_ranks = num_scaleout_ranks,
                               .num_scaleup_ranks = num_scaleup_ranks,
                               .num_nvlink_ranks = num_nvlink_ranks,
                               .num_max_tokens_per_rank = num_max_tokens_per_rank,
                               .hidden = hidden,
                               .num_topk = num_topk,
                               .use_fp8_dispatch = use_fp8_dispatch,
                               .allow_multiple_reduction = allow_multiple_reduction});
}

int theoretical_num_sms(int num_experts, int num_topk, int num_scaleout_ranks, int num_scaleup_ranks,
                        int num_nvlink_ranks, int num_device_sms, double nvlink_gbs, double rdma_gbs,
                        double sm_read_gbs, double sm_write_gbs, bool prefer_overlap_with_compute) {
  return get_theoretical_num_sms({.num_scaleout_ranks = num_scaleout_ranks,
                                  .num_scaleup_ranks = num_scaleup_ranks,
                                  .num_nvlink_ranks = num_nvlink_ranks,
                                  .num_experts = num_experts,
                                  .num_topk = num_topk,
                                  .num_device_sms = num_device_sms,
                                  .nvlink_gbs = nvlink_gbs,
                                  .rdma_gbs = rdma_gbs,
                                  .sm_read_gbs = sm_read_gbs,
                                  .sm_write_gbs = sm_write_gbs,
                                  .prefer_overlap_with_compute = prefer_overlap_with_compute});
}

}  // namespace

void bind_plan_model(nb::module_& module) {
  module.def("get_buffer_size_hint", &buffer_size_hint, "num_max_tokens_per_rank"_a, "hidden"_a,
             "num_topk"_a = 0, nb::kw_only(), "use_fp8_dispatch"_a = false,
             "allow_multiple_reduction"_a = true, "num_scaleout_ranks"_a = 1, "num_scaleup_ranks"_a = 1,
             "num_nvlink_ranks"_a = 0,
             "Bytes that DeepEP V2 reserves per rank; flexep's memory follows what arrives.");
  module.def("get_theoretical_num_sms", &theoretical_num_sms, "num_experts"_a, "num_topk"_a, nb::kw_only(),
             "num_scaleout_ranks"_a = 1, "num_scaleup_ranks"_a = 1, "num_nvlink_ranks"_a = 0,
             "num_device_sms"_a = 132, "nvlink_gbs"_a = 0.0, "rdma_gbs"_a = 0.0, "sm_read_gbs"_a = 200.0,
             "sm_write_gbs"_a = 50.0, "prefer_overlap_with_compute"_a = true,
             "Multiprocessors of a GPU that fill the slower link.");
  module.def("get_theoretical_num_qps", &get_theoretical_num_qps, "num_sms"_a, "allow_hybrid_mode"_a,
             "num_allocated_qps"_a, "Queue pairs that so many multiprocessors use.");
}

}  // namespace flexep::python
