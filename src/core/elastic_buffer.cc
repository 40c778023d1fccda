// SPDX-License-Identifier: Apache-2.0
#include "flexep/elastic_buffer.h"

#include <cstring>
#include <random>

#include "common/check.h"
#include "core/elastic_buffer_impl.h"
#include "flexep/env.h"
#include "flexep/plan_model.h"

namespace flexep {
namespace {

int resolve_default_num_sms(const ElasticBufferConfig& config, const Backend& backend,
                            const Transport& transport) {
  require_argument(config.num_sms >= 0, "num_sms", "num_sms is {}, but must not be negative", config.num_sms);
  if (config.num_sms > 0) return config.num_sms;
  const auto num_threads = Environment::read().num_threads;
  require_argument(num_threads.value_or(1) > 0, "FLEXEP_NUM_THREADS",
                   "FLEXEP_NUM_THREADS is {}, but must be positive", num_threads.value_or(1));
  return num_threads.value_or(backend.default_width(transport.num_local_ranks()));
}

// Handles of different buffers must differ even when they are used with one buffer: rank 0 draws a number for
// all.
std::int64_t agree_on_id(Transport& transport) {
  std::random_device entropy;
  std::int64_t id = static_cast<std::int64_t>(entropy()) << 31;
  const auto all = transport.all_gather(bytes_of(id), {.name = "construct"});
  std::memcpy(&id, all[0].data(), sizeof(id));
  return id;
}

}  // namespace

ElasticBuffer::Impl::Impl(const Communicator& comm, const ElasticBufferConfig& config)
    : config_(config),
      transport_(comm.transport().split(0, comm.rank())),
      backend_(make_cpu_backend()),
      context_{.rank = transport_->rank(),
               .num_ranks = transport_->num_ranks(),
               .default_num_max_tokens_per_rank = config.num_max_tokens_per_rank,
               .default_num_sms = 1},
      agreement_(*transport_),
      arena_(std::make_shared<Arena>(transport_)),
      peers_(*transport_) {
  id_ = agree_on_id(*transport_);
  agreement_.exchange({.name = "construct"}, [&] {
    require_argument(config.num_max_tokens_per_rank >= 0, "num_max_tokens_per_rank",
                     "num_max_tokens_per_rank on rank {} is {}, but must not be negative", rank(),
                     config.num_max_tokens_per_rank);
    context_.default_num_sms = resolve_default_num_sms(config, *backend_, *transport_);
    ExchangeMessage message;
    message.header[Field::kAllowMultipleReduction] = config.allow_multiple_reduction;
    return message;
  });
}

void ElasticBuffer::Impl::count_rows(std::span<const std::int32_t> num_rows_per_rank, std::size_t row_bytes) {
  for (std::size_t rank = 0; rank < num_rows_per_rank.size(); ++rank) {
    const std::int64_t num_rows = num_rows_per_rank[rank];
    const bool is_local = static_cast<int>(rank) == context_.rank;
    (is_local ? counters_.num_rows_local : counters_.num_rows_remote) += num_rows;
    if (!is_local) counters_.link_bytes += num_rows * static_cast<std::int64_t>(row_bytes);
  }
}

ElasticBuffer::ElasticBuffer(const Communicator& comm, const ElasticBufferConfig& config)
    : impl_(std::make_unique<Impl>(comm, config)) {}
ElasticBuffer::~ElasticBuffer() = default;
ElasticBuffer::ElasticBuffer(ElasticBuffer&&) noexcept = default;
ElasticBuffer& ElasticBuffer::operator=(ElasticBuffer&&) noexcept = default;

int ElasticBuffer::rank() const {
  return impl_->rank();
}
int ElasticBuffer::num_ranks() const {
  return impl_->num_ranks();
}
DispatchResult ElasticBuffer::dispatch(const DispatchArgs& args) {
  return impl_->dispatch(args);
}
CombineResult ElasticBuffer::combine(const CombineArgs& args) {
  return impl_->combine(args);
}

Tensor ElasticBuffer::empty(const Shape& shape, DType dtype) {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  return make_tensor(impl_->arena().reserve(num_bytes), shape, dtype);
}

std::int64_t ElasticBuffer::num_bytes() const {
  const ElasticBufferConfig& config = impl_->config();
  if (config.num_max_tokens_per_rank == 0 || config.hidden == 0) return 0;
  return get_buffer_size_hint({.num_scaleup_ranks = num_ranks(),
                               .num_max_tokens_per_rank = config.num_max_tokens_per_rank,
                               .hidden = config.hidden,
                               .num_topk = config.num_topk,
                               .allow_multiple_reduction = config.allow_multiple_reduction});
}

BufferCounters ElasticBuffer::counters() const {
  return impl_->counters();
}
std::int64_t ElasticBuffer::arena_bytes() const {
  return static_cast<std::int64_t>(impl_->arena().num_bytes());
}

}  // namespace flexep
