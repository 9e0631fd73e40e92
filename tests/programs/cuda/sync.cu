// Threads that wait for one another, and share what they write: locks, queues, tables, warps, barriers.
#include <cstdint>

// Spin locks. One thread of a block asks for the lock.
__device__ int global_lock = 0;
extern "C" __global__ void lock_by_block(int *counter, volatile int *trace) {
  if (threadIdx.x == 0) {
    while (atomicCAS(&global_lock, 0, 1) != 0) ;
    __threadfence();
    int seen = *(volatile int *)counter;
    trace[seen] = blockIdx.x;
    *(volatile int *)counter = seen + 1;
    __threadfence();
    atomicExch(&global_lock, 0);
  }
}
// Every thread asks for it: the loop that ends inside of the critical section.
extern "C" __global__ void lock_by_thread(int *mutex, int *counter) {
  bool done = false;
  while (!done) {
    if (atomicCAS(mutex, 0, 1) == 0) {
      *counter = *counter + 1;
      __threadfence();
      atomicExch(mutex, 0);
      done = true;
    }
  }
}
// And the one that people write first, which needs threads that get on by themselves (Volta and later).
struct Lock {
  int *mutex;
  __device__ void lock() { while (atomicCAS(mutex, 0, 1) != 0) __nanosleep(20); __threadfence(); }
  __device__ void unlock() { __threadfence(); atomicExch(mutex, 0); }
};
extern "C" __global__ void lock_naive(int *mutex, int *counter) {
  Lock lock{mutex};
  lock.lock();
  *(volatile int *)counter += threadIdx.x;
  lock.unlock();
}
// A lock per bucket, in shared memory.
extern "C" __global__ void locked_buckets(const int *keys, float *sums, int n) {
  __shared__ int locks[8];
  __shared__ float shared_sums[8];
  if (threadIdx.x < 8) locks[threadIdx.x] = 0, shared_sums[threadIdx.x] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    int bucket = keys[i] & 7;
    for (bool waiting = true; waiting;) {
      if (!atomicExch(&locks[bucket], 1)) {
        volatile float *place = &shared_sums[bucket];
        *place = *place + keys[i];
        __threadfence_block();
        atomicExch(&locks[bucket], 0);
        waiting = false;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x < 8) sums[threadIdx.x] = shared_sums[threadIdx.x];
}
// A ticket lock.
struct Ticket { unsigned next, serving; };
extern "C" __global__ void ticket_lock(Ticket *t, unsigned *order) {
  if (threadIdx.x == 0) {
    unsigned mine = atomicAdd(&t->next, 1);
    while (atomicAdd(&t->serving, 0) != mine) ;
    order[mine] = blockIdx.x;
    __threadfence();
    atomicAdd(&t->serving, 1);
  }
}
// Atomics that CUDA doesn't have, made of compare-and-swap.
__device__ double atomicAddDouble(double *address, double val) {
  unsigned long long *address_as_ull = (unsigned long long *)address;
  unsigned long long old = *address_as_ull, assumed;
  do {
    assumed = old;
    old = atomicCAS(address_as_ull, assumed, __double_as_longlong(val + __longlong_as_double(assumed)));
  } while (assumed != old);
  return __longlong_as_double(old);
}
__device__ float atomicMaxFloat(float *addr, float value) {
  return value >= 0 ? __int_as_float(atomicMax((int *)addr, __float_as_int(value)))
                    : __uint_as_float(atomicMin((unsigned *)addr, __float_as_uint(value)));
}
__device__ void atomicAddByte(unsigned char *address, unsigned char value) {
  unsigned *base = (unsigned *)((size_t)address & ~3), shift = ((size_t)address & 3) * 8, old = *base, assumed;
  do {
    assumed = old;
    unsigned byte = ((assumed >> shift) + value) & 0xff;
    old = atomicCAS(base, assumed, (assumed & ~(0xffu << shift)) | byte << shift);
  } while (assumed != old);
}
extern "C" __global__ void made_atomics(const float *x, double *sum, float *most, unsigned char *bytes, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  atomicAddDouble(sum, x[i]);
  atomicMaxFloat(most, x[i]);
  atomicAddByte(bytes + i % 7, (unsigned char)(i + 1));
}
extern "C" __global__ void all_atomics(const int *x, int *cells, unsigned long long *wide, float *f, double *d, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  atomicAdd(cells, x[i]);
  atomicSub(cells + 1, x[i]);
  atomicMin(cells + 2, x[i]);
  atomicMax(cells + 3, x[i]);
  atomicAnd(cells + 4, x[i]);
  atomicOr(cells + 5, x[i]);
  atomicXor(cells + 6, x[i]);
  atomicInc((unsigned *)cells + 7, 12);
  atomicDec((unsigned *)cells + 8, 12);
  atomicAdd(wide, (unsigned long long)x[i] << 20);
  atomicMax(wide + 1, (unsigned long long)(unsigned)x[i]);
  atomicMin((long long *)wide + 2, (long long)x[i]);
  atomicXor(wide + 3, (unsigned long long)x[i] * 0x9E3779B97F4A7C15ull);
  atomicAdd(f, (float)(x[i] & 15));
  atomicAdd(d, x[i] * 0.5);
}
// Open addressing.
#define EMPTY 0xffffffffu
__device__ unsigned hashed(unsigned k) { k ^= k >> 16; k *= 0x85ebca6b; k ^= k >> 13; k *= 0xc2b2ae35; k ^= k >> 16; return k; }
extern "C" __global__ void table_insert(uint2 *table, unsigned capacity, const unsigned *keys, const unsigned *values, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned slot = hashed(keys[i]) & (capacity - 1);
  while (true) {
    unsigned prev = atomicCAS(&table[slot].x, EMPTY, keys[i]);
    if (prev == EMPTY || prev == keys[i]) {
      atomicAdd(&table[slot].y, values[i]);
      return;
    }
    slot = (slot + 1) & (capacity - 1);
  }
}
extern "C" __global__ void table_lookup(const uint2 *table, unsigned capacity, const unsigned *keys, unsigned *values, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned slot = hashed(keys[i]) & (capacity - 1);
  while (true) {
    if (table[slot].x == keys[i]) { values[i] = table[slot].y; return; }
    if (table[slot].x == EMPTY) { values[i] = 0; return; }
    slot = (slot + 1) & (capacity - 1);
  }
}
// Linked lists pushed without locks.
struct Node { int value; int next; };
extern "C" __global__ void push_lists(Node *nodes, int *heads, int lists, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int old = heads[i % lists], seen;
  do {
    seen = old;
    nodes[i].next = seen;
    nodes[i].value = i;
    __threadfence();
    old = atomicCAS(&heads[i % lists], seen, i);
  } while (old != seen);
}
// Blocks that stay and take work until there is none; work makes work.
struct Queue { unsigned head, tail, done; };
extern "C" __global__ void persistent(Queue *q, int *items, unsigned capacity, int *leaves) {
  __shared__ int item;
  while (true) {
    if (threadIdx.x == 0) {
      unsigned at = atomicAdd(&q->head, 1);
      item = at < q->tail ? items[at] : -1;
    }
    __syncthreads();
    int mine = item;
    __syncthreads();
    if (mine < 0) return;
    for (int k = threadIdx.x; k < mine; k += blockDim.x) atomicAdd(leaves, 1);
  }
}
// A queue of tasks with flags: a consumer waits for what producer blocks before it put there.
extern "C" __global__ void chained_scan(const int *x, int *out, volatile int *totals, volatile int *flags, int *ticket, int n) {
  __shared__ int block, before, sum;
  if (threadIdx.x == 0) block = atomicAdd(ticket, 1), sum = 0;
  __syncthreads();
  int i = block * blockDim.x + threadIdx.x;
  int v = i < n ? x[i] : 0;
  atomicAdd(&sum, v);
  __syncthreads();
  if (threadIdx.x == 0) {
    int carried = 0;
    if (block > 0) {
      while (flags[block - 1] == 0) ;
      __threadfence();
      carried = totals[block - 1];
    }
    totals[block] = carried + sum;
    __threadfence();
    flags[block] = 1;
    before = carried;
  }
  __syncthreads();
  if (i < n) out[i] = before + v;
}
// Warps.
extern "C" __global__ void aggregated(const int *x, int *out, int *count, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && x[i] % 3 == 0) {
    unsigned mask = __activemask();
    int lane = threadIdx.x & 31, leader = __ffs(mask) - 1, base;
    if (lane == leader) base = atomicAdd(count, __popc(mask));
    base = __shfl_sync(mask, base, leader);
    out[base + __popc(mask & ((1u << lane) - 1))] = x[i];
  }
}
extern "C" __global__ void warp_tools(const int *x, unsigned *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, k = 0;
  bool in = i < n;
  unsigned mask = __ballot_sync(0xffffffffu, in);
  if (!in) return;
  int v = x[i];
#define PUT(e) out[k++ * n + i] = (unsigned)(e);
  PUT(__match_any_sync(mask, v & 3))
  int all;
  PUT(__match_all_sync(mask, v >> 8, &all))
  PUT(all)
  PUT(__reduce_add_sync(mask, v))
  PUT(__reduce_min_sync(mask, v))
  PUT(__reduce_max_sync(mask, (unsigned)v))
  PUT(__reduce_and_sync(mask, v))
  PUT(__reduce_or_sync(mask, v))
  PUT(__reduce_xor_sync(mask, v))
  PUT(__shfl_up_sync(mask, v, 3))
  PUT(__shfl_xor_sync(mask, v, 5))
  PUT(__shfl_sync(mask, v, (threadIdx.x * 7) & 15, 16))
  PUT(__shfl_down_sync(mask, v, 2, 8))
  PUT(__any_sync(mask, v == 5))
  PUT(__all_sync(mask, v < 900))
  unsigned even = 0;
  if (v & 1) even = __ballot_sync(__activemask(), v & 2); else { __syncwarp(__activemask()); even = __popc(__activemask()); }
  PUT(even)
  unsigned below;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
  PUT(below)
}
extern "C" __global__ void block_votes(const int *x, int *out) {
  int v = x[blockIdx.x * blockDim.x + threadIdx.x];
  int a = __syncthreads_count(v > 0), b = __syncthreads_and(v > -5), c = __syncthreads_or(v == 9);
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = a * 100 + (b != 0) * 10 + (c != 0);
}
// Threads that have left, and barriers for those that stay.
extern "C" __global__ void early_exit(const int *x, int *out, int n) {
  __shared__ int part[64];
  if (threadIdx.x >= n) return;
  part[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  for (int round = 0; round < 3; ++round) {
    int next = part[(threadIdx.x + 1) % n];
    __syncthreads();
    part[threadIdx.x] += next;
    __syncthreads();
  }
  out[threadIdx.x] = part[threadIdx.x];
}
// Producer and consumer warps at numbered barriers.
extern "C" __global__ void specialised(const int *x, int *out, int rounds) {
  __shared__ int buffer[2][32];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) {
    for (int r = 0; r < rounds; ++r) {
      if (r >= 2) asm volatile("bar.sync %0, 64;" ::"r"(3 + (r & 1)) : "memory");
      buffer[r & 1][lane] = x[r * 32 + lane] * 2;
      asm volatile("bar.arrive %0, 64;" ::"r"(1 + (r & 1)) : "memory");
    }
  } else {
    for (int r = 0; r < rounds; ++r) {
      asm volatile("bar.sync %0, 64;" ::"r"(1 + (r & 1)) : "memory");
      out[r * 32 + lane] = buffer[r & 1][31 - lane] + r;
      if (r + 2 < rounds) asm volatile("bar.arrive %0, 64;" ::"r"(3 + (r & 1)) : "memory");
    }
  }
}
// Odd blocks: one thread, 33, 1000, 1024.
extern "C" __global__ void any_block(const float *x, float *out) {
  __shared__ float sums[32];
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  unsigned mask = __activemask();
  for (int offset = 16; offset; offset >>= 1) {
    float o = __shfl_down_sync(mask, v, offset);
    if (lane + offset < 32 && threadIdx.x + offset < blockDim.x) v += o;
  }
  if (lane == 0) sums[warp] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0;
    for (int w = 0; w <= (blockDim.x - 1) / 32; ++w) total += sums[w];
    out[blockIdx.x] = total;
  }
}
extern "C" __global__ void clocks(long long *out) {
  long long a = clock64();
  unsigned c = clock();
  __syncthreads();
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  long long b = clock64();
  out[threadIdx.x] = (b >= a) + (t > 0) + ((unsigned)clock() - c < 0x40000000u);
}
