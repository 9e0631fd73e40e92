// Everything that math.h has, in both precisions, and CUDA's own additions to it.
#include <math.h>
#define LIST_ELEMENTARY(F) F(exp) F(exp2) F(exp10) F(expm1) F(log) F(log2) F(log10) F(log1p) F(sqrt) F(rsqrt) F(cbrt) F(rcbrt)
#define LIST_TRIGONOMETRIC(F) F(sin) F(cos) F(tan) F(asin) F(acos) F(atan) F(sinh) F(cosh) F(tanh) F(asinh) F(acosh) F(atanh) F(sinpi) F(cospi)
#define LIST_SPECIAL(F) F(erf) F(erfc) F(erfcx) F(erfinv) F(erfcinv) F(lgamma) F(tgamma) F(normcdf) F(normcdfinv)
#define LIST_BESSEL(F) F(j0) F(j1) F(y0) F(y1) F(cyl_bessel_i0) F(cyl_bessel_i1)
#define LIST_ROUNDING(F) F(floor) F(ceil) F(trunc) F(round) F(rint) F(nearbyint) F(logb) F(fabs)
#define LIST_BINARY(F) F(pow) F(atan2) F(hypot) F(rhypot) F(fmod) F(remainder) F(fdim) F(fmax) F(fmin) F(copysign) F(nextafter)

#define CALL_D(name) out[k++ * n + i] = name(v);
#define CALL_F(name) out[k++ * n + i] = name##f(v);
#define CALL2_D(name) out[k++ * n + i] = name(v, w);
#define CALL2_F(name) out[k++ * n + i] = name##f(v, w);
#define UNARY(list)                                                         \
  extern "C" __global__ void list##_double(const double *x, double *out, int n) { \
    int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;                   \
    if (i >= n) return;                                                     \
    double v = x[i];                                                        \
    list(CALL_D)                                                            \
  }                                                                         \
  extern "C" __global__ void list##_float(const float *x, float *out, int n) {    \
    int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;                   \
    if (i >= n) return;                                                     \
    float v = x[i];                                                         \
    list(CALL_F)                                                            \
  }
UNARY(LIST_ELEMENTARY)
UNARY(LIST_TRIGONOMETRIC)
UNARY(LIST_SPECIAL)
UNARY(LIST_BESSEL)
UNARY(LIST_ROUNDING)

extern "C" __global__ void LIST_BINARY_double(const double *x, const double *y, double *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  double v = x[i], w = y[i];
  LIST_BINARY(CALL2_D)
}
extern "C" __global__ void LIST_BINARY_float(const float *x, const float *y, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  float v = x[i], w = y[i];
  LIST_BINARY(CALL2_F)
}

template <class T> __global__ void parts(const T *x, const T *y, T *out, int *whole, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, e, q;
  if (i >= n) return;
  T ip;
  out[i] = frexp(x[i], &e);
  whole[i] = e;
  out[n + i] = modf(x[i], &ip);
  out[2 * n + i] = ip;
  out[3 * n + i] = ldexp(y[i], e);
  out[4 * n + i] = remquo(x[i], y[i], &q);
  whole[n + i] = q & 7;
  whole[2 * n + i] = ilogb(x[i]);
  whole[3 * n + i] = (int)lrint(x[i]);
  whole[4 * n + i] = (int)llround(x[i]);
  whole[5 * n + i] = isnan(x[i]) | isinf(x[i]) << 1 | isfinite(x[i]) << 2 | (signbit(x[i]) != 0) << 3;
  out[5 * n + i] = scalbn(x[i], -3);
  T s, c;
  sincos(y[i], &s, &c);
  out[6 * n + i] = s;
  out[7 * n + i] = c;
  sincospi(y[i], &s, &c);
  out[8 * n + i] = s;
  out[9 * n + i] = c;
  out[10 * n + i] = fma(x[i], y[i], (T)1);
  out[11 * n + i] = norm3d(x[i], y[i], (T)2);
  out[12 * n + i] = rnorm4d(x[i], y[i], (T)2, (T)-1);
  out[13 * n + i] = jn(3, fabs(y[i]));
  out[14 * n + i] = yn(2, fabs(y[i]) + 1);
}
template __global__ void parts<double>(const double *, const double *, double *, int *, int);
template <> __global__ void parts<float>(const float *x, const float *y, float *out, int *whole, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, e, q;
  if (i >= n) return;
  float ip;
  out[i] = frexpf(x[i], &e);
  whole[i] = e;
  out[n + i] = modff(x[i], &ip);
  out[2 * n + i] = ip;
  out[3 * n + i] = ldexpf(y[i], e);
  out[4 * n + i] = remquof(x[i], y[i], &q);
  whole[n + i] = q & 7;
  whole[2 * n + i] = ilogbf(x[i]);
  whole[3 * n + i] = (int)lrintf(x[i]);
  whole[4 * n + i] = (int)llroundf(x[i]);
  whole[5 * n + i] = isnan(x[i]) | isinf(x[i]) << 1 | isfinite(x[i]) << 2 | (signbit(x[i]) != 0) << 3;
  out[5 * n + i] = scalbnf(x[i], -3);
  float s, c;
  sincosf(y[i], &s, &c);
  out[6 * n + i] = s;
  out[7 * n + i] = c;
  sincospif(y[i], &s, &c);
  out[8 * n + i] = s;
  out[9 * n + i] = c;
  out[10 * n + i] = fmaf(x[i], y[i], 1.f);
  out[11 * n + i] = norm3df(x[i], y[i], 2.f);
  out[12 * n + i] = rnorm4df(x[i], y[i], 2.f, -1.f);
  out[13 * n + i] = jnf(3, fabsf(y[i]));
  out[14 * n + i] = ynf(2, fabsf(y[i]) + 1);
}

// Those that say how to round.
#define PUT(e) out[k++ * n + i] = e;
extern "C" __global__ void rounded(const float *x, const float *y, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  float v = x[i], w = y[i];
  PUT(__fadd_rn(v, w)) PUT(__fadd_rz(v, w)) PUT(__fadd_ru(v, w)) PUT(__fadd_rd(v, w))
  PUT(__fmul_rn(v, w)) PUT(__fmul_rz(v, w)) PUT(__fmul_ru(v, w)) PUT(__fmul_rd(v, w))
  PUT(__fdiv_rn(v, w)) PUT(__fdiv_rz(v, w)) PUT(__fdiv_ru(v, w)) PUT(__fdiv_rd(v, w))
  PUT(__fmaf_rn(v, v, w)) PUT(__fmaf_rz(v, v, w)) PUT(__fmaf_ru(v, v, w)) PUT(__fmaf_rd(v, v, w))
  PUT(__fsqrt_rn(fabsf(v))) PUT(__fsqrt_rz(fabsf(v))) PUT(__fsqrt_ru(fabsf(v))) PUT(__fsqrt_rd(fabsf(v)))
}
extern "C" __global__ void converted(const double *x, float *f, int *s, long long *l, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  if (i >= n) return;
  double v = x[i];
  float *out = f;
  PUT(__double2float_rn(v)) PUT(__double2float_rz(v)) PUT(__double2float_ru(v)) PUT(__double2float_rd(v))
  s[i] = __double2int_rn(v);
  s[n + i] = __double2int_rz(v);
  s[2 * n + i] = __double2int_ru(v);
  s[3 * n + i] = __double2int_rd(v);
  s[4 * n + i] = __float2int_rn((float)v);
  s[5 * n + i] = __double2hiint(v);
  s[6 * n + i] = __double2loint(v);
  s[7 * n + i] = __float_as_int((float)v);
  l[i] = __double2ll_rd(v);
  l[n + i] = (long long)v;
  l[2 * n + i] = __double_as_longlong(__hiloint2double(s[6 * n + i], s[5 * n + i]));
}
