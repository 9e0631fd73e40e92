// The kernels behind CUB's device-wide algorithms, with the tiles made small: reduction, scan by decoupled
// look-back, radix sort in one sweep for each digit.
#include <cub/agent/agent_radix_sort_histogram.cuh>
#include <cub/agent/agent_radix_sort_onesweep.cuh>
#include <cub/agent/agent_reduce.cuh>
#include <cub/agent/agent_reduce_by_key.cuh>
#include <cub/agent/agent_scan.cuh>
#include <cub/grid/grid_even_share.cuh>

// x -> scale * x + shift, modulo 2^32: associative, not commutative.
struct Affine {
  unsigned scale, shift;
};
struct Compose {
  __device__ Affine operator()(Affine a, Affine b) const { return {a.scale * b.scale, a.shift * b.scale + b.shift}; }
};

using ReducePolicy = cub::AgentReducePolicy<128, 4, int, 4, cub::BLOCK_REDUCE_WARP_REDUCTIONS, cub::LOAD_LDG>;

extern "C" __global__ void reduce_tiles(const int *in, long long *out, int n) {
  using Agent = cub::detail::reduce::AgentReduce<ReducePolicy, const int *, long long *, int, cuda::std::plus<>, long long>;
  __shared__ typename Agent::TempStorage temp;
  cub::GridEvenShare<int> share;
  share.DispatchInit(n, gridDim.x, ReducePolicy::BLOCK_THREADS * ReducePolicy::ITEMS_PER_THREAD);
  share.template BlockInit<ReducePolicy::BLOCK_THREADS * ReducePolicy::ITEMS_PER_THREAD, cub::GRID_MAPPING_RAKE>();
  if (blockIdx.x >= share.grid_size) return;
  long long total = Agent(temp, in, cuda::std::plus<>()).ConsumeTiles(share);
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

template <typename T>
using ScanPolicy = cub::AgentScanPolicy<64, 3, T, cub::BLOCK_LOAD_WARP_TRANSPOSE, cub::LOAD_DEFAULT,
                                        cub::BLOCK_STORE_WARP_TRANSPOSE, cub::BLOCK_SCAN_WARP_SCANS,
                                        cub::detail::MemBoundScaling<64, 3, T>>;

template <typename T>
__device__ void clear_tiles(void *state, size_t bytes, int tiles) {
  cub::ScanTileState<T> tile;
  tile.Init(tiles, state, bytes);
  tile.InitializeStatus(tiles);
}

template <typename T, typename Operator, typename Initial>
__device__ void scan(const T *in, T *out, void *state, size_t bytes, int n, Initial initial) {
  using Agent = cub::detail::scan::AgentScan<ScanPolicy<T>, const T *, T *, Operator, Initial, int, T>;
  __shared__ typename Agent::TempStorage temp;
  cub::ScanTileState<T> tile;
  tile.Init(gridDim.x, state, bytes);
  Agent(temp, in, out, Operator(), initial).ConsumeRange(n, tile, 0);
}

extern "C" __global__ void clear_int(void *state, size_t bytes, int tiles) { clear_tiles<int>(state, bytes, tiles); }
extern "C" __global__ void clear_affine(void *state, size_t bytes, int tiles) { clear_tiles<Affine>(state, bytes, tiles); }
extern "C" __global__ void scan_int(const int *in, int *out, void *state, size_t bytes, int n, int initial) {
  scan<int, cuda::std::plus<>>(in, out, state, bytes, n, initial);
}
extern "C" __global__ void scan_affine(const Affine *in, Affine *out, void *state, size_t bytes, int n) {
  scan<Affine, Compose>(in, out, state, bytes, n, cub::NullType());
}

// Runs of equal keys: the key of each, the sum of its values, and how many there are.
using RunPolicy = cub::AgentReduceByKeyPolicy<64, 3, cub::BLOCK_LOAD_DIRECT, cub::LOAD_DEFAULT, cub::BLOCK_SCAN_WARP_SCANS>;
using RunState = cub::ReduceByKeyScanTileState<int, int>;

extern "C" __global__ void clear_runs(void *state, size_t bytes, int tiles) {
  RunState tile;
  tile.Init(tiles, state, bytes);
  tile.InitializeStatus(tiles);
}

extern "C" __global__ void reduce_runs(const int *keys, const int *values, int *unique, int *sums, int *count,
                                       void *state, size_t bytes, int n) {
  using Agent = cub::detail::reduce::AgentReduceByKey<RunPolicy, const int *, int *, const int *, int *, int *,
                                              cuda::std::equal_to<>, cuda::std::plus<>, int, int>;
  __shared__ typename Agent::TempStorage temp;
  RunState tile;
  tile.Init(gridDim.x, state, bytes);
  Agent(temp, keys, unique, values, sums, count, cuda::std::equal_to<>(), cuda::std::plus<>()).ConsumeRange(n, tile, 0);
}

using HistogramPolicy = cub::AgentRadixSortHistogramPolicy<128, 4, 1, unsigned, 8>;
using SweepPolicy = cub::AgentRadixSortOnesweepPolicy<128, 2, unsigned, 1, cub::RADIX_RANK_MATCH_EARLY_COUNTS_ANY,
                                                      cub::BLOCK_SCAN_RAKING_MEMOIZE, cub::RADIX_SORT_STORE_DIRECT, 8>;

extern "C" __global__ void sort_histogram(unsigned *bins, const float *keys, unsigned n) {
  using Agent = cub::detail::radix_sort::AgentRadixSortHistogram<HistogramPolicy, false, float, unsigned>;
  __shared__ typename Agent::TempStorage temp;
  Agent(temp, bins, keys, n, 0, 32).Process();
}

extern "C" __global__ void sort_sweep(int *lookback, int *counter, const unsigned *bins, float *keys_out,
                                      const float *keys, int *values_out, const int *values, int n, int bit) {
  using Agent = cub::detail::radix_sort::AgentRadixSortOnesweep<SweepPolicy, false, float, int, unsigned, int>;
  __shared__ typename Agent::TempStorage temp;
  Agent(temp, lookback, counter, nullptr, bins, keys_out, keys, values_out, values, n, bit, 8).Process();
}
