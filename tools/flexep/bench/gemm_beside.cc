// SPDX-License-Identifier: Apache-2.0
#include "bench/gemm_beside.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "bench/gemm.h"
#include "bench/timing.h"
#include "common/math.h"
#include "flexep/error.h"

namespace flexep::tool {
namespace {

constexpr int kNumTimes = 9;

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

/// The product on a stream of its own, timed by the device.
class TimedGemm {
 public:
  TimedGemm(Device device, int num_sms) : gemm_(device, num_sms) {
    require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&begin_, &end_}) require(cudaEventCreate(event));
    start();  // for the first time, while nothing else runs
    wait_us();
  }
  ~TimedGemm() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
    cudaStreamDestroy(stream_);
  }
  TimedGemm(const TimedGemm&) = delete;
  TimedGemm& operator=(const TimedGemm&) = delete;

  void start() {
    require(cudaEventRecord(begin_, stream_));
    gemm_.enqueue(stream_);
    require(cudaEventRecord(end_, stream_));
  }
  double wait_us() {
    require(cudaEventSynchronize(end_));
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return 1000 * static_cast<double>(milliseconds);
  }
  bool is_right() const { return gemm_.is_right(); }

 private:
  Gemm gemm_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

/// Multiprocessors that communication leaves over on the GPU of rank 0.
int num_sms_left(const BenchRank& rank) {
  int num_sms = 0;
  require(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, rank.placement.device().index));
  const int num_ranks = ceil_div(rank.comm.num_ranks(), rank.options.num_gpus_used());
  return std::max(num_sms - num_ranks * rank.handle.num_sms(), 1);
}

double median_alone_us(BenchRank& rank, std::optional<TimedGemm>& gemm) {
  std::vector<double> times;
  for (int i = 0; gemm && i < kNumTimes; ++i) {
    gemm->start();
    times.push_back(gemm->wait_us());
  }
  return rank.comm.all_gather(gemm ? median_of(times) : 0.0)[0];
}

double median_beside_us(BenchRank& rank, std::optional<TimedGemm>& gemm, BenchOperation& operation,
                        int num_runs) {
  std::vector<double> times;
  for (int i = 0; i < kNumTimes; ++i) {
    rank.comm.barrier();
    operation.enqueue();
    operation.discard();
    if (gemm) gemm->start();
    for (int run = 0; run < num_runs; ++run) {
      operation.enqueue();
      operation.discard();
    }
    if (gemm) times.push_back(gemm->wait_us());
    operation.finish();
  }
  return rank.comm.all_gather(gemm ? median_of(times) : 0.0)[0];
}

}  // namespace

GemmBeside measure_gemm_beside(BenchRank& rank, BenchOperation& operation, double operation_us) {
  GemmBeside result{.num_sms = num_sms_left(rank)};
  std::optional<TimedGemm> gemm;
  if (rank.comm.rank() == 0) gemm.emplace(rank.placement.device(), result.num_sms);
  result.alone_us = median_alone_us(rank, gemm);
  result.tflops = Gemm::kNumFlops / result.alone_us / 1e6;
  // So many that they go on for longer than the product, slowed down as it may be.
  constexpr double kMargin = 2;
  const int num_runs = static_cast<int>(std::ceil(kMargin * result.alone_us / operation_us)) + 1;
  result.beside_us = median_beside_us(rank, gemm, operation, num_runs);
  result.is_right = rank.comm.all_gather(static_cast<char>(!gemm || gemm->is_right()))[0] != 0;
  return result;
}

}  // namespace flexep::tool
