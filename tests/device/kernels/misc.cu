// One kernel per language feature: constant memory and struct arguments, vector types, ballots, doubles, compare-and-swap.
struct Config {
  int n;
  float scale;
  double bias;
};
__constant__ float taps[8];

template <typename T, int width> __device__ T dot(const T *a, const T *b) {
  T sum = 0;
#pragma unroll
  for (int i = 0; i < width; ++i) sum += a[i] * b[i];
  return sum;
}

extern "C" __global__ void conv1d(const float *x, float *y, Config config) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i + 8 <= config.n) y[i] = config.scale * dot<float, 8>(x + i, taps) + (float)config.bias;
}

extern "C" __global__ void copy4(const float4 *a, float4 *b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) {
    float4 v = a[i];
    b[i] = make_float4(v.x * 2.f, v.y + 1.f, rsqrtf(fabsf(v.z) + 1.f), sinf(v.w));
  }
}

extern "C" __global__ void compact(const int *x, int *out, int *count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x & 31;
  bool keep = i < n && x[i] > 0;
  unsigned kept = __ballot_sync(0xffffffffu, keep);
  int base = 0;
  if (lane == 0 && kept) base = atomicAdd(count, __popc(kept));
  base = __shfl_sync(0xffffffffu, base, 0);
  if (keep) out[base + __popc(kept & ((1u << lane) - 1))] = x[i];
}

extern "C" __global__ void mandel(int *out, int w, int h, double x0, double y0, double step, int most) {
  int px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
  if (px >= w || py >= h) return;
  double cx = x0 + px * step, cy = y0 + py * step, zx = 0, zy = 0;
  int steps = 0;
  while (zx * zx + zy * zy < 4.0 && steps < most) {
    double t = zx * zx - zy * zy + cx;
    zy = 2 * zx * zy + cy;
    zx = t;
    ++steps;
  }
  out[py * w + px] = steps;
}

// The maximum of non-negative floats, compared as integers.
extern "C" __global__ void casmax(const float *x, int *most, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int seen = *most, assumed;
  do {
    assumed = seen;
    if (__int_as_float(assumed) >= x[i]) break;
    seen = atomicCAS(most, assumed, __float_as_int(x[i]));
  } while (seen != assumed);
}

// What CUDA's own mathematical functions expand to.
extern "C" __global__ void library(const float *x, float *y, const double *u, double *v) {
  int i = threadIdx.x;
  float a = x[i];
  y[i] = sinf(a) + powf(a, 2.5f) + logf(a) + tanf(a) + atan2f(a, 2.f) + cbrtf(a) + tanhf(a) + a / 3.f + fmodf(a, 0.7f);
  double b = u[i];
  v[i] = sin(b) + pow(b, 2.5) + log(b) + exp(b) + b / 3.0 + fmod(b, 0.7) + sqrt(b) + tanh(b) + 1.0 / b;
}
