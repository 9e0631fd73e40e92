// Cooperative groups within a block.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>

namespace cg = cooperative_groups;

// Sums over tiles of a warp's threads, and over the block by its thread_block.
template <int WIDTH>
__device__ void tile_sums(const int *in, int *out) {
  auto block = cg::this_thread_block();
  auto tile = cg::tiled_partition<WIDTH>(block);
  unsigned i = block.group_index().x * block.num_threads() + block.thread_rank();
  out[i] = cg::reduce(tile, in[i], cg::plus<int>());
}
extern "C" __global__ void tile_sums_1(const int *in, int *out) { tile_sums<1>(in, out); }
extern "C" __global__ void tile_sums_4(const int *in, int *out) { tile_sums<4>(in, out); }
extern "C" __global__ void tile_sums_32(const int *in, int *out) { tile_sums<32>(in, out); }

// What a tile knows of itself, and all its exchanges.
extern "C" __global__ void tile_words(const float *in, float *out, unsigned *words) {
  auto tile = cg::tiled_partition<16>(cg::this_thread_block());
  unsigned i = threadIdx.x;
  float x = in[i];
  out[i] = tile.shfl(x, 3);
  out[64 + i] = tile.shfl_up(x, 2);
  out[128 + i] = tile.shfl_down(x, 5);
  out[192 + i] = tile.shfl_xor(x, 9);
  words[i] = tile.thread_rank() | tile.size() << 8 | tile.meta_group_rank() << 16 | tile.meta_group_size() << 24;
  words[64 + i] = tile.ballot(x > 0);
  words[128 + i] = tile.any(x > 1.5f) | tile.all(x > -1.5f) << 1;
  words[192 + i] = tile.match_any((int)x);
  int alike;
  words[256 + i] = tile.match_all((int)x, alike);
  words[320 + i] = alike;
}

// Lanes that want the same counter elect one of them to add for all: the classic of coalesced_threads.
extern "C" __global__ void aggregated_atomics(const int *in, int n, int *kept, int *counter) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n && in[i] > 0) {
    auto active = cg::coalesced_threads();
    int first;
    if (active.thread_rank() == 0) first = atomicAdd(counter, active.size());
    kept[active.shfl(first, 0) + active.thread_rank()] = in[i];
  }
}

// Threads with one label are a group: its size, the rank in it, its sum and largest.
extern "C" __global__ void labeled(const int *labels, const int *in, int *out) {
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int i = threadIdx.x, n = blockDim.x;
  auto group = cg::labeled_partition(warp, labels[i]);
  out[i] = group.size();
  out[n + i] = group.thread_rank();
  out[2 * n + i] = cg::reduce(group, in[i], cg::plus<int>());
  out[3 * n + i] = cg::reduce(group, in[i], cg::greater<int>());
  out[4 * n + i] = cg::inclusive_scan(group, in[i]);
}

extern "C" __global__ void binary(const int *in, int *out) {
  auto warp = cg::tiled_partition<32>(cg::this_thread_block());
  int i = threadIdx.x, n = blockDim.x;
  auto half = cg::binary_partition(warp, in[i] & 1);
  out[i] = half.size();
  out[n + i] = cg::reduce(half, in[i], cg::bit_xor<int>());
  out[2 * n + i] = cg::exclusive_scan(half, in[i], cg::plus<int>());
}

struct Larger {
  __device__ double operator()(double a, double b) const { return a > b ? a : b; }
};

extern "C" __global__ void scans(const double *in, double *out, long long *sums) {
  auto block = cg::this_thread_block();
  auto tile = cg::tiled_partition<8>(block);
  unsigned i = block.thread_rank(), n = block.num_threads();
  out[i] = cg::inclusive_scan(tile, in[i], Larger());
  out[n + i] = cg::exclusive_scan(tile, in[i]);
  sums[i] = cg::reduce(tile, (long long)in[i], cg::plus<long long>());
  sums[n + i] = cg::reduce(tile, (unsigned)(int)in[i], cg::bit_or<unsigned>());
  sums[2 * n + i] = cg::reduce(tile, (int)in[i], cg::less<int>());
}

// Tiles larger than a warp meet through shared memory.
extern "C" __global__ void large_tiles(const int *in, int *out) {
  __shared__ cg::block_tile_memory<256> memory;
  auto block = cg::this_thread_block(memory);
  auto tile = cg::tiled_partition<64>(block);
  unsigned i = block.thread_rank();
  out[i] = cg::reduce(tile, in[i], cg::plus<int>());
  out[256 + i] = tile.shfl(in[i], 40);
  out[512 + i] = tile.any(in[i] > 2000000000);
  out[768 + i] = cg::inclusive_scan(tile, in[i], cg::plus<int>());
  auto half = cg::tiled_partition<128>(block);
  half.sync();
  auto quarter = cg::tiled_partition<64>(half);
  out[1024 + i] = cg::reduce(quarter, in[i], cg::less<int>());
  out[1280 + i] = cg::reduce(half, in[i], cg::greater<int>());
}

// One pass over an array by a block, staged by asynchronous copies; the last part is ragged.
extern "C" __global__ void staged(const int *in, int *out, int n) {
  __shared__ int stage[2][128];
  auto block = cg::this_thread_block();
  int total = 0;
  cg::memcpy_async(block, stage[0], in, sizeof(int) * min(n, 128));
  for (int first = 0, turn = 0; first < n; first += 128, turn ^= 1) {
    int next = first + 128;
    if (next < n) {
      cg::memcpy_async(block, stage[turn ^ 1], in + next, sizeof(int) * min(n - next, 128));
      cg::wait_prior<1>(block);
    } else {
      cg::wait(block);
    }
    for (int i = block.thread_rank(); i < min(n - first, 128); i += block.size()) total += stage[turn][i] * (first + i);
    block.sync();
  }
  atomicAdd(out, total);
}

// A function that one thread runs for its group, with or without telling the others.
extern "C" __global__ void elected(int *counter, int *out) {
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  cg::invoke_one(tile, [&] { atomicAdd(counter, 1); });
  out[threadIdx.x] = cg::invoke_one_broadcast(tile, [&] { return atomicAdd(counter + 1, 10); }) % 10;
  auto active = cg::coalesced_threads();
  cg::invoke_one(active, [&] { atomicAdd(counter + 2, (int)active.size()); });
}

// Groups of a size known only here, of a block and of the lanes that are in a branch.
extern "C" __global__ void partitions(const int *in, int *out, int size) {
  auto tile = cg::tiled_partition(cg::this_thread_block(), size);
  unsigned i = threadIdx.x, n = blockDim.x;
  out[i] = tile.size() * 100 + tile.thread_rank();
  if (in[i] & 1) {
    auto four = cg::tiled_partition(cg::coalesced_threads(), 4);
    out[n + i] = cg::reduce(four, in[i], cg::plus<int>());
  }
}

// Warps go on from a barrier they arrived at earlier, with work in between.
extern "C" __global__ void split_barrier(const int *in, int *out) {
  __shared__ int words[256];
  auto block = cg::this_thread_block();
  unsigned i = block.thread_rank(), n = block.num_threads();
  words[i] = in[i];
  auto token = block.barrier_arrive();
  int own = in[i] * 3;
  block.barrier_wait(std::move(token));
  out[i] = own + words[n - 1 - i];
}
