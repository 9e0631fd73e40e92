// CUB's sorts, ranks and histograms over a block, by the header that has all of them.
#include <cub/cub.cuh>

constexpr int THREADS = 64;
constexpr int ITEMS = 2;
constexpr int TILE = THREADS * ITEMS;

template <typename Key, typename Sorter>
__device__ void sort_tile(Key *keys, Sorter sorter) {
  Key items[ITEMS];
  for (int i = 0; i < ITEMS; i++) items[i] = keys[blockIdx.x * TILE + threadIdx.x * ITEMS + i];
  sorter(items);
  for (int i = 0; i < ITEMS; i++) keys[blockIdx.x * TILE + threadIdx.x * ITEMS + i] = items[i];
}

extern "C" __global__ void radix_ascending(float *keys) {
  using Sort = cub::BlockRadixSort<float, THREADS, ITEMS>;
  __shared__ typename Sort::TempStorage temp;
  sort_tile(keys, [&](float(&items)[ITEMS]) { Sort(temp).Sort(items); });
}

extern "C" __global__ void radix_descending(long long *keys) {
  using Sort = cub::BlockRadixSort<long long, THREADS, ITEMS, cub::NullType, 5>;
  __shared__ typename Sort::TempStorage temp;
  sort_tile(keys, [&](long long(&items)[ITEMS]) { Sort(temp).SortDescending(items); });
}

// By some of the bits only, so that it must be stable to be right; values go along.
extern "C" __global__ void radix_pairs(unsigned *keys, int *values, int low, int high) {
  using Sort = cub::BlockRadixSort<unsigned, THREADS, ITEMS, int>;
  __shared__ typename Sort::TempStorage temp;
  unsigned items[ITEMS];
  int carried[ITEMS];
  for (int i = 0; i < ITEMS; i++) {
    items[i] = keys[threadIdx.x * ITEMS + i];
    carried[i] = values[threadIdx.x * ITEMS + i];
  }
  Sort(temp).SortBlockedToStriped(items, carried, low, high);
  for (int i = 0; i < ITEMS; i++) {
    keys[threadIdx.x + THREADS * i] = items[i];
    values[threadIdx.x + THREADS * i] = carried[i];
  }
}

extern "C" __global__ void radix_half(unsigned short *keys) {
  using Sort = cub::BlockRadixSort<__half, THREADS, ITEMS>;
  __shared__ typename Sort::TempStorage temp;
  sort_tile(reinterpret_cast<__half *>(keys), [&](__half(&items)[ITEMS]) { Sort(temp).Sort(items); });
}

extern "C" __global__ void merge_pairs(double *keys, int *values, int n) {
  using Sort = cub::BlockMergeSort<double, THREADS, ITEMS, int>;
  __shared__ typename Sort::TempStorage temp;
  double items[ITEMS];
  int carried[ITEMS];
  for (int i = 0; i < ITEMS; i++) {
    int at = threadIdx.x * ITEMS + i;
    items[i] = at < n ? keys[at] : 0;
    carried[i] = at < n ? values[at] : -1;
  }
  auto less = [](double a, double b) { return a < b; };
  Sort(temp).StableSort(items, carried, less, n, (double)INFINITY);
  for (int i = 0; i < ITEMS; i++) {
    int at = threadIdx.x * ITEMS + i;
    if (at < n) {
      keys[at] = items[i];
      values[at] = carried[i];
    }
  }
}

extern "C" __global__ void radix_rank(const unsigned *keys, int *ranks) {
  using Rank = cub::BlockRadixRankMatch<THREADS, 4, false>;
  __shared__ typename Rank::TempStorage temp;
  unsigned items[ITEMS];
  int found[ITEMS];
  // Keys lie warp by warp, each thread's a warp apart.
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * 32 * ITEMS + lane;
  for (int i = 0; i < ITEMS; i++) items[i] = keys[first + 32 * i];
  Rank(temp).RankKeys(items, found, cub::BFEDigitExtractor<unsigned>(2, 4));
  for (int i = 0; i < ITEMS; i++) ranks[first + 32 * i] = found[i];
}

template <cub::BlockHistogramAlgorithm ALGORITHM>
__device__ void count(const unsigned char *in, int *out) {
  using Histogram = cub::BlockHistogram<unsigned char, THREADS, ITEMS, 256, ALGORITHM>;
  __shared__ typename Histogram::TempStorage temp;
  __shared__ int bins[256];
  unsigned char items[ITEMS];
  for (int i = 0; i < ITEMS; i++) items[i] = in[blockIdx.x * TILE + threadIdx.x * ITEMS + i];
  Histogram(temp).Histogram(items, bins);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += THREADS) atomicAdd(out + i, bins[i]);
}
extern "C" __global__ void histogram_atomic(const unsigned char *in, int *out) {
  count<cub::BLOCK_HISTO_ATOMIC>(in, out);
}
extern "C" __global__ void histogram_sort(const unsigned char *in, int *out) { count<cub::BLOCK_HISTO_SORT>(in, out); }

// Items that are the first, the last of a run; the difference from the one before.
extern "C" __global__ void runs(const int *in, int *heads, int *tails, int *steps) {
  using Flags = cub::BlockDiscontinuity<int, THREADS>;
  using Steps = cub::BlockAdjacentDifference<int, THREADS>;
  __shared__ typename Flags::TempStorage flags;
  __shared__ typename Steps::TempStorage step;
  int items[ITEMS], head[ITEMS], tail[ITEMS], gone[ITEMS];
  for (int i = 0; i < ITEMS; i++) items[i] = in[threadIdx.x * ITEMS + i];
  Flags(flags).FlagHeadsAndTails(head, tail, items, cub::Inequality());
  __syncthreads();
  Steps(step).SubtractLeft(items, gone, cub::Difference());
  for (int i = 0; i < ITEMS; i++) {
    heads[threadIdx.x * ITEMS + i] = head[i];
    tails[threadIdx.x * ITEMS + i] = tail[i];
    steps[threadIdx.x * ITEMS + i] = gone[i];
  }
}

// Two runs for each thread, written out one item after the other.
extern "C" __global__ void decode_runs(const int *values, const unsigned *lengths, int *out, unsigned *total) {
  using Decode = cub::BlockRunLengthDecode<int, THREADS, 2, 3>;
  __shared__ typename Decode::TempStorage temp;
  int value[2];
  unsigned length[2], size;
  for (int i = 0; i < 2; i++) {
    value[i] = values[threadIdx.x * 2 + i];
    length[i] = lengths[threadIdx.x * 2 + i];
  }
  Decode decode(temp, value, length, size);
  for (unsigned first = 0; first < size; first += 3 * THREADS) {
    int items[3];
    decode.RunLengthDecode(items, first);
    for (int i = 0; i < 3; i++) {
      unsigned at = first + threadIdx.x * 3 + i;
      if (at < size) out[at] = items[i];
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = size;
}
