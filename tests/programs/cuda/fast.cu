// Functions that are fast rather than exact.
extern "C" __global__ void fast(const float *x, const float *y, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  float v = x[i], w = y[i];
#define PUT(e) out[k++ * n + i] = e;
  PUT(__sinf(v)) PUT(__cosf(v)) PUT(__tanf(v)) PUT(__expf(v)) PUT(__exp10f(v)) PUT(__logf(w)) PUT(__log2f(w)) PUT(__log10f(w))
  PUT(__powf(w, v)) PUT(__fdividef(v, w)) PUT(__saturatef(v)) PUT(__frsqrt_rn(w)) PUT(__frcp_rn(w))
  float s, c;
  __sincosf(v, &s, &c);
  PUT(s + c)
}
// A kernel as -use_fast_math makes it: flushes, approximate division, contracted products.
extern "C" __global__ void plain(const float *x, const float *y, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = sinf(x[i]) / y[i] + expf(x[i]) * logf(y[i]) + powf(y[i], 1.5f) - sqrtf(y[i]) * tanhf(x[i]);
  out[n + i] = x[i] * 1.2e-38f;
}
