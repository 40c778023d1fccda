// SPDX-License-Identifier: Apache-2.0
#include "flexep/elastic_buffer.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "blocking.h"
#include "flexep/error.h"
#include "tensor_exchange.h"

namespace flexep::python {
namespace {

using namespace nb::literals;

using Registration = DestroyedWithoutGil<RegisteredMemory>;

/// A buffer, and what its operations need to know of streams.
struct Buffer : DestroyedWithoutGil<ElasticBuffer> {
  Buffer(ElasticBuffer buffer, Device its_device)
      : DestroyedWithoutGil<ElasticBuffer>(std::move(buffer)),
        device(its_device),
        comm_stream(device.is_host() ? 0 : communication_stream(device)) {}

  /// What an operation on `x` follows: the given stream, else the current one of the library of `x`.
  StreamHandle stream_for(nb::handle x, std::optional<StreamHandle> given) const {
    if (device.is_host()) return 0;
    return given ? *given : stream_of(x, device);
  }

  /// Runs `work` without the GIL, and in the order of the stream.
  template <typename Work>
  auto run(StreamHandle stream, Work work) {
    return blocking([&] {
      if (device.is_host()) return work();
      std::optional<decltype(work())> result;
      run_on(stream, [&] { result.emplace(work()); });
      return *std::move(result);
    });
  }

  Device device;
  StreamHandle comm_stream;
};

ArenaMemory arena_memory_named(std::string_view name) {
  if (name == "device") return ArenaMemory::kDevice;
  if (name == "pinned_host") return ArenaMemory::kPinnedHost;
  throw InvalidArgument("arena_memory", "arena_memory must be \"device\" or \"pinned_host\", and is \"" +
                                            std::string(name) + "\"");
}

void make_buffer(Buffer* self, const Communicator& comm, std::string_view device, int num_max_tokens_per_rank,
                 int hidden, int num_topk, bool use_fp8_dispatch, bool allow_multiple_reduction,
                 bool deterministic, int num_sms, std::int64_t max_arena_bytes,
                 std::optional<std::int64_t> num_bytes, std::int64_t num_cpu_bytes, bool explicitly_destroy,
                 bool allow_hybrid_mode, bool prefer_overlap_with_compute, int sl_idx, int num_allocated_qps,
                 std::int64_t max_staging_bytes, std::string_view arena_memory) {
  const ElasticBufferConfig config{.device = device_named(device),
                                   .num_max_tokens_per_rank = num_max_tokens_per_rank,
                                   .hidden = hidden,
                                   .num_topk = num_topk,
                                   .use_fp8_dispatch = use_fp8_dispatch,
                                   .allow_multiple_reduction = allow_multiple_reduction,
                                   .deterministic = deterministic,
                                   .num_sms = num_sms,
                                   .arena_memory = arena_memory_named(arena_memory),
                                   .max_arena_bytes = max_arena_bytes,
                                   .max_staging_bytes = max_staging_bytes,
                                   .num_bytes = num_bytes,
                                   .num_cpu_bytes = num_cpu_bytes,
                                   .explicitly_destroy = explicitly_destroy,
                                   .network = {.allow_hybrid_mode = allow_hybrid_mode,
                                               .prefer_overlap_with_compute = prefer_overlap_with_compute,
                                               .sl_idx = sl_idx,
                                               .num_allocated_qps = num_allocated_qps}};
  new (self) Buffer(blocking([&] { return ElasticBuffer(comm, config); }), config.device);
}

DispatchResult dispatch(Buffer& self, nb::handle x, nb::handle sf, nb::handle topk_idx,
                        nb::handle topk_weights, int num_experts, int num_max_tokens_per_rank,
                        int expert_alignment, int num_sms, int num_qps, const DispatchHandle* handle,
                        std::optional<bool> do_expand, std::optional<bool> do_zero_padding,
                        std::optional<bool> use_tma_aligned_col_major_sf,
                        nb::handle cumulative_local_expert_recv_stats, bool do_handle_copy,
                        int max_recv_tokens, std::optional<bool> do_cpu_sync, nb::handle num_tokens,
                        bool check_weights, bool async_with_compute_stream, const Event* previous_event,
                        const Event* previous_event_before_epilogue, bool allocate_on_comm_stream,
                        std::optional<StreamHandle> given_stream) {
  const StreamHandle stream = self.stream_for(x, given_stream);
  const DispatchArgs args{
      .x = tensor_from(x, "x", stream),
      .sf = tensor_from(sf, "sf", stream),
      .topk_idx = tensor_from(topk_idx, "topk_idx", stream),
      .topk_weights = tensor_from(topk_weights, "topk_weights", stream),
      .num_experts = num_experts,
      .num_max_tokens_per_rank = num_max_tokens_per_rank,
      .expert_alignment = expert_alignment,
      .num_sms = num_sms,
      .num_qps = num_qps,
      .handle = handle ? *handle : DispatchHandle(),
      .do_expand = do_expand,
      .do_zero_padding = do_zero_padding,
      .use_tma_aligned_col_major_sf = use_tma_aligned_col_major_sf,
      .cumulative_local_expert_recv_stats = tensor_from(
          cumulative_local_expert_recv_stats, "cumulative_local_expert_recv_stats", stream, Access::kWrite),
      .do_handle_copy = do_handle_copy,
      .max_recv_tokens = max_recv_tokens,
      .do_cpu_sync = do_cpu_sync,
      .num_tokens = tensor_from(num_tokens, "num_tokens", stream),
      .check_weights = check_weights,
      .async_with_compute_stream = async_with_compute_stream,
      .previous_event = previous_event ? *previous_event : Event(),
      .previous_event_before_epilogue =
          previous_event_before_epilogue ? *previous_event_before_epilogue : Event(),
      .allocate_on_comm_stream = allocate_on_comm_stream};
  return self.run(stream, [&] { return self->dispatch(args); });
}

std::array<Tensor, 2> biases_from(nb::handle bias, StreamHandle stream) {
  if (!nb::isinstance<nb::tuple>(bias)) return {tensor_from(bias, "bias", stream)};
  const auto rows = nb::borrow<nb::tuple>(bias);
  if (rows.size() != 2) throw InvalidArgument("bias", "bias must be a tensor or a tuple of two");
  return {tensor_from(rows[0], "bias", stream), tensor_from(rows[1], "bias", stream)};
}

CombineResult combine(Buffer& self, nb::handle x, const DispatchHandle& handle, nb::handle topk_weights,
                      nb::handle bias, int num_sms, int num_qps, bool async_with_compute_stream,
                      const Event* previous_event, const Event* previous_event_before_epilogue,
                      bool allocate_on_comm_stream, std::optional<StreamHandle> given_stream) {
  const StreamHandle stream = self.stream_for(x, given_stream);
  const CombineArgs args{.x = tensor_from(x, "x", stream),
                         .handle = handle,
                         .topk_weights = tensor_from(topk_weights, "topk_weights", stream),
                         .bias = biases_from(bias, stream),
                         .num_sms = num_sms,
                         .num_qps = num_qps,
                         .async_with_compute_stream = async_with_compute_stream,
                         .previous_event = previous_event ? *previous_event : Event(),
                         .previous_event_before_epilogue =
                             previous_event_before_epilogue ? *previous_event_before_epilogue : Event(),
                         .allocate_on_comm_stream = allocate_on_comm_stream};
  return self.run(stream, [&] { return self->combine(args); });
}

Tensor empty(Buffer& self, const std::vector<std::int64_t>& shape, std::string_view dtype,
             StreamHandle stream) {
  return self.run(stream, [&] { return self->empty(Shape(shape), dtype_named(dtype)); });
}

Event capture(std::optional<StreamHandle> stream) {
  return stream ? capture_on(*stream) : ElasticBuffer::capture();
}

// Keeps `memory` alive as long as it is registered.
Registration* register_memory(Buffer& self, nb::handle memory) {
  const StreamHandle stream = self.stream_for(memory, std::nullopt);
  const Tensor tensor = tensor_from(memory, "memory", stream, Access::kWrite);
  if (!tensor.is_contiguous()) throw InvalidArgument("memory", "memory must be contiguous");
  return new Registration(
      self.run(stream, [&] { return self->register_memory(tensor.data(), tensor.num_bytes()); }));
}

nb::tuple to_tuple(DomainSize size) {
  return nb::make_tuple(size.num_scaleout_ranks, size.num_scaleup_ranks);
}

template <typename Result, Tensor Result::*... kTensors>
nb::tuple tensors_of(const Result& self, nb::handle type) {
  return nb::make_tuple(to_library(self.*kTensors, type)...);
}

void bind_results(nb::module_& module) {
  nb::class_<DispatchResult>(
      module, "DispatchResult",
      "What a rank received; absent parts are None. Tensors are arena memory, which goes back "
      "when they die.")
      .def("tensors",
           &tensors_of<DispatchResult, &DispatchResult::x, &DispatchResult::topk_idx,
                       &DispatchResult::topk_weights, &DispatchResult::sf>,
           "type"_a,
           "(x, topk_idx, topk_weights, sf) as tensors of a library whose `type` of tensors has an exchange "
           "API of "
           "DLPack, such as torch.Tensor. As complete as for the stream of the operation.")
      .def_prop_ro("x", [](const DispatchResult& self) { return to_python(self.x); })
      .def_prop_ro("sf", [](const DispatchResult& self) { return to_python(self.sf); })
      .def_prop_ro("topk_idx", [](const DispatchResult& self) { return to_python(self.topk_idx); })
      .def_prop_ro("topk_weights", [](const DispatchResult& self) { return to_python(self.topk_weights); })
      .def_ro("handle", &DispatchResult::handle)
      .def_ro("event", &DispatchResult::event, "False unless the dispatch was asynchronous.");
  nb::class_<CombineResult>(module, "CombineResult", "The sums of this rank's tokens.")
      .def("tensors", &tensors_of<CombineResult, &CombineResult::x, &CombineResult::topk_weights>, "type"_a,
           "(x, topk_weights), as DispatchResult.tensors.")
      .def_prop_ro("x", [](const CombineResult& self) { return to_python(self.x); })
      .def_prop_ro("topk_weights", [](const CombineResult& self) { return to_python(self.topk_weights); })
      .def_ro("event", &CombineResult::event, "False unless the combine was asynchronous.");
}

void bind_counters(nb::module_& module) {
  using C = OperationCounters;
  nb::class_<C>(module, "OperationCounters", "What operations of one buffer moved on this rank.")
      .def_ro("num_operations", &C::num_operations)
      .def_ro("num_rows_local", &C::num_rows_local)
      .def_ro("bytes_local", &C::bytes_local)
      .def_ro("num_rows_scaleup", &C::num_rows_scaleup)
      .def_ro("bytes_scaleup", &C::bytes_scaleup)
      .def_ro("num_rows_scaleout", &C::num_rows_scaleout)
      .def_ro("bytes_scaleout", &C::bytes_scaleout)
      .def_ro("num_rows_deduplicated", &C::num_rows_deduplicated)
      .def_ro("link_bytes", &C::link_bytes)
      .def_ro("staging_bytes", &C::staging_bytes)
      .def_ro("bytes_read", &C::bytes_read)
      .def_ro("bytes_written", &C::bytes_written)
      .def_ro("wait_ns", &C::wait_ns);
  nb::class_<BufferCounters>(module, "BufferCounters", "Counters of one buffer on this rank.")
      .def_ro("dispatch", &BufferCounters::dispatch)
      .def_ro("combine", &BufferCounters::combine)
      .def_ro("last_dispatch", &BufferCounters::last_dispatch)
      .def_ro("last_combine", &BufferCounters::last_combine)
      .def_ro("expert_load", &BufferCounters::expert_load);
}

void bind_registered_memory(nb::module_& module) {
  nb::class_<Registration>(
      module, "RegisteredMemory",
      "Memory that combine reads where it lies, until release() or the end of this object.")
      .def("release", &Registration::reset)
      .def("__bool__", [](const Registration& self) { return static_cast<bool>(self); })
      .def("__enter__", [](nb::object self) { return self; })
      .def("__exit__", [](Registration& self, const nb::args&) { self.reset(); });
}

}  // namespace

void bind_elastic_buffer(nb::module_& module) {
  bind_results(module);
  bind_counters(module);
  bind_registered_memory(module);
  nb::class_<Buffer>(
      module, "ElasticBuffer",
      "Moves tokens between the ranks of a group. Operations are collective: every rank calls them in the "
      "same order. Arguments are those of flexep/elastic_buffer.h, which says what each means. On a GPU "
      "operations follow `stream`, the handle of a stream of CUDA; None is the current stream of the library "
      "of "
      "`x`, where it has an exchange API of DLPack (PyTorch from 2.10 on), else the legacy default stream.")
      .def("__init__", &make_buffer, "comm"_a, nb::kw_only(), "device"_a = "cpu",
           "num_max_tokens_per_rank"_a = 0, "hidden"_a = 0, "num_topk"_a = 0, "use_fp8_dispatch"_a = false,
           "allow_multiple_reduction"_a = true, "deterministic"_a = false, "num_sms"_a = 0,
           "max_arena_bytes"_a = 0, "num_bytes"_a = nb::none(), "num_cpu_bytes"_a = 0,
           "explicitly_destroy"_a = false, "allow_hybrid_mode"_a = true,
           "prefer_overlap_with_compute"_a = true, "sl_idx"_a = 3, "num_allocated_qps"_a = 0,
           "max_staging_bytes"_a = ElasticBufferConfig().max_staging_bytes, "arena_memory"_a = "device")
      .def_prop_ro(
          "device", [](const Buffer& self) { return name_of(self.device); }, "\"cpu\", \"cuda:0\".")
      .def_prop_ro(
          "comm_stream", [](const Buffer& self) { return self.comm_stream; },
          "The handle of the stream of CUDA that operations run on; 0 on the CPU.")
      .def_prop_ro("rank", [](Buffer& self) { return self->rank(); })
      .def_prop_ro("num_ranks", [](Buffer& self) { return self->num_ranks(); })
      .def_prop_ro("num_max_tokens_per_rank", [](Buffer& self) { return self->num_max_tokens_per_rank(); })
      .def_prop_ro(
          "supports_async", [](Buffer& self) { return self->supports_async(); },
          "Whether asynchronous operations go on while the program does other things.")
      .def_prop_ro("num_bytes", [](Buffer& self) { return self->num_bytes(); })
      .def_prop_ro("arena_bytes", [](Buffer& self) { return self->arena_bytes(); })
      .def(
          "get_physical_domain_size", [](Buffer& self) { return to_tuple(self->get_physical_domain_size()); },
          "(scale-out ranks, scale-up ranks).")
      .def("get_logical_domain_size", [](Buffer& self) { return to_tuple(self->get_logical_domain_size()); })
      .def("dispatch", &dispatch, "x"_a, nb::kw_only(), "sf"_a = nb::none(), "topk_idx"_a = nb::none(),
           "topk_weights"_a = nb::none(), "num_experts"_a = 0, "num_max_tokens_per_rank"_a = 0,
           "expert_alignment"_a = 0, "num_sms"_a = 0, "num_qps"_a = 0, "handle"_a = nb::none(),
           "do_expand"_a = nb::none(), "do_zero_padding"_a = nb::none(),
           "use_tma_aligned_col_major_sf"_a = nb::none(), "cumulative_local_expert_recv_stats"_a = nb::none(),
           "do_handle_copy"_a = true, "max_recv_tokens"_a = 0, "do_cpu_sync"_a = nb::none(),
           "num_tokens"_a = nb::none(), "check_weights"_a = false, "async_with_compute_stream"_a = false,
           "previous_event"_a = nb::none(), "previous_event_before_epilogue"_a = nb::none(),
           "allocate_on_comm_stream"_a = false, "stream"_a = nb::none(),
           "Sends each token to the ranks that own its top-k experts.")
      .def("combine", &combine, "x"_a, nb::kw_only(), "handle"_a, "topk_weights"_a = nb::none(),
           "bias"_a = nb::none(), "num_sms"_a = 0, "num_qps"_a = 0, "async_with_compute_stream"_a = false,
           "previous_event"_a = nb::none(), "previous_event_before_epilogue"_a = nb::none(),
           "allocate_on_comm_stream"_a = false, "stream"_a = nb::none(),
           "Brings the rows of a dispatch back and sums them by token.")
      .def("empty", &empty, "shape"_a, "dtype"_a, "stream"_a = 0,
           "Arena memory, uninitialised: experts that write their output here spare combine a copy.")
      .def("register_memory", &register_memory, "memory"_a,
           "Lets combine read this tensor in place: whole pages of private memory, or memory of the buffer's "
           "GPU. Not "
           "collective.")
      .def("barrier", [](Buffer& self) { blocking([&] { self->barrier(); }); })
      .def(
          "check", [](Buffer& self) { blocking([&] { self->check(); }); },
          "Raises what dispatches without host sync left to be told. Not collective.")
      .def("destroy", [](Buffer& self) { blocking([&] { self->destroy(); }); })
      .def("counters", [](Buffer& self) { return blocking([&] { return self->counters(); }); })
      .def(
          "trim", [](Buffer& self) { return blocking([&] { return self->trim(); }); },
          "Gives unused arena memory back; how many bytes.")
      .def_static("capture", &capture, "stream"_a = nb::none(),
                  "The end of what the calling thread, or a stream of CUDA, has been given so far.");
}

}  // namespace flexep::python
