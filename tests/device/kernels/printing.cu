
extern "C" __global__ void plain(int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) printf("thread %d of %d: %s %f\n", i, n, i & 1 ? "odd" : "even", i * 0.5);
}

extern "C" __global__ void meeting(const int *x, int *out) {
  __shared__ int sum;
  int t = threadIdx.x;
  if (t == 0) sum = 0;
  __syncthreads();
  if (x[t] > 0) {
    int total = __reduce_add_sync(__activemask(), x[t]);
    int count = printf("%d:%d/%d\n", t, x[t], total);
    atomicAdd(&sum, count);
  }
  __syncthreads();
  out[t] = sum;
}

static __device__ __noinline__ int helper(int x) {
  if (x > 2) printf("%lld", (long long)x << 40);
  return x + 1;
}

extern "C" __global__ void called(int *out) { out[threadIdx.x] = helper(threadIdx.x); }

extern "C" __global__ void asserting(const int *x) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  assert(x[i] < 100);
}

extern "C" __global__ void asserting_after_a_barrier(const int *x) {
  __shared__ int y[256];
  y[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  assert(y[threadIdx.x ^ 1] < 100 && "a neighbour");
}

extern "C" __global__ void trapping(const int *x) {
  if (x[threadIdx.x] > 100) __trap();
}
