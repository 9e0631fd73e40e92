// Kernels of other kinds that bench/typical.py times, as CUDA; typical.cl has them as OpenCL, step by step the same.
// Shared tile, one column of padding against bank conflicts (which a CPU hasn't).
extern "C" __global__ void transpose(const float *in, float *out, int n)
{
  __shared__ float tile[32][33];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    tile[threadIdx.y + i][threadIdx.x] = in[(y + i) * n + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x;
  y = blockIdx.x * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    out[(y + i) * n + x] = tile[threadIdx.x][threadIdx.y + i];
}

// A row of a CSR matrix per thread.
extern "C" __global__ void spmv(const int *rows, const int *columns, const float *values, const float *x, float *y,
                                int n)
{
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n)
    return;
  float sum = 0.f;
  for (int i = rows[row]; i < rows[row + 1]; i++)
    sum += values[i] * x[columns[i]];
  y[row] = sum;
}

extern "C" __global__ void nbody(const float4 *bodies, float4 *out, int n)
{
  __shared__ float4 tile[128];
  int i = blockIdx.x * 128 + threadIdx.x;
  float4 me = bodies[i];
  float ax = 0.f, ay = 0.f, az = 0.f;
  for (int start = 0; start < n; start += 128) {
    tile[threadIdx.x] = bodies[start + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < 128; j++) {
      float4 other = tile[j];
      float dx = other.x - me.x, dy = other.y - me.y, dz = other.z - me.z;
      float d = dx * dx + dy * dy + dz * dz + 1e-3f;
      float r = rsqrtf(d);
      float s = other.w * r * r * r;
      ax += dx * s;
      ay += dy * s;
      az += dz * s;
    }
    __syncthreads();
  }
  out[i] = make_float4(ax, ay, az, 0.f);
}

extern "C" __global__ void mandelbrot(int *out, int n, int most)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y * blockDim.y + threadIdx.y;
  float cx = __fadd_rn(-2.f, 3.f * i / n), cy = __fadd_rn(-1.5f, 3.f * j / n), x = 0.f, y = 0.f;
  int count = 0;
  while (count < most && __fadd_rn(__fmul_rn(x, x), __fmul_rn(y, y)) < 4.f) {
    float t = __fadd_rn(__fsub_rn(__fmul_rn(x, x), __fmul_rn(y, y)), cx);
    y = __fadd_rn(__fmul_rn(2.f * x, y), cy);
    x = t;
    count++;
  }
  out[j * n + i] = count;
}

// Each block scans 512 values: Blelloch's, in shared memory.
extern "C" __global__ void scan(const int *in, int *out)
{
  __shared__ int data[512];
  int me = threadIdx.x;
  const int *from = in + blockIdx.x * 512;
  int *to = out + blockIdx.x * 512;
  data[2 * me] = from[2 * me];
  data[2 * me + 1] = from[2 * me + 1];
  int offset = 1;
  for (int d = 256; d > 0; d /= 2) {
    __syncthreads();
    if (me < d)
      data[offset * (2 * me + 2) - 1] += data[offset * (2 * me + 1) - 1];
    offset *= 2;
  }
  if (me == 0)
    data[511] = 0;
  for (int d = 1; d < 512; d *= 2) {
    offset /= 2;
    __syncthreads();
    if (me < d) {
      int a = offset * (2 * me + 1) - 1, b = offset * (2 * me + 2) - 1;
      int t = data[a];
      data[a] = data[b];
      data[b] += t;
    }
  }
  __syncthreads();
  to[2 * me] = data[2 * me];
  to[2 * me + 1] = data[2 * me + 1];
}

// Each block sorts 512 values.
extern "C" __global__ void bitonic(const int *in, int *out)
{
  __shared__ int data[512];
  int me = threadIdx.x, base = blockIdx.x * 512;
  data[me] = in[base + me];
  data[me + 256] = in[base + me + 256];
  for (int size = 2; size <= 512; size *= 2)
    for (int stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      int at = 2 * me - (me & (stride - 1));
      bool up = (at & size) == 0;
      int a = data[at], b = data[at + stride];
      if ((a > b) == up) {
        data[at] = b;
        data[at + stride] = a;
      }
    }
  __syncthreads();
  out[base + me] = data[me];
  out[base + me + 256] = data[me + 256];
}

// 5 by 5 over a 16 by 16 block with its halo in shared memory.
extern "C" __global__ void halo(const float *in, const float *w, float *out, int n)
{
  __shared__ float tile[20][20];
  int x0 = blockIdx.x * 16 - 2, y0 = blockIdx.y * 16 - 2;
  for (int at = threadIdx.y * 16 + threadIdx.x; at < 400; at += 256) {
    int x = x0 + at % 20, y = y0 + at / 20;
    tile[at / 20][at % 20] = x >= 0 && y >= 0 && x < n && y < n ? in[y * n + x] : 0.f;
  }
  __syncthreads();
  float sum = 0.f;
  for (int dy = 0; dy < 5; dy++)
    for (int dx = 0; dx < 5; dx++)
      sum += w[dy * 5 + dx] * tile[threadIdx.y + dy][threadIdx.x + dx];
  out[(blockIdx.y * 16 + threadIdx.y) * n + blockIdx.x * 16 + threadIdx.x] = sum;
}

// Black-Scholes: elementwise with much arithmetic.
__device__ float cnd(float d)
{
  float k = 1.f / (1.f + 0.2316419f * fabsf(d));
  float c = 0.39894228f * __expf(-0.5f * d * d) *
            (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
  return d > 0 ? 1.f - c : c;
}
extern "C" __global__ void blackscholes(const float *s, const float *x, const float *t, float *call, float *put, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  float root = sqrtf(t[i]), d1 = (__logf(s[i] / x[i]) + (0.02f + 0.5f * 0.3f * 0.3f) * t[i]) / (0.3f * root),
        d2 = d1 - 0.3f * root;
  float a = cnd(d1), b = cnd(d2), e = __expf(-0.02f * t[i]);
  call[i] = s[i] * a - x[i] * e * b;
  put[i] = x[i] * e * (1.f - b) - s[i] * (1.f - a);
}
