// cuRAND's device generators. generate.py makes generators.ptx of this; tests need no cuRAND.
#include <curand_kernel.h>

// `count` words, four for each call, from a place of their own in each sequence.
extern "C" __global__ void philox_words(unsigned *out, unsigned long long seed, unsigned long long first,
                                        unsigned long long offset, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  curandStatePhilox4_32_10_t state;
  curand_init(seed, first + i, offset, &state);
  for (int k = 0; k < count; k++) {
    uint4 four = curand4(&state);
    reinterpret_cast<uint4 *>(out)[i * count + k] = four;
  }
}

extern "C" __global__ void philox_single(unsigned *out, unsigned long long seed, unsigned long long offset, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  curandStatePhilox4_32_10_t state;
  curand_init(seed, i, offset, &state);
  for (int k = 0; k < count; k++) out[i * count + k] = curand(&state);
}

extern "C" __global__ void philox_reals(float *uniform, float *normal, double *uniform2, double *normal2,
                                        unsigned *poisson, float *lognormal, unsigned long long seed, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  curandStatePhilox4_32_10_t state;
  curand_init(seed, i, 0, &state);
  auto u = curand_uniform4(&state);
  auto g = curand_normal4(&state);
  reinterpret_cast<float4 *>(uniform)[i] = u;
  reinterpret_cast<float4 *>(normal)[i] = g;
  auto v = curand_uniform2_double(&state);
  auto h = curand_normal2_double(&state);
  uniform2[2 * i] = v.x;
  uniform2[2 * i + 1] = v.y;
  normal2[2 * i] = h.x;
  normal2[2 * i + 1] = h.y;
  lognormal[i] = curand_log_normal(&state, 0.5f, 0.25f);
  poisson[i] = curand_poisson(&state, 4.5);
}

template <typename State>
__device__ void words(State *states, unsigned *out, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  State state = states[i];
  for (int k = 0; k < count; k++) out[i * count + k] = curand(&state);
  states[i] = state;
}

// Sequence and offset stay 0: what skips ahead takes tables of 200 KiB along.
extern "C" __global__ void xorwow_init(curandStateXORWOW_t *states, unsigned long long seed) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  curand_init(seed + i, 0, 0, states + i);
}
extern "C" __global__ void xorwow_words(curandStateXORWOW_t *states, unsigned *out, int count) { words(states, out, count); }

extern "C" __global__ void mrg_words(unsigned *out, double *uniform, unsigned long long seed, unsigned long long offset,
                                     int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  curandStateMRG32k3a_t state;
  curand_init(seed, 0, offset + i, &state);
  for (int k = 0; k < count; k++) out[i * count + k] = curand(&state);
  uniform[i] = curand_uniform_double(&state);
}

// Pi by throwing darts, as the textbooks have it.
extern "C" __global__ void darts(unsigned long long *inside, int throws) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  curandStatePhilox4_32_10_t state;
  curand_init(1234, i, 0, &state);
  unsigned hits = 0;
  for (int k = 0; k < throws; k++) {
    float x = curand_uniform(&state), y = curand_uniform(&state);
    hits += x * x + y * y <= 1;
  }
  atomicAdd(inside, (unsigned long long)hits);
}
