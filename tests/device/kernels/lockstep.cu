// What parts the lanes of a warp, and what they still do together.
typedef unsigned u32;

// Lanes of both sides of a branch meet at two different warp barriers, in either order.
extern "C" __global__ void handover(const u32 *x, u32 *out, int first) {
  __shared__ volatile u32 cell[32];
  int lane = threadIdx.x;
  if ((lane < 16) == first) {
    cell[lane & 15] = x[lane & 15];
    __syncwarp();
    out[lane] = 1;
  } else {
    __syncwarp();
    out[lane] = cell[lane & 15];
  }
}

// Loops within loops, with trip counts of each lane's own, and a sum over the lanes that are still there.
extern "C" __global__ void nested(const u32 *x, u32 *out) {
  u32 t = threadIdx.x + blockIdx.x * blockDim.x, sum = 0;
  for (u32 i = 0; i < (x[t] & 7); ++i) {
    for (u32 j = 0; j < (x[t] >> 3 & 3) + i; ++j) {
      if ((i + j + t) % 3 == 0) continue;
      sum += __popc(__activemask()) * 0 + j + 1;
      if (sum > 40) break;
    }
    sum ^= i;
  }
  out[t] = sum;
  __syncthreads();
}

// Threads return one by one; the rest go on to meet at barriers.
extern "C" __global__ void leaving(u32 *out) {
  __shared__ u32 here;
  for (u32 round = 0; round < 5; ++round) {
    if (threadIdx.x == 0) here = 0;
    __syncthreads();
    if (threadIdx.x % 5 == 4 - round && round < 4) {
      out[threadIdx.x] += 1000 * round;
      return;
    }
    atomicAdd(&here, 1);
    __syncthreads();
    out[threadIdx.x] += here;
    __syncthreads();
  }
}

// A lock that one lane after the other takes: lanes in step would wait for ever.
extern "C" __global__ void locked(u32 *lock, u32 *sum) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0, 1) == 0) {
      *(volatile u32 *)sum += threadIdx.x;
      __threadfence();
      atomicExch(lock, 0);
      done = true;
    }
  }
  __syncthreads();
}

// Addresses that advance by an element, by a row, backwards, or by nothing, under full and partial warps.
template <typename T> __device__ void copies(const T *x, T *out, int n, int stride) {
  int t = threadIdx.x + threadIdx.y * blockDim.x, all = blockDim.x * blockDim.y;
  __shared__ T room[1024];
  room[t] = x[t];
  __syncthreads();
  out[t] = room[all - 1 - t];
  out[all + t] = room[(t * stride) % all];
  out[2 * all + t] = room[threadIdx.y * blockDim.x];
  if (t < n) out[3 * all + t] = x[t] + room[n];
  __syncthreads();
  room[threadIdx.y] = x[t] - x[t] + (T)threadIdx.y;
  __syncthreads();
  out[4 * all + t] = room[threadIdx.y];
}
extern "C" __global__ void copies8(const unsigned char *x, unsigned char *out, int n, int s) { copies(x, out, n, s); }
extern "C" __global__ void copies16(const unsigned short *x, unsigned short *out, int n, int s) { copies(x, out, n, s); }
extern "C" __global__ void copies32(const u32 *x, u32 *out, int n, int s) { copies(x, out, n, s); }
extern "C" __global__ void copies64(const double *x, double *out, int n, int s) { copies(x, out, n, s); }

extern "C" __global__ void vectors(const float4 *x, float4 *out, const short2 *y, short2 *z, int n) {
  int t = threadIdx.x + blockIdx.x * blockDim.x;
  __syncwarp();
  if (t >= n) return;
  float4 v = x[t];
  out[n - 1 - t] = make_float4(v.w, v.z, v.y, v.x);
  z[t] = make_short2(y[t].y, y[t].x);
}

// A reduction from the days when the lanes of a warp were always in step, made safe by warp barriers.
extern "C" __global__ void warp_tree(const u32 *x, u32 *out) {
  __shared__ volatile u32 room[64];
  int t = threadIdx.x;
  room[t] = x[t];
  room[t + 32] = 0;
  for (int step = 16; step > 0; step /= 2) {
    __syncwarp();
    u32 other = room[t + step];
    __syncwarp();
    room[t] += other;
  }
  __syncwarp();
  out[t] = room[0];
}

// Blocks wait for the block before them, by a vote on what all lanes see.
extern "C" __global__ void chained(const u32 *x, volatile u32 *state, u32 *out) {
  u32 before = 1;
  if (blockIdx.x > 0) {
    do before = state[blockIdx.x - 1 + threadIdx.x * 0];
    while (__any_sync(~0u, before == 0));
  }
  __syncwarp();
  if (threadIdx.x == 0) {
    state[blockIdx.x] = before + x[blockIdx.x];
    out[blockIdx.x] = before;
  }
}
