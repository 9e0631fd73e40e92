// CUB's loads, stores and exchanges of a block, and what it has for warps.
#include <cub/block/block_exchange.cuh>
#include <cub/block/block_load.cuh>
#include <cub/block/block_store.cuh>
#include <cub/warp/warp_exchange.cuh>
#include <cub/warp/warp_load.cuh>
#include <cub/warp/warp_merge_sort.cuh>
#include <cub/warp/warp_reduce.cuh>
#include <cub/warp/warp_scan.cuh>
#include <cub/warp/warp_store.cuh>

constexpr int THREADS = 96;
constexpr int ITEMS = 4;
constexpr int TILE = THREADS * ITEMS;

// Whatever way they come, thread t has items t * ITEMS and on: each is told where it was.
template <cub::BlockLoadAlgorithm LOAD, cub::BlockStoreAlgorithm STORE, int SCALE>
__device__ void move_tile(const int *in, int *out, int n) {
  using Load = cub::BlockLoad<int, THREADS, ITEMS, LOAD>;
  using Store = cub::BlockStore<int, THREADS, ITEMS, STORE>;
  __shared__ union {
    typename Load::TempStorage load;
    typename Store::TempStorage store;
  } temp;
  int first = blockIdx.x * TILE, items[ITEMS], valid = n - first;
  if (valid >= TILE)
    Load(temp.load).Load(in + first, items);
  else
    Load(temp.load).Load(in + first, items, valid, -1);
  for (int i = 0; i < ITEMS; i++) items[i] += SCALE * (threadIdx.x * ITEMS + i);
  __syncthreads();
  if (valid >= TILE)
    Store(temp.store).Store(out + first, items);
  else
    Store(temp.store).Store(out + first, items, valid);
}

extern "C" __global__ void move_direct(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_DIRECT, cub::BLOCK_STORE_DIRECT, 1>(in, out, n);
}
extern "C" __global__ void move_vectorized(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_VECTORIZE, cub::BLOCK_STORE_VECTORIZE, 1>(in, out, n);
}
extern "C" __global__ void move_transposed(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_TRANSPOSE, cub::BLOCK_STORE_TRANSPOSE, 1>(in, out, n);
}
extern "C" __global__ void move_warp_transposed(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_WARP_TRANSPOSE, cub::BLOCK_STORE_WARP_TRANSPOSE, 1>(in, out, n);
}
extern "C" __global__ void move_warp_transposed_timesliced(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_WARP_TRANSPOSE_TIMESLICED, cub::BLOCK_STORE_WARP_TRANSPOSE_TIMESLICED, 1>(in, out, n);
}
extern "C" __global__ void move_striped(const int *in, int *out, int n) {
  move_tile<cub::BLOCK_LOAD_STRIPED, cub::BLOCK_STORE_STRIPED, 0>(in, out, n);
}

extern "C" __global__ void exchange(const int *in, const int *ranks, int *out) {
  using Exchange = cub::BlockExchange<int, THREADS, ITEMS>;
  __shared__ typename Exchange::TempStorage temp;
  int items[ITEMS], rank[ITEMS], results[5][ITEMS];
  for (int i = 0; i < ITEMS; i++) {
    items[i] = in[threadIdx.x * ITEMS + i];
    rank[i] = ranks[threadIdx.x * ITEMS + i];
  }
  Exchange(temp).BlockedToStriped(items, results[0]);
  __syncthreads();
  Exchange(temp).StripedToBlocked(items, results[1]);
  __syncthreads();
  Exchange(temp).BlockedToWarpStriped(items, results[2]);
  __syncthreads();
  Exchange(temp).ScatterToBlocked(items, results[3], rank);
  __syncthreads();
  Exchange(temp).ScatterToStriped(items, results[4], rank);
  for (int k = 0; k < 5; k++)
    for (int i = 0; i < ITEMS; i++) out[k * TILE + threadIdx.x * ITEMS + i] = results[k][i];
}

template <int WIDTH>
__device__ void warp_sums(const int *in, int *out, int valid) {
  using Reduce = cub::WarpReduce<int, WIDTH>;
  __shared__ typename Reduce::TempStorage temp[64 / WIDTH];
  int total = Reduce(temp[threadIdx.x / WIDTH]).Sum(in[blockIdx.x * 64 + threadIdx.x], valid);
  if (threadIdx.x % WIDTH == 0) out[(blockIdx.x * 64 + threadIdx.x) / WIDTH] = total;
}
extern "C" __global__ void warp_reduce_32(const int *in, int *out, int valid) { warp_sums<32>(in, out, valid); }
extern "C" __global__ void warp_reduce_16(const int *in, int *out, int valid) { warp_sums<16>(in, out, valid); }
extern "C" __global__ void warp_reduce_6(const int *in, int *out, int valid) {
  using Reduce = cub::WarpReduce<int, 6>;
  __shared__ typename Reduce::TempStorage temp[5];
  if (threadIdx.x < 30) {
    int total = Reduce(temp[threadIdx.x / 6]).Sum(in[threadIdx.x], valid);
    if (threadIdx.x % 6 == 0) out[threadIdx.x / 6] = total;
  }
}

extern "C" __global__ void warp_reduce_segments(const double *in, const int *heads, double *out) {
  using Reduce = cub::WarpReduce<double>;
  __shared__ typename Reduce::TempStorage temp;
  out[threadIdx.x] = Reduce(temp).HeadSegmentedReduce(in[threadIdx.x], heads[threadIdx.x], cub::Max());
  __syncwarp();
  out[32 + threadIdx.x] = Reduce(temp).TailSegmentedSum(in[threadIdx.x], heads[threadIdx.x]);
}

extern "C" __global__ void warp_scan(const unsigned *in, unsigned *out) {
  using Whole = cub::WarpScan<unsigned>;
  using Part = cub::WarpScan<unsigned, 8>;
  __shared__ typename Whole::TempStorage whole;
  __shared__ typename Part::TempStorage part[4];
  unsigned item = in[threadIdx.x], inclusive, exclusive, total;
  Whole(whole).Scan(item, inclusive, exclusive, cub::Sum());
  out[threadIdx.x] = inclusive;
  if (threadIdx.x > 0) out[32 + threadIdx.x] = exclusive;
  Part(part[threadIdx.x / 8]).ExclusiveScan(item, exclusive, 7u, cub::Max(), total);
  out[64 + threadIdx.x] = exclusive;
  out[96 + threadIdx.x] = total;
  out[128 + threadIdx.x] = Whole(whole).Broadcast(item, 13);
}

extern "C" __global__ void warp_merge_sort(const unsigned *keys, unsigned *out, int n) {
  using Load = cub::WarpLoad<unsigned, 3, cub::WARP_LOAD_TRANSPOSE, 16>;
  using Store = cub::WarpStore<unsigned, 3, cub::WARP_STORE_TRANSPOSE, 16>;
  using Sort = cub::WarpMergeSort<unsigned, 3, 16>;
  __shared__ typename Load::TempStorage load[2];
  __shared__ typename Store::TempStorage store[2];
  __shared__ typename Sort::TempStorage sort[2];
  unsigned items[3];
  int half = threadIdx.x / 16;
  int valid = max(0, min(48, n - 48 * half));
  Load(load[half]).Load(keys + 48 * half, items, valid, 0xffffffffu);
  Sort(sort[half]).Sort(items, [](unsigned a, unsigned b) { return a < b; });
  Store(store[half]).Store(out + 48 * half, items, valid);
}

extern "C" __global__ void warp_exchange(const short *in, short *out) {
  using Exchange = cub::WarpExchange<short, 4, 32>;
  __shared__ typename Exchange::TempStorage temp;
  short items[4];
  for (int i = 0; i < 4; i++) items[i] = in[threadIdx.x * 4 + i];
  Exchange(temp).BlockedToStriped(items, items);
  for (int i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = items[i];
}
