// The kernels of kernels.cu, as OpenCL C.
__kernel void saxpy(int n, float a, __global const float *x, __global float *y)
{
  int i = get_global_id(0);
  if (i < n) y[i] = a * x[i] + y[i];
}

__kernel void softmax(__global const float *in, __global float *out, int columns)
{
  __local float partial[256];
  __global const float *row = in + (long)get_group_id(0) * columns;
  __global float *result = out + (long)get_group_id(0) * columns;
  int me = get_local_id(0), width = get_local_size(0);
  float most = -3.402823466e38f;
  for (int i = me; i < columns; i += width) most = fmax(most, row[i]);
  partial[me] = most;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_ = width / 2; half_ > 0; half_ /= 2) {
    if (me < half_) partial[me] = fmax(partial[me], partial[me + half_]);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  most = partial[0];
  barrier(CLK_LOCAL_MEM_FENCE);
  float sum = 0.f;
  for (int i = me; i < columns; i += width) {
    float e = native_exp(row[i] - most);
    result[i] = e;
    sum += e;
  }
  partial[me] = sum;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int half_ = width / 2; half_ > 0; half_ /= 2) {
    if (me < half_) partial[me] += partial[me + half_];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  float scale = 1.f / partial[0];
  for (int i = me; i < columns; i += width) result[i] *= scale;
}

__kernel void histogram(__global const uchar *data, __global uint *counts, int n)
{
  __local uint local_[256];
  for (int i = get_local_id(0); i < 256; i += get_local_size(0)) local_[i] = 0;
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = get_global_id(0); i < n; i += get_global_size(0)) atomic_inc(&local_[data[i]]);
  barrier(CLK_LOCAL_MEM_FENCE);
  for (int i = get_local_id(0); i < 256; i += get_local_size(0)) atomic_add(&counts[i], local_[i]);
}

#define TILE 16
__kernel void matmul(__global const float *a, __global const float *b, __global float *c, int n)
{
  __local float left[TILE][TILE], right[TILE][TILE];
  int tx = get_local_id(0), ty = get_local_id(1);
  int column = get_group_id(0) * TILE + tx, row = get_group_id(1) * TILE + ty;
  float sum = 0.f;
  for (int start = 0; start < n; start += TILE) {
    left[ty][tx] = a[row * n + start + tx];
    right[ty][tx] = b[(start + ty) * n + column];
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int i = 0; i < TILE; ++i) sum += left[ty][i] * right[i][tx];
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  c[row * n + column] = sum;
}

__kernel void stencil(__global const float *x, __global float *y, int n)
{
  int i = get_global_id(0), j = get_global_id(1);
  if (i < 1 || j < 1 || i >= n - 1 || j >= n - 1) return;
  int at = j * n + i;
  y[at] = 0.5f * x[at] + 0.125f * (x[at - 1] + x[at + 1] + x[at - n] + x[at + n]);
}

__kernel void convolution(__global const float *x, __global const float *w, __global float *y, int channels, int size)
{
  int i = get_global_id(0), j = get_global_id(1);
  int image = get_group_id(2) / channels, out = get_group_id(2) % channels;
  if (i < 1 || j < 1 || i >= size - 1 || j >= size - 1) return;
  float sum = 0.f;
  for (int c = 0; c < channels; c++) {
    __global const float *plane = x + (image * channels + c) * size * size;
    __global const float *k = w + (out * channels + c) * 9;
    for (int dy = 0; dy < 3; dy++)
      for (int dx = 0; dx < 3; dx++) sum += k[dy * 3 + dx] * plane[(j + dy - 1) * size + i + dx - 1];
  }
  y[(image * channels + out) * size * size + j * size + i] = sum;
}
