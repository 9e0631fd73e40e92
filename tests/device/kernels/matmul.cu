// C = A B for square matrices, by tiles in static shared memory.
constexpr int tile = 16;

extern "C" __global__ void matmul(const float *a, const float *b, float *c, int n) {
  __shared__ float left[tile][tile], right[tile][tile];
  int column = blockIdx.x * tile + threadIdx.x, row = blockIdx.y * tile + threadIdx.y;
  float sum = 0.f;
  for (int start = 0; start < n; start += tile) {
    int k = start + threadIdx.x, l = start + threadIdx.y;
    left[threadIdx.y][threadIdx.x] = row < n && k < n ? a[row * n + k] : 0.f;
    right[threadIdx.y][threadIdx.x] = column < n && l < n ? b[l * n + column] : 0.f;
    __syncthreads();
    for (int i = 0; i < tile; ++i) sum += left[threadIdx.y][i] * right[i][threadIdx.x];
    __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}
