// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/device_memory.h"
#include "cuda/stress/row_kernels.h"

namespace flexep::stress {
namespace {

using testing::require;

constexpr int kWarpSize = 32;
constexpr int kNumThreads = 256;
constexpr int kRowsPerBlock = kNumThreads / kWarpSize;
/// Few, so that the operations' kernels find their multiprocessors.
constexpr int kMaxBlocks = 8;

/// An element, its bits, and the largest value whose multiples by sums of scales are exact: experts make at
/// most 8 * 8 of it.
template <typename T>
struct Element;
template <>
struct Element<__nv_bfloat16> {
  using Bits = unsigned short;
  static constexpr int kMaxValue = 3;
  static __device__ __nv_bfloat16 of(float value) { return __float2bfloat16_rn(value); }
  static __device__ float value(__nv_bfloat16 element) { return __bfloat162float(element); }
};
template <>
struct Element<__half> {
  using Bits = unsigned short;
  static constexpr int kMaxValue = 31;
  static __device__ __half of(float value) { return __float2half_rn(value); }
  static __device__ float value(__half element) { return __half2float(element); }
};
template <>
struct Element<float> {
  using Bits = unsigned int;
  static constexpr int kMaxValue = 65535;
  static __device__ float of(float value) { return value; }
  static __device__ float value(float element) { return element; }
};

__device__ unsigned int mix(unsigned int x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

template <typename T>
__device__ float value_of(unsigned int content, int src_rank, int token, int column) {
  const unsigned int row =
      mix(mix(content + 0x9E3779B9u) ^ static_cast<unsigned int>(src_rank * 65536 + token));
  const unsigned int range = 2 * Element<T>::kMaxValue + 1;
  return static_cast<float>(static_cast<int>(mix(row + static_cast<unsigned int>(column)) % range) -
                            Element<T>::kMaxValue);
}

/// Calls visit(row, column) for every element; a row is a warp's.
template <typename Visit>
__device__ void for_each_element(int num_rows, int hidden, Visit visit) {
  const int warp = static_cast<int>(blockIdx.x * kRowsPerBlock + threadIdx.x / kWarpSize);
  for (int row = warp; row < num_rows; row += static_cast<int>(gridDim.x) * kRowsPerBlock)
    for (int column = static_cast<int>(threadIdx.x) % kWarpSize; column < hidden; column += kWarpSize)
      visit(row, column);
}

/// The first is described.
__device__ void report(Findings* findings, const Findings& mistake) {
  if (atomicAdd(&findings->num_wrong, 1ull) != 0) return;
  findings->content = mistake.content;
  findings->what = mistake.what;
  findings->row = mistake.row;
  findings->column = mistake.column;
  findings->expected_bits = mistake.expected_bits;
  findings->got_bits = mistake.got_bits;
}

template <typename T>
__global__ void write_rows_kernel(T* rows, int num_rows, int hidden, unsigned int content, int rank) {
  for_each_element(num_rows, hidden, [&](int row, int column) {
    rows[static_cast<std::size_t>(row) * hidden + column] =
        Element<T>::of(value_of<T>(content, rank, row, column));
  });
}

template <typename T>
__global__ void experts_kernel(T* y, const T* x, const float* scales, int num_rows, int hidden) {
  for_each_element(num_rows, hidden, [&](int row, int column) {
    const std::size_t i = static_cast<std::size_t>(row) * hidden + column;
    y[i] = Element<T>::of(Element<T>::value(x[i]) * scales[row]);
  });
}

/// The first wrong column of this lane's part of a row, or `hidden`.
template <typename T>
__device__ int find_wrong_column(const T* row, const ExpectedRow& expected, int hidden, unsigned int content,
                                 typename Element<T>::Bits& expected_bits) {
  for (int column = static_cast<int>(threadIdx.x) % kWarpSize; column < hidden; column += kWarpSize) {
    const float value =
        expected.src_rank == ExpectedRow::kZeros
            ? 0.0f
            : value_of<T>(content, expected.src_rank, expected.token, column) * expected.scale;
    const T element = Element<T>::of(value);
    expected_bits = *reinterpret_cast<const typename Element<T>::Bits*>(&element);
    if (reinterpret_cast<const typename Element<T>::Bits*>(row)[column] != expected_bits) return column;
  }
  return hidden;
}

template <typename T>
__global__ void wrong_rows_kernel(const T* rows, const ExpectedRow* expected, int num_rows, int hidden,
                                  unsigned int content, Checked what, Findings* findings) {
  using Bits = typename Element<T>::Bits;
  const int warp = static_cast<int>(blockIdx.x * kRowsPerBlock + threadIdx.x / kWarpSize);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int row = warp; row < num_rows; row += static_cast<int>(gridDim.x) * kRowsPerBlock) {
    if (lane == 0) atomicAdd(&findings->num_compared, 1ull);
    const ExpectedRow wanted = expected[row];
    if (wanted.src_rank == ExpectedRow::kAnything) continue;
    const T* got = rows + static_cast<std::size_t>(row) * hidden;
    Bits bits = 0;
    const int column = find_wrong_column(got, wanted, hidden, content, bits);
    const unsigned int lanes_with_a_mistake = __ballot_sync(~0u, column < hidden);
    if (lanes_with_a_mistake == 0 || lane != __ffs(static_cast<int>(lanes_with_a_mistake)) - 1) continue;
    report(findings, {.content = content,
                      .what = what,
                      .row = row,
                      .column = column,
                      .expected_bits = bits,
                      .got_bits = reinterpret_cast<const Bits*>(got)[column]});
  }
}

__global__ void wrong_words_kernel(const unsigned int* got, const unsigned int* expected, int num_words,
                                   unsigned int content, Checked what, Findings* findings) {
  const int first = static_cast<int>(blockIdx.x * kNumThreads + threadIdx.x);
  if (first == 0) atomicAdd(&findings->num_compared, static_cast<unsigned long long>(num_words));
  for (int i = first; i < num_words; i += static_cast<int>(gridDim.x) * kNumThreads) {
    if (got[i] == expected[i]) continue;
    report(findings,
           {.content = content, .what = what, .row = i, .expected_bits = expected[i], .got_bits = got[i]});
  }
}

__global__ void sleep_kernel(unsigned int nanoseconds) {
  unsigned long long begin = 0, now = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

int num_blocks(int num_units, int units_per_block) {
  return std::clamp((num_units + units_per_block - 1) / units_per_block, 1, kMaxBlocks);
}

template <typename Visitor>
void with_element(DType dtype, Visitor visitor) {
  if (dtype == DType::kBFloat16) return visitor(static_cast<__nv_bfloat16*>(nullptr));
  if (dtype == DType::kFloat16) return visitor(static_cast<__half*>(nullptr));
  visitor(static_cast<float*>(nullptr));
}

template <typename... Args>
void load(void (*kernel)(Args...)) {
  cudaFuncAttributes attributes;
  require(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "load a kernel");
}

}  // namespace

void load_row_kernels() {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    with_element(dtype, []<typename T>(T*) {
      load(write_rows_kernel<T>);
      load(experts_kernel<T>);
      load(wrong_rows_kernel<T>);
    });
  }
  load(wrong_words_kernel);
  load(sleep_kernel);
}

void write_rows(const Rows& rows, std::uint32_t content, int rank, cudaStream_t stream) {
  if (rows.num_rows == 0) return;
  with_element(rows.dtype, [&]<typename T>(T*) {
    write_rows_kernel<<<num_blocks(rows.num_rows, kRowsPerBlock), kNumThreads, 0, stream>>>(
        static_cast<T*>(rows.data), rows.num_rows, rows.hidden, content, rank);
  });
  require(cudaGetLastError(), "write rows");
}

void run_experts(const Rows& y, const void* x, const float* scales, cudaStream_t stream) {
  if (y.num_rows == 0) return;
  with_element(y.dtype, [&]<typename T>(T*) {
    experts_kernel<<<num_blocks(y.num_rows, kRowsPerBlock), kNumThreads, 0, stream>>>(
        static_cast<T*>(y.data), static_cast<const T*>(x), scales, y.num_rows, y.hidden);
  });
  require(cudaGetLastError(), "run experts");
}

void count_wrong_rows(const Rows& rows, const ExpectedRow* expected, std::uint32_t content, Checked what,
                      Findings* findings, cudaStream_t stream) {
  if (rows.num_rows == 0) return;
  with_element(rows.dtype, [&]<typename T>(T*) {
    wrong_rows_kernel<<<num_blocks(rows.num_rows, kRowsPerBlock), kNumThreads, 0, stream>>>(
        static_cast<const T*>(rows.data), expected, rows.num_rows, rows.hidden, content, what, findings);
  });
  require(cudaGetLastError(), "compare rows");
}

void count_wrong_words(const void* got, const void* expected, int num_words, std::uint32_t content,
                       Checked what, Findings* findings, cudaStream_t stream) {
  if (num_words == 0) return;
  wrong_words_kernel<<<num_blocks(num_words, kNumThreads), kNumThreads, 0, stream>>>(
      static_cast<const unsigned int*>(got), static_cast<const unsigned int*>(expected), num_words, content,
      what, findings);
  require(cudaGetLastError(), "compare words");
}

void sleep_on_device(int microseconds, cudaStream_t stream) {
  sleep_kernel<<<1, 1, 0, stream>>>(1000u * static_cast<unsigned int>(microseconds));
  require(cudaGetLastError(), "sleep");
}

}  // namespace flexep::stress
