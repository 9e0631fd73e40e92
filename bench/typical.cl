// The kernels of typical.cu, as OpenCL C.
#pragma OPENCL FP_CONTRACT OFF
__kernel void transpose(__global const float *in, __global float *out, int n)
{
  __local float tile[32][33];
  int tx = get_local_id(0), ty = get_local_id(1);
  int x = get_group_id(0) * 32 + tx, y = get_group_id(1) * 32 + ty;
  for (int i = 0; i < 32; i += 8) tile[ty + i][tx] = in[(y + i) * n + x];
  barrier(CLK_LOCAL_MEM_FENCE);
  x = get_group_id(1) * 32 + tx;
  y = get_group_id(0) * 32 + ty;
  for (int i = 0; i < 32; i += 8) out[(y + i) * n + x] = tile[tx][ty + i];
}
__kernel void spmv(__global const int *rows, __global const int *columns, __global const float *values, __global const float *x, __global float *y, int n)
{
  int row = get_global_id(0);
  if (row >= n) return;
  float sum = 0.f;
  for (int i = rows[row]; i < rows[row + 1]; i++) sum += values[i] * x[columns[i]];
  y[row] = sum;
}
__kernel void nbody(__global const float4 *bodies, __global float4 *out, int n)
{
  __local float4 tile[128];
  int i = get_group_id(0) * 128 + get_local_id(0);
  float4 me = bodies[i];
  float ax = 0.f, ay = 0.f, az = 0.f;
  for (int start = 0; start < n; start += 128) {
    tile[get_local_id(0)] = bodies[start + get_local_id(0)];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int j = 0; j < 128; j++) {
      float4 other = tile[j];
      float dx = other.x - me.x, dy = other.y - me.y, dz = other.z - me.z;
      float d = dx * dx + dy * dy + dz * dz + 1e-3f;
      float r = native_rsqrt(d);
      float s = other.w * r * r * r;
      ax += dx * s;
      ay += dy * s;
      az += dz * s;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  out[i] = (float4)(ax, ay, az, 0.f);
}
__kernel void mandelbrot(__global int *out, int n, int most)
{
  int i = get_global_id(0), j = get_global_id(1);
  float cx = -2.f + 3.f * i / n, cy = -1.5f + 3.f * j / n, x = 0.f, y = 0.f;
  int count = 0;
  while (count < most && x * x + y * y < 4.f) {
    float t = x * x - y * y + cx;
    y = 2.f * x * y + cy;
    x = t;
    count++;
  }
  out[j * n + i] = count;
}
__kernel void scan(__global const int *in, __global int *out)
{
  __local int data[512];
  int me = get_local_id(0);
  __global const int *from = in + get_group_id(0) * 512;
  __global int *to = out + get_group_id(0) * 512;
  data[2 * me] = from[2 * me];
  data[2 * me + 1] = from[2 * me + 1];
  int offset = 1;
  for (int d = 256; d > 0; d /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (me < d) data[offset * (2 * me + 2) - 1] += data[offset * (2 * me + 1) - 1];
    offset *= 2;
  }
  if (me == 0) data[511] = 0;
  for (int d = 1; d < 512; d *= 2) {
    offset /= 2;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (me < d) {
      int a = offset * (2 * me + 1) - 1, b = offset * (2 * me + 2) - 1;
      int t = data[a];
      data[a] = data[b];
      data[b] += t;
    }
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  to[2 * me] = data[2 * me];
  to[2 * me + 1] = data[2 * me + 1];
}
__kernel void bitonic(__global const int *in, __global int *out)
{
  __local int data[512];
  int me = get_local_id(0), base = get_group_id(0) * 512;
  data[me] = in[base + me];
  data[me + 256] = in[base + me + 256];
  for (int size = 2; size <= 512; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      barrier(CLK_LOCAL_MEM_FENCE);
      int at = 2 * me - (me & (stride - 1));
      bool up = (at & size) == 0;
      int a = data[at], b = data[at + stride];
      if ((a > b) == up) {
        data[at] = b;
        data[at + stride] = a;
      }
    }
  barrier(CLK_LOCAL_MEM_FENCE);
  out[base + me] = data[me];
  out[base + me + 256] = data[me + 256];
}
__kernel void halo(__global const float *in, __global const float *w, __global float *out, int n)
{
  __local float tile[20][20];
  int tx = get_local_id(0), ty = get_local_id(1);
  int x0 = get_group_id(0) * 16 - 2, y0 = get_group_id(1) * 16 - 2;
  for (int at = ty * 16 + tx; at < 400; at += 256) {
    int x = x0 + at % 20, y = y0 + at / 20;
    tile[at / 20][at % 20] = x >= 0 && y >= 0 && x < n && y < n ? in[y * n + x] : 0.f;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  float sum = 0.f;
  for (int dy = 0; dy < 5; dy++)
    for (int dx = 0; dx < 5; dx++) sum += w[dy * 5 + dx] * tile[ty + dy][tx + dx];
  out[(get_group_id(1) * 16 + ty) * n + get_group_id(0) * 16 + tx] = sum;
}
float cnd(float d)
{
  float k = 1.f / (1.f + 0.2316419f * fabs(d));
  float c = 0.39894228f * native_exp(-0.5f * d * d) * (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
  return d > 0 ? 1.f - c : c;
}
__kernel void blackscholes(__global const float *s, __global const float *x, __global const float *t, __global float *call, __global float *put, int n)
{
  int i = get_global_id(0);
  if (i >= n) return;
  float root = sqrt(t[i]), d1 = (native_log(s[i] / x[i]) + (0.02f + 0.5f * 0.3f * 0.3f) * t[i]) / (0.3f * root), d2 = d1 - 0.3f * root;
  float a = cnd(d1), b = cnd(d2), e = native_exp(-0.02f * t[i]);
  call[i] = s[i] * a - x[i] * e * b;
  put[i] = x[i] * e * (1.f - b) - s[i] * (1.f - a);
}
