// Bits, wide integers, half precision, tiles: what kernels reach for by intrinsics.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <cstdint>

#define PUT(e) out[k++ * n + i] = (unsigned)(e);
extern "C" __global__ void bit_tools(const unsigned *x, const unsigned *y, unsigned *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  unsigned a = x[i], b = y[i];
  PUT(__popc(a)) PUT(__clz(a)) PUT(__ffs(a)) PUT(__brev(a)) PUT(__byte_perm(a, b, 0x5142))
  PUT(__funnelshift_l(a, b, 7)) PUT(__funnelshift_r(a, b, b & 63)) PUT(__funnelshift_lc(a, b, 40))
  PUT(__umulhi(a, b)) PUT(__mulhi((int)a, (int)b)) PUT(__umul24(a, b)) PUT(__mul24((int)a, (int)b))
  PUT(__sad((int)a, (int)b, 5u)) PUT(__usad(a, b, 5u)) PUT(__uhadd(a, b)) PUT(__rhadd((int)a, (int)b))
  PUT(__dp4a((int)a, (int)b, 3)) PUT(__vadd4(a, b)) PUT(__vabsdiffu4(a, b)) PUT(__vcmpgtu2(a, b)) PUT(__vmaxs2(a, b))
  PUT(__popcll((unsigned long long)a << 32 | b)) PUT(__clzll((unsigned long long)a * b)) PUT(__brevll((unsigned long long)a << 20) >> 16)
  PUT(__ffsll((unsigned long long)b << 31)) PUT(__umul64hi((unsigned long long)a << 32 | b, (unsigned long long)b << 32 | a) >> 32)
  PUT(a / (b | 1)) PUT((int)a % (int)(b >> 3 | 1)) PUT((int)a >> (b & 31)) PUT((a << (b & 31)) | (a >> (-b & 31)))
}
// 128 bits, and arithmetic modulo a prime in Montgomery's form.
extern "C" __global__ void wide_integers(const unsigned long long *x, const unsigned long long *y, unsigned long long *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  unsigned __int128 a = (unsigned __int128)x[i] << 64 | y[i], b = (unsigned __int128)y[i] * x[i];
  unsigned __int128 results[] = {a + b, a - b, a * b, a / (b | 1), a % (b | 1), a >> (y[i] & 127), a << (x[i] & 127), a ^ ~b,
                                 (unsigned __int128)((__int128)a / 1000003), (unsigned __int128)(a < b)};
  for (auto r : results) {
    out[k++ * n + i] = (unsigned long long)r;
    out[k++ * n + i] = (unsigned long long)(r >> 64);
  }
}
__device__ uint64_t montgomery(uint64_t a, uint64_t b, uint64_t p, uint64_t inverse) {
  uint64_t lo = a * b, hi = __umul64hi(a, b);
  uint64_t m = lo * inverse, carry = lo != 0;
  uint64_t t = hi + __umul64hi(m, p);
  bool over = t < hi;
  uint64_t r = t + carry;
  over |= r < t;
  return over || r >= p ? r - p : r;
}
extern "C" __global__ void modular_powers(const uint64_t *base, const uint64_t *exponent, uint64_t *out, uint64_t p, uint64_t inverse, uint64_t one, uint64_t square, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint64_t b = montgomery(base[i] % p, square, p, inverse), r = one;
  for (uint64_t e = exponent[i]; e; e >>= 1) {
    if (e & 1) r = montgomery(r, b, p, inverse);
    b = montgomery(b, b, p, inverse);
  }
  out[i] = montgomery(r, 1, p, inverse);
}
// Half precision, alone and in pairs.
extern "C" __global__ void halves(const __half *x, const __half *y, __half *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  __half a = x[i], b = y[i];
#define H(e) out[k++ * n + i] = (e);
  H(a + b) H(a - b) H(a * b) H(__hdiv(a, b)) H(__hfma(a, b, a)) H(__hmax(a, b)) H(__hmin(a, b)) H(-a) H(__habs(a)) H(__hadd_sat(a, b))
  H(hsqrt(__habs(a))) H(hexp(a)) H(hlog(__habs(b))) H(hrcp(b)) H(hsin(a)) H(hcos(a)) H(hfloor(a)) H(hrint(a)) H(htrunc(a)) H(hexp2(a)) H(htanh(a))
  H(__int2half_rn(i * 37)) H(__float2half(__half2float(a) * 1.001f)) H(__ushort_as_half(__half_as_ushort(a) ^ 1)) H(a < b ? a : b)
  H(__double2half((double)__half2float(a) / 3)) H(__float2half_rz(__half2float(a) * 1.001f)) H(hrsqrt(__habs(b)))
}
extern "C" __global__ void pairs(const __half2 *x, const __half2 *y, __half2 *out, float *dots, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  __half2 a = x[i], b = y[i];
  H(__hadd2(a, b)) H(__hmul2(a, b)) H(__hfma2(a, b, a)) H(__hmax2(a, b)) H(__lowhigh2highlow(a)) H(__halves2half2(__high2half(a), __low2half(b)))
  H(__hgt2(a, b)) H(h2exp2(a)) H(__hfma2_relu(a, b, a)) H(__hmin2_nan(a, b)) H(__float22half2_rn(make_float2(i, -i)))
  float2 f = __half22float2(a), g = __half22float2(b);
  dots[i] = f.x * g.x + f.y * g.y + (__hbgt2(a, b) ? 100.f : 0.f) + __heq(__low2half(a), __low2half(b));
  atomicAdd(&out[k * n], a);
}
extern "C" __global__ void brains(const __nv_bfloat16 *x, const __nv_bfloat16 *y, __nv_bfloat16 *out, __nv_bfloat162 *both, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  __nv_bfloat16 a = x[i], b = y[i];
  H(a + b) H(a * b) H(__hfma(a, b, a)) H(__hdiv(a, b)) H(__hmax(a, b)) H(hexp(a)) H(hsqrt(__habs(b))) H(__float2bfloat16(__bfloat162float(a) * 1.01f)) H(__hneg(a)) H(a > b ? a : b)
  __nv_bfloat162 p = __halves2bfloat162(a, b);
  both[i] = __hfma2(p, __float2bfloat162_rn(2.f), __lowhigh2highlow(p));
}
extern "C" __global__ void eighths(const float *x, unsigned char *e4, unsigned char *e5, float *back4, float *back5, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __nv_fp8_e4m3 a(x[i]);
  __nv_fp8_e5m2 b(x[i]);
  e4[i] = a.__x;
  e5[i] = b.__x;
  back4[i] = float(a);
  back5[i] = float(b);
}
// Packets: char4, short2, float4, double2, ulonglong2, and reads through __ldg and its friends.
extern "C" __global__ void packets(const char4 *__restrict__ c, const float4 *__restrict__ f, const double2 *__restrict__ d, const ushort2 *__restrict__ s,
                        char4 *oc, float4 *of, double2 *od, ushort2 *os, ulonglong2 *ou, int3 *o3, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  char4 v = __ldg(c + i);
  oc[i] = make_char4(v.w, v.z, v.y + 1, -v.x);
  float4 w = __ldcs(f + i);
  of[i] = make_float4(w.y, w.x, w.w + w.z, w.z);
  double2 e = d[n - 1 - i];
  __stcg(od + i, make_double2(e.y, e.x));
  ushort2 t = s[i];
  os[i] = make_ushort2(t.y + t.x, t.x);
  ou[i] = make_ulonglong2(i, ~0ull - i);
  o3[i] = make_int3(i, v.x, (int)w.x);
}
// Asynchronous copies in two stages.
extern "C" __global__ void staged(const float *x, float *out, int tiles) {
  __shared__ float4 buffer[2][32];
  const float4 *from = (const float4 *)x;
  __pipeline_memcpy_async(&buffer[0][threadIdx.x], from + threadIdx.x, 16);
  __pipeline_commit();
  float sum = 0;
  for (int t = 0; t < tiles; ++t) {
    if (t + 1 < tiles) __pipeline_memcpy_async(&buffer[(t + 1) & 1][threadIdx.x], from + (t + 1) * 32 + threadIdx.x, 16);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    float4 v = buffer[t & 1][31 - threadIdx.x];
    sum += v.x + 2 * v.y + 3 * v.z + 4 * v.w;
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}
// Tables in constant memory, all 64 KB of it.
__constant__ float table[16384];
extern "C" __global__ void looked_up(const int *index, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = table[index[i]] + table[(index[i] + 1) & 16383];
}
