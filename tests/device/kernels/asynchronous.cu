#include <cuda/barrier>
#include <cuda_pipeline.h>

// Double-buffered copies to shared memory; the last tile is ragged.
extern "C" __global__ void piped(const float *x, float *out, int n) {
  __shared__ alignas(16) float tile[2][256];
  int t = threadIdx.x, size = 4 * blockDim.x, tiles = (n + size - 1) / size;
  float total = 0;
  auto fetch = [&](int k) {
    int at = k * size + 4 * t;
    int have = min(max(n - at, 0), 4);
    __pipeline_memcpy_async(&tile[k & 1][4 * t], x + min(at, n), 16, 4 * (4 - have));
    __pipeline_commit();
  };
  fetch(0);
  for (int k = 0; k < tiles; k++) {
    if (k + 1 < tiles) fetch(k + 1);
    __pipeline_wait_prior(k + 1 < tiles ? 1 : 0);
    __syncthreads();
    for (int i = 0; i < 4; i++) total += tile[k & 1][(4 * t + 4 + i) % size] * (i + 1);
    __syncthreads();
  }
  out[t] = total;
}

// Producers and consumers hand over through barriers in shared memory.
extern "C" __global__ void handed_over(const int *x, int *out, int rounds) {
  __shared__ cuda::barrier<cuda::thread_scope_block> full, empty;
  __shared__ int box[64];
  int t = threadIdx.x, half = blockDim.x / 2;
  if (t == 0) {
    init(&full, blockDim.x);
    init(&empty, blockDim.x);
  }
  __syncthreads();
  int total = 0;
  for (int r = 0; r < rounds; r++) {
    if (t < half) {
      box[t] = x[r * half + t];
      (void)full.arrive();
      empty.arrive_and_wait();
    } else {
      full.arrive_and_wait();
      total = total * 3 + box[blockDim.x - 1 - t];
      (void)empty.arrive();
    }
  }
  out[t] = total;
}
