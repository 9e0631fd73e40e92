// What trains and runs a transformer.
#include <cuda_bf16.h>
#include <float.h>
#include <assert.h>
#define WARP_SIZE 32U
#define GELU_SCALING_FACTOR sqrtf(2.0f / 3.14159265358979323846f)
typedef __nv_bfloat16 floatX;
__device__ inline float warpReduceSum(float v) { for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0xFFFFFFFF, v, o); return v; }
__device__ inline float warpReduceMax(float v) { for (int o = 16; o > 0; o /= 2) v = fmaxf(v, __shfl_xor_sync(0xFFFFFFFF, v, o)); return v; }
using reduction_func_t = float (*)(float);
template <reduction_func_t warp_reduction> __device__ inline float blockReduce(float val, bool final_sync = false, float out_of_bounds = 0.0f) {
  __shared__ float shared_val[32];
  const int lane_id = threadIdx.x % 32, warp_id = threadIdx.x / 32, num_warps = blockDim.x / 32;
  float warp_val = warp_reduction(val);
  if (lane_id == 0) shared_val[warp_id] = warp_val;
  __syncthreads();
  warp_val = (lane_id < num_warps) ? shared_val[lane_id] : out_of_bounds;
  float block_val = warp_reduction(warp_val);
  if (final_sync) __syncthreads();
  return block_val;
}
extern "C" __global__ void encoder_forward(float *out, const int *inp, const float *wte, const float *wpe, int B, int T, int C) {
  int idx = blockIdx.x * blockDim.x + threadIdx.x, C4 = C / 4;
  if (idx < B * T * C4) {
    int bt = idx / C4, t = bt % T, c4 = idx % C4;
    float4 a = reinterpret_cast<const float4 *>(wte)[inp[bt] * C4 + c4], b = reinterpret_cast<const float4 *>(wpe)[t * C4 + c4];
    reinterpret_cast<float4 *>(out)[idx] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  }
}
extern "C" __global__ void layernorm_forward(float *__restrict__ out, float *__restrict__ mean, float *__restrict__ rstd, const float *__restrict__ inp,
                                  const float *__restrict__ weight, const float *__restrict__ bias, int N, int C) {
  int lane_id = threadIdx.x % WARP_SIZE, warp_id = threadIdx.x / WARP_SIZE, num_warps = blockDim.x / WARP_SIZE;
  int idx = blockIdx.x * num_warps + warp_id;
  if (idx >= N) return;
  const float *x = inp + idx * C;
  float sum = 0.0f;
  for (int i = lane_id; i < C; i += WARP_SIZE) sum += x[i];
  float m = warpReduceSum(sum) / C;
  if (lane_id == 0 && mean != nullptr) __stcs(mean + idx, m);
  sum = 0.0f;
  for (int i = lane_id; i < C; i += WARP_SIZE) { float diff = x[i] - m; sum += diff * diff; }
  float s = rsqrtf(warpReduceSum(sum) / C + 1e-5f);
  if (lane_id == 0 && rstd != nullptr) __stcs(rstd + idx, s);
  for (int c = lane_id; c < C; c += WARP_SIZE) __stcs(out + idx * C + c, s * (__ldcs(x + c) - m) * weight[c] + bias[c]);
}
extern "C" __global__ void layernorm_backward(float *dinp, float *dweight, float *dbias, const float *dout, const float *inp, const float *weight,
                                   const float *mean, const float *rstd, int N, int C) {
  extern __shared__ float shared[];
  int lane = threadIdx.x % 32, warps = blockDim.x / 32, idx = blockIdx.x * warps + threadIdx.x / 32;
  float *dbias_shared = shared, *dweight_shared = shared + C;
  for (int i = threadIdx.x; i < C; i += blockDim.x) dbias_shared[i] = 0, dweight_shared[i] = 0;
  __syncthreads();
  if (idx < N) {
    float m = mean[idx], r = rstd[idx], dnorm_mean = 0.0f, dnorm_norm_mean = 0.0f;
    for (int i = lane; i < C; i += 32) {
      float norm = (inp[idx * C + i] - m) * r, dnorm = weight[i] * dout[idx * C + i];
      dnorm_mean += dnorm;
      dnorm_norm_mean += dnorm * norm;
    }
    dnorm_mean = warpReduceSum(dnorm_mean) / C;
    dnorm_norm_mean = warpReduceSum(dnorm_norm_mean) / C;
    for (int i = lane; i < C; i += 32) {
      float d = dout[idx * C + i], norm = (inp[idx * C + i] - m) * r;
      atomicAdd(&dbias_shared[i], d);
      atomicAdd(&dweight_shared[i], norm * d);
      dinp[idx * C + i] += (weight[i] * d - dnorm_mean - norm * dnorm_norm_mean) * r;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < C; i += blockDim.x) { atomicAdd(&dbias[i], dbias_shared[i]); atomicAdd(&dweight[i], dweight_shared[i]); }
}
extern "C" __global__ void softmax_online(float *out, const float *inp, int N, int C) {
  int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x & 31;
  if (row >= N) return;
  const float *x = inp + row * C;
  float maxval = -INFINITY, sumval = 0.0f;
  for (int i = lane; i < C; i += 32) {
    float v = x[i];
    if (v > maxval) { sumval = sumval * expf(maxval - v) + 1.0f; maxval = v; } else sumval += expf(v - maxval);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    __syncwarp();
    float om = __shfl_xor_sync(0xFFFFFFFF, maxval, offset), os = __shfl_xor_sync(0xFFFFFFFF, sumval, offset);
    float m = fmaxf(maxval, om);
    sumval = (m == -INFINITY) ? 0.f : sumval * expf(maxval - m) + os * expf(om - m);
    maxval = m;
  }
  float norm = 1.0f / sumval;
  for (int i = lane; i < C; i += 32) out[row * C + i] = expf(x[i] - maxval) * norm;
}
extern "C" __global__ void attention_causal(float *out, const float *qkv, int T, int NH, int HS) {
  extern __shared__ float scores[];
  int t = blockIdx.x, h = blockIdx.y, b = blockIdx.z, C = NH * HS;
  const float *q = qkv + (b * T + t) * 3 * C + h * HS;
  float scale = 1.0f / sqrtf(HS), most = -FLT_MAX;
  for (int s = threadIdx.x; s <= t; s += blockDim.x) {
    const float *k = qkv + (b * T + s) * 3 * C + C + h * HS;
    float dot = 0;
    for (int i = 0; i < HS; ++i) dot += q[i] * k[i];
    scores[s] = dot * scale;
    most = fmaxf(most, scores[s]);
  }
  most = blockReduce<warpReduceMax>(most, true, -FLT_MAX);
  float sum = 0;
  for (int s = threadIdx.x; s <= t; s += blockDim.x) sum += scores[s] = __expf(scores[s] - most);
  sum = blockReduce<warpReduceSum>(sum, true);
  for (int i = threadIdx.x; i < HS; i += blockDim.x) {
    float acc = 0;
    for (int s = 0; s <= t; ++s) acc += scores[s] * qkv[(b * T + s) * 3 * C + 2 * C + h * HS + i];
    out[(b * T + t) * C + h * HS + i] = acc / sum;
  }
}
extern "C" __global__ void gelu(floatX *out, const floatX *inp, floatX *dinp, const floatX *dout, int N) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= N) return;
  float x = (float)inp[i], cube = 0.044715f * x * x * x, arg = GELU_SCALING_FACTOR * (x + cube), th = tanhf(arg);
  out[i] = (floatX)(0.5f * x * (1.0f + th));
  float sech = 1.0f / (coshf(arg) * coshf(arg));
  float grad = 0.5f * (1.0f + th) + x * 0.5f * sech * GELU_SCALING_FACTOR * (1.0f + 3.0f * 0.044715f * x * x);
  dinp[i] = (floatX)(grad * (float)dout[i]);
}
__device__ inline float lerp(float start, float end, float weight) { return fma(weight, end, fma(-weight, start, start)); }
extern "C" __global__ void adamw(float *params, const float *grads, float *m_memory, float *v_memory, long num, float lr, float beta1, float beta2, float b1c, float b2c, float eps, float decay) {
  long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
  if (i >= num) return;
  float grad = grads[i], m = m_memory[i], v = v_memory[i];
  m_memory[i] = m = lerp(grad, m, beta1);
  v_memory[i] = v = lerp(grad * grad, v, beta2);
  m /= b1c;
  v /= b2c;
  params[i] -= lr * (m / (sqrtf(v) + eps) + decay * params[i]);
}
extern "C" __global__ void __launch_bounds__(256) fused_classifier(float *logits, float *losses, const float dloss, const int *targets, int V, int P) {
  int idx = gridDim.x - (blockIdx.x + 1), ix = targets[idx];
  const float *x = logits + idx * P;
  float thread_max = -INFINITY, thread_sum = 0.0f;
  for (int i = V + threadIdx.x - blockDim.x; i >= 0; i -= blockDim.x) {
    float v = x[i], old = thread_max;
    thread_max = fmaxf(thread_max, v);
    thread_sum = thread_sum * expf(old - thread_max) + expf(v - thread_max);
  }
  float block_max = blockReduce<warpReduceMax>(thread_max, false, -INFINITY);
  __syncthreads();
  thread_sum *= thread_max == -INFINITY ? 0.f : expf(thread_max - block_max);
  float block_sum = blockReduce<warpReduceSum>(thread_sum, true), scale = 1.f / block_sum;
  if (threadIdx.x == 0) losses[idx] -= logf(expf(x[ix] - block_max) * scale);
  __syncthreads();
  for (int i = threadIdx.x; i < V; i += blockDim.x) {
    float prob = expf(x[i] - block_max) * scale;
    logits[idx * P + i] = (prob - (i == ix ? 1.0f : 0.0f)) * dloss;
  }
}
// A product of bf16 matrices, eight by eight results a thread.
__device__ float4 ld_vec(const float *address) { return *reinterpret_cast<const float4 *>(address); }
extern "C" __global__ void __launch_bounds__(256) matmul_forward(float *out, const float *inp, const float *weight, const float *bias, int C, int OC) {
  int oc = 8 * (blockIdx.y * blockDim.y + threadIdx.y);
  __shared__ float lhs_s[128][32];
  __shared__ float rhs_s[128][32];
  inp += 128 * blockIdx.x * C;
  weight += 128 * blockIdx.y * C;
  out += 128 * blockIdx.x * OC + 128 * blockIdx.y;
  float vals[8][8] = {};
  if (bias != NULL)
    for (int i = 0; i < 8; i++)
      for (int j = 0; j < 8; j++) vals[i][j] = bias[oc + j];
  int si_start = 4 * (16 * threadIdx.y + threadIdx.x);
  for (int so = 0; so < C; so += 32) {
    __syncthreads();
    int xmod8 = threadIdx.x % 8, xby8 = threadIdx.x / 8, xo = 4 * xmod8;
    for (int y = 2 * threadIdx.y + xby8; y < 128; y += 32) {
      *(float4 *)&lhs_s[y][xo] = ld_vec(inp + y * C + so + xo);
      *(float4 *)&rhs_s[y][xo] = ld_vec(weight + y * C + so + xo);
    }
    __syncthreads();
    for (int si = si_start; si < si_start + 32; si += 4) {
      float4 rhs[8];
      for (int u = 0; u < 8; ++u) rhs[u] = ld_vec(&rhs_s[u + 8 * threadIdx.y][si % 32]);
      for (int ii = 0; ii < 8; ++ii) {
        float4 lhs = ld_vec(&lhs_s[ii + 8 * threadIdx.x][si % 32]);
        for (int ji = 0; ji < 8; ++ji) {
          vals[ii][ji] += lhs.x * rhs[ji].x;
          vals[ii][ji] += lhs.y * rhs[ji].y;
          vals[ii][ji] += lhs.z * rhs[ji].z;
          vals[ii][ji] += lhs.w * rhs[ji].w;
        }
      }
    }
  }
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; j += 4)
      *(float4 *)(out + (8 * threadIdx.x + i) * OC + 8 * threadIdx.y + j) = make_float4(vals[i][j], vals[i][j + 1], vals[i][j + 2], vals[i][j + 3]);
}
