// What threads of a block do together: barriers, warps, atomics, shared and local memory.
typedef unsigned u32;

extern "C" __global__ void shuffles(const u32 *x, u32 *out, int width) {
  int t = threadIdx.x, n = blockDim.x;
  u32 v = x[t];
  out[t] = __shfl_sync(~0u, v, t + 3, width);
  out[n + t] = __shfl_up_sync(~0u, v, 2, width);
  out[2 * n + t] = __shfl_down_sync(~0u, v, 5, width);
  out[3 * n + t] = __shfl_xor_sync(~0u, v, 1, width);
}

extern "C" __global__ void votes(const u32 *x, u32 *out) {
  int t = threadIdx.x, n = blockDim.x;
  u32 v = x[t];
  out[t] = __ballot_sync(~0u, v & 1);
  out[n + t] = __any_sync(~0u, v == 3);
  out[2 * n + t] = __all_sync(~0u, v < 8);
  out[3 * n + t] = __match_any_sync(~0u, v);
  out[4 * n + t] = __reduce_add_sync(~0u, v);
  out[5 * n + t] = __reduce_max_sync(~0u, v);
}

// Both halves of each warp take different numbers of steps through warp operations before they meet again.
extern "C" __global__ void divergent(u32 *out) {
  int lane = threadIdx.x & 31;
  u32 v = threadIdx.x;
  if (lane < 16) {
    for (int i = 0; i < 3; ++i) v += __shfl_xor_sync(0xffffu, v, 1 << i);
  } else {
    v = __shfl_sync(0xffff0000u, v, 31);
  }
  __syncwarp();
  out[threadIdx.x] = __shfl_xor_sync(~0u, v, 16);
}

extern "C" __global__ void active(u32 *out) {
  u32 mask = 0;
  if (threadIdx.x % 3 == 0) mask = __activemask();
  out[threadIdx.x] = mask;
}

extern "C" __global__ void counts(const int *x, int *out) {
  int t = threadIdx.x, n = blockDim.x;
  out[t] = __syncthreads_count(x[t]);
  out[n + t] = __syncthreads_and(x[t]);
  out[2 * n + t] = __syncthreads_or(x[t]);
}

// Threads leave before a barrier that the rest still pass.
extern "C" __global__ void early(int *out, int keep) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  if (threadIdx.x >= keep) return;
  atomicAdd(&sum, 1);
  __syncthreads();
  out[threadIdx.x] = sum;
}

__device__ __noinline__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__device__ __noinline__ float block_sum(float v, float *shared) {
  shared[threadIdx.x] = v;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < blockDim.x; ++i) sum += shared[i];
  __syncthreads();
  return sum;
}
extern "C" __global__ void calls(int *out) { out[threadIdx.x] = fibonacci(threadIdx.x % 15); }
extern "C" __global__ void waiting_calls(float *out) {
  extern __shared__ float shared[];
  float once = block_sum(threadIdx.x, shared);
  out[threadIdx.x] = block_sum(once, shared);
}

extern "C" __global__ void local_array(int *out, int n) {
  int stack[64];
  for (int i = 0; i < n; ++i) stack[(i * 7 + threadIdx.x) % 64] = i + threadIdx.x;
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += stack[(i * 7 + threadIdx.x) % 64];
  __syncthreads();
  out[threadIdx.x] = sum + stack[threadIdx.x % 7 == 0 ? threadIdx.x % 64 : threadIdx.x % 64];
}

extern "C" __global__ void spaces(int *out, int *global) {
  __shared__ int s;
  int l = 0;
  s = 0;
  int *which = threadIdx.x % 3 == 0 ? &s : threadIdx.x % 3 == 1 ? &l : global;
  *which = 1;
  out[threadIdx.x] = __isShared(which) + 2 * __isLocal(which) + 4 * __isGlobal(which) + 8 * (l + 1);
}

extern "C" __global__ void indices(u32 *out) {
  u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  u32 thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 10000 + thread;
}

template <typename T> __device__ void all(T *cells, T v, T *old) {
  old[0] = atomicAdd(cells, v);
  old[1] = atomicMin(cells + 1, v);
  old[2] = atomicMax(cells + 2, v);
  old[3] = atomicExch(cells + 3, v);
  old[4] = atomicCAS(cells + 4, (T)4, v);
}
extern "C" __global__ void atomics(int *cells, int *old, float *f, double *d, u32 *u) {
  __shared__ int s[5];
  if (threadIdx.x == 0) {
    for (int i = 0; i < 5; ++i) s[i] = cells[i];
    all(s, -3, old);
    all(cells, -3, old + 5);
    for (int i = 0; i < 5; ++i) old[10 + i] = s[i];
  }
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicInc(u, 6);
  atomicDec(u + 1, 6);
  atomicOr(u + 2, 1u << (threadIdx.x & 31));
  atomicXor(u + 3, threadIdx.x);
  atomicAnd(u + 4, ~(1u << (threadIdx.x & 31)));
}
