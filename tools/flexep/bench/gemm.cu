// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <mma.h>

#include "bench/gemm.h"
#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep::tool {
namespace {

using Element = __nv_bfloat16;
namespace wmma = nvcuda::wmma;

constexpr int kTileRows = 128, kTileColumns = 256;  // rows and columns of a block's part of the product
constexpr int kStep = 32;                           // terms that are in shared memory together
constexpr int kNumStages = 4;                       // such steps
constexpr int kFragment = 16;
constexpr int kNumThreads = 256;
constexpr int kNumWarps = kNumThreads / 32;
constexpr int kWarpRows = 64, kWarpColumns = 64;  // of a warp's part: 2 x 4 warps
// Rows that begin in other banks than their neighbours.
constexpr int kPitchA = kStep + 8, kPitchB = kTileColumns + 8;
constexpr int kBytesPerCopy = 16;
constexpr int kElementsPerCopy = kBytesPerCopy / sizeof(Element);

struct Stage {
  Element a[kTileRows * kPitchA];
  Element b[kStep * kPitchB];
};
/// Each warp turns fragments of fp32 into bf16 here.
struct Shared {
  Stage stages[kNumStages];
  float sums[kNumWarps][kFragment * kFragment];
  int tile;
};

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

/// Element i of matrix `which`, from -2 to 2.
__host__ __device__ int value_of(int which, unsigned int i) {
  unsigned int h = (i + 0x9E3779B9u * static_cast<unsigned int>(which + 1)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x846CA68Bu;
  return static_cast<int>((h ^ (h >> 16)) % 5) - 2;
}

__global__ void fill_kernel(Element* matrix, int which, unsigned int num_elements) {
  for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < num_elements; i += gridDim.x * blockDim.x)
    matrix[i] = __int2bfloat16_rn(value_of(which, i));
}

__device__ void copy_ahead(Element* to, const Element* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                   static_cast<unsigned int>(__cvta_generic_to_shared(to))),
               "l"(from));
}

/// Starts the copies of one step's parts of both matrices.
__device__ void load_step(Stage& stage, const Element* a, const Element* b, int row, int column, int depth) {
  constexpr int kCopiesPerRowA = kStep / kElementsPerCopy, kCopiesPerRowB = kTileColumns / kElementsPerCopy;
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kCopiesPerRowA; i += kNumThreads) {
    const int r = i / kCopiesPerRowA, c = i % kCopiesPerRowA * kElementsPerCopy;
    copy_ahead(&stage.a[r * kPitchA + c], &a[static_cast<std::size_t>(row + r) * Gemm::kDepth + depth + c]);
  }
  for (int i = static_cast<int>(threadIdx.x); i < kStep * kCopiesPerRowB; i += kNumThreads) {
    const int r = i / kCopiesPerRowB, c = i % kCopiesPerRowB * kElementsPerCopy;
    copy_ahead(&stage.b[r * kPitchB + c], &b[static_cast<std::size_t>(depth + r) * Gemm::kSize + column + c]);
  }
}

/// The sums of a warp: fragments of its part.
struct WarpSums {
  static constexpr int kRows = kWarpRows / kFragment, kColumns = kWarpColumns / kFragment;
  wmma::fragment<wmma::accumulator, kFragment, kFragment, kFragment, float> at[kRows][kColumns];

  __device__ void clear() {
    for (auto& row : at)
      for (auto& fragment : row) wmma::fill_fragment(fragment, 0.0f);
  }

  __device__ void add(const Stage& stage, int warp_row, int warp_column) {
#pragma unroll
    for (int k = 0; k < kStep; k += kFragment) {
      wmma::fragment<wmma::matrix_a, kFragment, kFragment, kFragment, Element, wmma::row_major> a[kRows];
      wmma::fragment<wmma::matrix_b, kFragment, kFragment, kFragment, Element, wmma::row_major> b[kColumns];
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        wmma::load_matrix_sync(a[i], &stage.a[(warp_row + i * kFragment) * kPitchA + k], kPitchA);
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        wmma::load_matrix_sync(b[j], &stage.b[k * kPitchB + warp_column + j * kFragment], kPitchB);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int j = 0; j < kColumns; ++j) wmma::mma_sync(at[i][j], a[i], b[j], at[i][j]);
    }
  }

  __device__ void store(float* room, Element* c, int row, int column) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        wmma::store_matrix_sync(room, at[i][j], kFragment, wmma::mem_row_major);
        __syncwarp();
        for (int e = lane; e < kFragment * kFragment; e += 32) {
          const std::size_t r = row + i * kFragment + e / kFragment;
          c[r * Gemm::kSize + column + j * kFragment + e % kFragment] = __float2bfloat16_rn(room[e]);
        }
        __syncwarp();
      }
    }
  }
};

__device__ void multiply_tile(Shared& shared, const Element* a, const Element* b, Element* c, int row,
                              int column) {
  constexpr int kNumSteps = Gemm::kDepth / kStep;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / 4 * kWarpRows, warp_column = warp % 4 * kWarpColumns;
  WarpSums sums;
  sums.clear();
  for (int step = 0; step < kNumStages - 1; ++step) {
    load_step(shared.stages[step], a, b, row, column, step * kStep);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  for (int step = 0; step < kNumSteps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kNumStages - 2) : "memory");
    __syncthreads();  // everybody's copies are there, and the stage of the step before has been read
    const int ahead = step + kNumStages - 1;
    if (ahead < kNumSteps) load_step(shared.stages[ahead % kNumStages], a, b, row, column, ahead * kStep);
    asm volatile("cp.async.commit_group;" ::: "memory");
    sums.add(shared.stages[step % kNumStages], warp_row, warp_column);
  }
  sums.store(shared.sums[warp], c, row + warp_row, column + warp_column);
  __syncthreads();
}

/// Tiles are handed out in strips of rows, so that those at work together share what they read; one by one,
/// so that a block that starts late holds nobody up.
__global__ void __launch_bounds__(kNumThreads, 1)
    gemm_kernel(const Element* a, const Element* b, Element* c, int* next_tile) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  constexpr int kRows = Gemm::kSize / kTileRows, kColumns = Gemm::kSize / kTileColumns;
  constexpr int kStrip = 8;
  for (;;) {
    if (threadIdx.x == 0) shared.tile = atomicAdd(next_tile, 1);
    __syncthreads();
    const int tile = shared.tile;
    if (tile >= kRows * kColumns) return;
    const int strip = tile / (kStrip * kColumns), place = tile % (kStrip * kColumns);
    multiply_tile(shared, a, b, c, (strip * kStrip + place % kStrip) * kTileRows,
                  place / kStrip * kTileColumns);
  }
}

/// All that a block may have, so that no other block fits beside it.
int most_shared_memory(Device device) {
  int num_bytes = 0;
  require(cudaDeviceGetAttribute(&num_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index));
  return num_bytes;
}

Tensor make_matrix(Device device, int which, int num_rows, int num_columns) {
  Tensor matrix = cuda::empty({num_rows, num_columns}, DType::kBFloat16, device);
  fill_kernel<<<256, 256, 0, cuda::current_stream()>>>(static_cast<Element*>(matrix.data()), which,
                                                       static_cast<unsigned int>(matrix.num_elements()));
  require(cudaGetLastError());
  return matrix;
}

}  // namespace

Gemm::Gemm(Device device, int num_blocks)
    : num_blocks_(num_blocks),
      a_(make_matrix(device, 0, kSize, kDepth)),
      b_(make_matrix(device, 1, kDepth, kSize)),
      c_(cuda::empty({kSize, kSize}, DType::kBFloat16, device)),
      next_tile_(cuda::empty({1}, DType::kInt32, device)) {
  static_assert(sizeof(Shared) <= 200 << 10);
  require(cudaFuncSetAttribute(gemm_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               most_shared_memory(device)));
  require(cudaStreamSynchronize(cuda::current_stream()));
}

void Gemm::enqueue(cudaStream_t stream) const {
  require(cudaMemsetAsync(next_tile_.data(), 0, next_tile_.num_bytes(), stream));
  gemm_kernel<<<static_cast<unsigned int>(num_blocks_), kNumThreads,
                static_cast<std::size_t>(most_shared_memory(a_.device())), stream>>>(
      static_cast<const Element*>(a_.data()), static_cast<const Element*>(b_.data()),
      static_cast<Element*>(c_.data()), static_cast<int*>(next_tile_.data()));
  require(cudaGetLastError());
}

bool Gemm::is_right() const {
  constexpr int kApart = 1237;
  for (int i = 0; i < kSize; i += kApart) {
    const int row = i, column = kSize - 1 - i;
    int sum = 0;
    for (int k = 0; k < kDepth; ++k) {
      sum += value_of(0, static_cast<unsigned int>(row) * kDepth + static_cast<unsigned int>(k)) *
             value_of(1, static_cast<unsigned int>(k) * kSize + static_cast<unsigned int>(column));
    }
    const Tensor element = cuda::to_host(c_.rows(row, row + 1));
    const BFloat16 expected(static_cast<float>(sum));
    if (element.data<BFloat16>()[column].bits != expected.bits) return false;
  }
  return true;
}

}  // namespace flexep::tool
