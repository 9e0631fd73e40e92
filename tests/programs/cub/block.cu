// CUB's scans and reductions over a block. Each block of the grid has a tile of its own.
#include <cub/block/block_load.cuh>
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
#include <cub/block/block_store.cuh>

constexpr int THREADS = 128;
constexpr int ITEMS = 3;

template <cub::BlockScanAlgorithm ALGORITHM>
__device__ void inclusive_sum(const int *in, int *out, int *totals, int n) {
  using Load = cub::BlockLoad<int, THREADS, ITEMS, cub::BLOCK_LOAD_TRANSPOSE>;
  using Store = cub::BlockStore<int, THREADS, ITEMS, cub::BLOCK_STORE_TRANSPOSE>;
  using Scan = cub::BlockScan<int, THREADS, ALGORITHM>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
    typename Scan::TempStorage scan;
  } temp;
  int first = blockIdx.x * THREADS * ITEMS, items[ITEMS], total;
  Load(temp.load).Load(in + first, items, n - first, 0);
  __syncthreads();
  Scan(temp.scan).InclusiveSum(items, items, total);
  __syncthreads();
  Store(temp.store).Store(out + first, items, n - first);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

extern "C" __global__ void inclusive_raking(const int *in, int *out, int *totals, int n) {
  inclusive_sum<cub::BLOCK_SCAN_RAKING>(in, out, totals, n);
}
extern "C" __global__ void inclusive_raking_memoize(const int *in, int *out, int *totals, int n) {
  inclusive_sum<cub::BLOCK_SCAN_RAKING_MEMOIZE>(in, out, totals, n);
}
extern "C" __global__ void inclusive_warp_scans(const int *in, int *out, int *totals, int n) {
  inclusive_sum<cub::BLOCK_SCAN_WARP_SCANS>(in, out, totals, n);
}

struct Max {
  __device__ float operator()(float a, float b) const { return a > b ? a : b; }
};

extern "C" __global__ void exclusive_max(const float *in, float *out, float initial) {
  using Scan = cub::BlockScan<float, 96>;
  __shared__ typename Scan::TempStorage temp;
  float item = in[blockIdx.x * 96 + threadIdx.x];
  Scan(temp).ExclusiveScan(item, item, initial, Max());
  out[blockIdx.x * 96 + threadIdx.x] = item;
}

struct Running {
  unsigned long long total;
  __device__ unsigned long long operator()(unsigned long long tile) {
    auto before = total;
    total += tile;
    return before;
  }
};

// One block walks all tiles and carries the sum from one to the next.
extern "C" __global__ void exclusive_sum_of_all(const unsigned long long *in, unsigned long long *out, int n) {
  using Scan = cub::BlockScan<unsigned long long, 64>;
  __shared__ typename Scan::TempStorage temp;
  Running running{0};
  for (int first = 0; first < n; first += 64) {
    int i = first + threadIdx.x;
    unsigned long long item = i < n ? in[i] : 0;
    Scan(temp).ExclusiveSum(item, item, running);
    __syncthreads();
    if (i < n) out[i] = item;
  }
}

// x -> scale * x + shift, modulo 2^32: associative, not commutative.
struct Affine {
  unsigned scale, shift;
};
struct Compose {
  __device__ Affine operator()(Affine a, Affine b) const { return {a.scale * b.scale, a.shift * b.scale + b.shift}; }
};

extern "C" __global__ void inclusive_compose(const Affine *in, Affine *out) {
  using Scan = cub::BlockScan<Affine, 16, cub::BLOCK_SCAN_RAKING, 4, 2>;
  __shared__ typename Scan::TempStorage temp;
  int i = threadIdx.x + 16 * (threadIdx.y + 4 * threadIdx.z);
  Affine item = in[i];
  Scan(temp).InclusiveScan(item, item, Compose());
  out[i] = item;
}

template <cub::BlockReduceAlgorithm ALGORITHM>
__device__ void sum(const int *in, int *out, int n) {
  using Reduce = cub::BlockReduce<int, THREADS, ALGORITHM>;
  __shared__ typename Reduce::TempStorage temp;
  int first = blockIdx.x * THREADS, valid = min(n - first, THREADS);
  int item = (int)threadIdx.x < valid ? in[first + threadIdx.x] : -12345;
  int total = Reduce(temp).Sum(item, valid);
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

extern "C" __global__ void sum_raking_commutative(const int *in, int *out, int n) {
  sum<cub::BLOCK_REDUCE_RAKING_COMMUTATIVE_ONLY>(in, out, n);
}
extern "C" __global__ void sum_raking(const int *in, int *out, int n) { sum<cub::BLOCK_REDUCE_RAKING>(in, out, n); }
extern "C" __global__ void sum_warp_reductions(const int *in, int *out, int n) {
  sum<cub::BLOCK_REDUCE_WARP_REDUCTIONS>(in, out, n);
}

template <cub::BlockReduceAlgorithm ALGORITHM>
__device__ void compose(const Affine *in, Affine *out, int n) {
  using Reduce = cub::BlockReduce<Affine, 100, ALGORITHM>;
  __shared__ typename Reduce::TempStorage temp;
  Affine item = in[min((int)threadIdx.x, n - 1)];
  Affine all = Reduce(temp).Reduce(item, Compose(), n);
  if (threadIdx.x == 0) *out = all;
}
extern "C" __global__ void compose_raking(const Affine *in, Affine *out, int n) {
  compose<cub::BLOCK_REDUCE_RAKING>(in, out, n);
}
extern "C" __global__ void compose_warp_reductions(const Affine *in, Affine *out, int n) {
  compose<cub::BLOCK_REDUCE_WARP_REDUCTIONS>(in, out, n);
}

// The whole array by one block of two dimensions, and the place of its largest value.
extern "C" __global__ void argmax(const double *in, int n, int *index, double *value) {
  using Pair = cub::KeyValuePair<int, double>;
  using Reduce = cub::BlockReduce<Pair, 16, cub::BLOCK_REDUCE_WARP_REDUCTIONS, 10>;
  __shared__ typename Reduce::TempStorage temp;
  int thread = threadIdx.x + 16 * threadIdx.y;
  Pair mine(0x7fffffff, -INFINITY);
  for (int i = thread; i < n; i += 160) mine = cub::ArgMax()(mine, Pair(i, in[i]));
  Pair best = Reduce(temp).Reduce(mine, cub::ArgMax());
  if (thread == 0) {
    *index = best.key;
    *value = best.value;
  }
}
