// The kernels that bench/kernels.py times, as CUDA; kernels.cl has them as OpenCL, step by step the same.
extern "C" __global__ void saxpy(int n, float a, const float *x, float *y)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

extern "C" __global__ void softmax(const float *in, float *out, int columns)
{
  __shared__ float partial[256];
  const float *row = in + (long long)blockIdx.x * columns;
  float *result = out + (long long)blockIdx.x * columns;
  int me = threadIdx.x;
  float most = -3.402823466e38f;
  for (int i = me; i < columns; i += blockDim.x) most = fmaxf(most, row[i]);
  partial[me] = most;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (me < half) partial[me] = fmaxf(partial[me], partial[me + half]);
    __syncthreads();
  }
  most = partial[0];
  __syncthreads();
  float sum = 0.f;
  for (int i = me; i < columns; i += blockDim.x) {
    float e = __expf(row[i] - most);
    result[i] = e;
    sum += e;
  }
  partial[me] = sum;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (me < half) partial[me] += partial[me + half];
    __syncthreads();
  }
  float scale = 1.f / partial[0];
  for (int i = me; i < columns; i += blockDim.x) result[i] *= scale;
}

extern "C" __global__ void histogram(const unsigned char *data, unsigned *counts, int n)
{
  __shared__ unsigned local[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd(&local[data[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&counts[i], local[i]);
}

#define TILE 16
extern "C" __global__ void matmul(const float *a, const float *b, float *c, int n)
{
  __shared__ float left[TILE][TILE], right[TILE][TILE];
  int column = blockIdx.x * TILE + threadIdx.x, row = blockIdx.y * TILE + threadIdx.y;
  float sum = 0.f;
  for (int start = 0; start < n; start += TILE) {
    left[threadIdx.y][threadIdx.x] = a[row * n + start + threadIdx.x];
    right[threadIdx.y][threadIdx.x] = b[(start + threadIdx.y) * n + column];
    __syncthreads();
    for (int i = 0; i < TILE; ++i) sum += left[threadIdx.y][i] * right[i][threadIdx.x];
    __syncthreads();
  }
  c[row * n + column] = sum;
}

extern "C" __global__ void stencil(const float *x, float *y, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y * blockDim.y + threadIdx.y;
  if (i < 1 || j < 1 || i >= n - 1 || j >= n - 1) return;
  int at = j * n + i;
  y[at] = 0.5f * x[at] + 0.125f * (x[at - 1] + x[at + 1] + x[at - n] + x[at + n]);
}

// Each thread: one place of one output channel of one image; images have `channels` planes of size * size.
extern "C" __global__ void convolution(const float *x, const float *w, float *y, int channels, int size)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x, j = blockIdx.y * blockDim.y + threadIdx.y;
  int image = blockIdx.z / channels, out = blockIdx.z % channels;
  if (i < 1 || j < 1 || i >= size - 1 || j >= size - 1) return;
  float sum = 0.f;
  for (int c = 0; c < channels; c++) {
    const float *plane = x + (image * channels + c) * size * size;
    const float *k = w + (out * channels + c) * 9;
    for (int dy = 0; dy < 3; dy++)
      for (int dx = 0; dx < 3; dx++) sum += k[dy * 3 + dx] * plane[(j + dy - 1) * size + i + dx - 1];
  }
  y[(image * channels + out) * size * size + j * size + i] = sum;
}

extern "C" __global__ void reduce(const float *x, float *out, int n)
{
  __shared__ float partial[32];
  float sum = 0.f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) sum += x[i];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.f;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x == 0) atomicAdd(out, sum);
  }
}

extern "C" __global__ void empty() {}
