// Softmax of each row; one block per row, a tree reduction in dynamic shared memory. blockDim.x is a power of two.
extern "C" __global__ void softmax(const float *in, float *out, int columns) {
  extern __shared__ float partial[];
  const float *row = in + (long long)blockIdx.x * columns;
  float *result = out + (long long)blockIdx.x * columns;
  int me = threadIdx.x;
  float most = -__int_as_float(0x7f800000);
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
    float e = expf(row[i] - most);
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
