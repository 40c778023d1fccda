// SPDX-License-Identifier: Apache-2.0
#include "flexep/communicator.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "blocking.h"
#include "core/mpi_job.h"

namespace flexep::python {
namespace {

using namespace nb::literals;

using Seconds = std::optional<double>;

std::chrono::milliseconds to_milliseconds(Seconds seconds) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(seconds.value_or(0)));
}

CommunicatorOptions options_with(Seconds timeout) {
  return {.timeout = to_milliseconds(timeout)};
}

Communicator from_job(std::string id, int rank, int num_ranks, Seconds timeout) {
  return blocking([&] {
    return Communicator::from_job({.id = std::move(id), .rank = rank, .num_ranks = num_ranks},
                                  options_with(timeout));
  });
}

// The handle that an mpi4py communicator keeps, and its size: which MPI that is only the program knows.
template <typename T>
T ask_mpi4py(const char* function, const nb::object& comm) {
  return nb::cast<T>(nb::module_::import_("mpi4py.MPI").attr(function)(comm));
}

Communicator from_mpi(const nb::object& comm, Seconds timeout) {
  const CommunicatorOptions options = options_with(timeout);
  if (!comm.is_none()) {
    const auto* const handle = reinterpret_cast<const void*>(ask_mpi4py<std::uintptr_t>("_addressof", comm));
    const auto num_bytes = ask_mpi4py<std::size_t>("_sizeof", comm);
    return blocking([&] { return internal::from_mpi_handle(handle, num_bytes, options); });
  }
  const Environment env = Environment::read();
  if (env.mpi_num_ranks.value_or(1) == 1) return Communicator::self(options);
  return blocking([&] { return from_mpi_launcher(options, env); });
}

nb::object from_process_group(const nb::object& group, Seconds timeout) {
  return nb::module_::import_("flexep._process_group").attr("open_group")(group, timeout);
}

nb::list all_gather_bytes(Communicator& self, const nb::bytes& mine) {
  const auto bytes = std::as_bytes(std::span(mine.c_str(), mine.size()));
  const auto gathered = blocking([&] { return self.all_gather_bytes(bytes); });
  nb::list all;
  for (const auto& each : gathered) all.append(nb::bytes(each.data(), each.size()));
  return all;
}

template <typename T>
void all_reduce_sum(Communicator& self,
                    const nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>& values) {
  blocking([&] { self.all_reduce_sum(std::span(values.data(), values.size())); });
}

}  // namespace

void bind_communicator(nb::module_& module) {
  module.def(
      "mpi_environment",
      [] {
        const Environment env = Environment::read();
        return std::pair(env.mpi_num_ranks, env.scaleup_size);
      },
      "(ranks that a launcher of MPI has started, FLEXEP_SCALEUP_SIZE), each None where the environment says "
      "nothing.");
  nb::class_<Communicator>(
      module, "Communicator",
      "A group of ranks that communicate. Methods are collective: every rank calls them, in the "
      "same order. Timeouts are seconds; None is FLEXEP_TIMEOUT_SECS, else 300.")
      .def_static(
          "from_environment",
          [](Seconds timeout) {
            return blocking([&] { return Communicator::from_environment(options_with(timeout)); });
          },
          "timeout"_a = nb::none(),
          "The group that RANK and WORLD_SIZE describe; none set is a group of one.")
      .def_static(
          "from_process_group", &from_process_group, "group"_a = nb::none(), "timeout"_a = nb::none(),
          nb::sig("def from_process_group(group: object | None = None, timeout: float | None = None) -> "
                  "Communicator"),
          "The ranks of a torch.distributed process group of any backend; None is the default group.")
      .def_static(
          "from_mpi", &from_mpi, "comm"_a = nb::none(), "timeout"_a = nb::none(),
          nb::sig("def from_mpi(comm: object | None = None, timeout: float | None = None) -> Communicator"),
          "The ranks of a communicator of mpi4py; None is all processes that a launcher of MPI has started, "
          "whatever RANK and WORLD_SIZE say. Collective over them, on any number of machines.")
      .def_static("from_job", &from_job, "id"_a, "rank"_a, "num_ranks"_a, "timeout"_a = nb::none(),
                  "Processes of one machine that have agreed on a name that no other group has.")
      .def_static(
          "single", [](Seconds timeout) { return Communicator::self(options_with(timeout)); },
          "timeout"_a = nb::none(), "A group of one rank.")
      .def_prop_ro("rank", &Communicator::rank)
      .def_prop_ro("num_ranks", &Communicator::num_ranks)
      .def_prop_ro("transport_name", &Communicator::transport_name)
      .def_prop_ro("supports_async", &Communicator::supports_async,
                   "Whether asynchronous operations go on while the program does other things.")
      .def_prop_ro(
          "timeout",
          [](const Communicator& self) { return std::chrono::duration<double>(self.timeout()).count(); })
      .def("barrier", [](Communicator& self) { blocking([&] { self.barrier(); }); })
      .def("all_gather_bytes", &all_gather_bytes, "mine"_a, "Every rank's bytes, by rank.")
      .def("all_reduce_sum", &all_reduce_sum<float>, "values"_a.noconvert(),
           "Replaces values by their sums over ranks, added in rank order; fp32 or fp64, one-dimensional.")
      .def("all_reduce_sum", &all_reduce_sum<double>, "values"_a.noconvert())
      .def(
          "split",
          [](Communicator& self, int color, int key) {
            return blocking([&] { return self.split(color, key); });
          },
          "color"_a, "key"_a, "The groups of ranks that pass the same color, ordered by (key, rank).")
      .def("duplicate", [](Communicator& self) { return blocking([&] { return self.duplicate(); }); })
      .def(
          "rebuild",
          [](Communicator& self, Seconds patience) {
            return blocking([&] { return self.rebuild(to_milliseconds(patience)); });
          },
          "patience"_a = nb::none(), "A new group of the ranks that are still there. Collective over those.")
      .def("abort", &Communicator::abort, "reason"_a,
           "Declares the group broken for all ranks. Not collective.");
}

}  // namespace flexep::python
