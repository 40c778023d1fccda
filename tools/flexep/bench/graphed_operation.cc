// SPDX-License-Identifier: Apache-2.0
#include "bench/graphed_operation.h"

#include <cuda_runtime_api.h>

#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep::tool {
namespace {

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

class GraphedOperation final : public BenchOperation {
 public:
  GraphedOperation(std::unique_ptr<BenchOperation> operation, int num_operations)
      : operation_(std::move(operation)), num_operations_(num_operations) {
    // Once for real: nothing has to be allocated or loaded while it is captured.
    operation_->run();
    operation_->discard();
    capture();
  }
  ~GraphedOperation() override { cudaGraphExecDestroy(executable_); }

  std::string_view name() const override { return operation_->name(); }
  void enqueue() override { require(cudaGraphLaunch(executable_, cuda::current_stream())); }
  void finish() override { operation_->finish(); }
  void discard() override {}  // the output is the graph's
  int num_operations() const override { return num_operations_; }
  bool reads_ids() const override { return operation_->reads_ids(); }
  Finding check() const override { return operation_->check(); }
  void run_floor() override { operation_->run_floor(); }

 private:
  void capture() {
    const cudaStream_t stream = cuda::current_stream();
    // Other threads are ranks that do as they like meanwhile.
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < num_operations_; ++i) operation_->enqueue();
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream, &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    require(error);
    require(cudaGraphUpload(executable_, stream));
    require(cudaStreamSynchronize(stream));
  }

  std::unique_ptr<BenchOperation> operation_;
  int num_operations_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::unique_ptr<BenchOperation> make_graphed_operation(std::unique_ptr<BenchOperation> operation,
                                                       int num_operations) {
  return std::make_unique<GraphedOperation>(std::move(operation), num_operations);
}

}  // namespace flexep::tool
