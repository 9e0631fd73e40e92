// libcu++ in device code, by the names that programs use.
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/latch>
#include <cuda/pipeline>
#include <cuda/semaphore>
#include <cuda/std/array>
#include <cuda/std/bit>
#include <cuda/std/complex>
#include <cuda/std/limits>
#include <cuda/std/mdspan>
#include <cuda/std/optional>
#include <cuda/std/span>
#include <cuda/std/tuple>
#include <cuda/std/utility>
#include <cuda/std/variant>
#include <cooperative_groups.h>

extern "C" __global__ void atomics(const int *in, int n, int *ints, unsigned long long *longs, float *floats) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  using Device = cuda::atomic_ref<int, cuda::thread_scope_device>;
  Device(ints[0]).fetch_add(in[i], cuda::std::memory_order_relaxed);
  Device(ints[1]).fetch_max(in[i]);
  Device(ints[2]).fetch_min(in[i], cuda::std::memory_order_acq_rel);
  Device(ints[3]).fetch_xor(in[i], cuda::std::memory_order_release);
  Device(ints[4])++;
  cuda::std::atomic_ref<unsigned long long> wide(longs[0]);
  wide += (unsigned)in[i];
  // Multiplication has no instruction: a loop that compares and exchanges.
  cuda::atomic_ref<unsigned long long, cuda::thread_scope_device> product(longs[1]);
  auto old = product.load(cuda::std::memory_order_relaxed);
  while (!product.compare_exchange_weak(old, old * (2 * (unsigned)in[i] + 1), cuda::std::memory_order_acq_rel)) {
  }
  cuda::atomic_ref<float, cuda::thread_scope_device>(floats[0]).fetch_add(1.0f, cuda::std::memory_order_relaxed);
}

// Small atomics are made of larger ones.
extern "C" __global__ void small_atomics(const unsigned char *in, unsigned char *bytes, unsigned short *shorts) {
  cuda::atomic_ref<unsigned char, cuda::thread_scope_device> byte(bytes[in[threadIdx.x] & 7]);
  byte.fetch_add(1);
  cuda::atomic_ref<unsigned short, cuda::thread_scope_device> word(shorts[in[threadIdx.x] & 3]);
  word.fetch_or((unsigned short)(1u << (threadIdx.x % 16)));
}

extern "C" __global__ void complexes(const float2 *a, const float2 *b, float2 *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  using Complex = cuda::std::complex<float>;
  Complex x(a[i].x, a[i].y), y(b[i].x, b[i].y);
  Complex results[] = {x + y, x * y, x / y, cuda::std::conj(x), cuda::std::exp(x), cuda::std::sqrt(y),
                       Complex(cuda::std::abs(x), cuda::std::arg(y)), cuda::std::polar(1.0f, a[i].x)};
  for (int k = 0; k < 8; k++) out[k * n + i] = make_float2(results[k].real(), results[k].imag());
}

extern "C" __global__ void spans(const int *in, int n, int *out) {
  cuda::std::span<const int> all(in, n);
  auto part = all.subspan(n / 4, n / 2);
  int total = 0;
  for (int value : part) total += value;
  cuda::std::array<int, 5> held{};
  for (int i = 0; i < n; i++) held[i % held.size()] += in[i];
  out[0] = total;
  for (int i = 0; i < 5; i++) out[1 + i] = held[i];
  out[6] = (int)part.size();
  out[7] = part.empty() ? -1 : part.front() ^ part.back();
}

extern "C" __global__ void matrices(const double *in, double *out, int rows, int columns) {
  cuda::std::mdspan<const double, cuda::std::dextents<int, 2>> from(in, rows, columns);
  cuda::std::mdspan<double, cuda::std::dextents<int, 2>, cuda::std::layout_left> to(out, rows, columns);
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) to(i / columns, i % columns) = from(i / columns, i % columns);
}

__device__ cuda::std::optional<int> root(int x) {
  for (int r = 0; r * r <= x; r++)
    if (r * r == x) return r;
  return cuda::std::nullopt;
}

extern "C" __global__ void choices(const int *in, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  auto found = root(in[i]);
  cuda::std::variant<int, double> either;
  if (found) either = *found; else either = in[i] * 0.5;
  auto both = cuda::std::make_tuple(found.value_or(-1), either.index());
  out[i] = cuda::std::get<0>(both) * 10 + (int)cuda::std::get<1>(both);
}

extern "C" __global__ void bits(const unsigned *in, unsigned *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned x = in[i];
  unsigned results[] = {(unsigned)cuda::std::popcount(x), (unsigned)cuda::std::countl_zero(x),
                        (unsigned)cuda::std::countr_zero(x), (unsigned)cuda::std::countl_one(x),
                        cuda::std::rotl(x, 7), cuda::std::bit_floor(x), (unsigned)cuda::std::has_single_bit(x),
                        cuda::std::bit_cast<unsigned>(cuda::std::bit_cast<float>(x)), (unsigned)cuda::std::bit_width(x)};
  for (int k = 0; k < 9; k++) out[k * n + i] = results[k];
}

extern "C" __global__ void limits(double *out) {
  using F = cuda::std::numeric_limits<float>;
  using D = cuda::std::numeric_limits<double>;
  double values[] = {F::epsilon(), F::max(), F::lowest(), F::denorm_min(), D::epsilon(), D::max(), D::denorm_min(), D::infinity()};
  for (int i = 0; i < 8; i++) out[i] = values[i];
  out[8] = (double)cuda::std::numeric_limits<long long>::max();
  out[9] = cuda::std::numeric_limits<unsigned char>::digits;
}

// Half of the block fills what the other half then reads, turn by turn, at two barriers.
extern "C" __global__ void producers(const int *in, int *out, int turns) {
  using Barrier = cuda::barrier<cuda::thread_scope_block>;
  __shared__ Barrier full, empty;
  __shared__ int stage[64];
  if (threadIdx.x == 0) {
    init(&full, blockDim.x);
    init(&empty, blockDim.x);
  }
  __syncthreads();
  int half = blockDim.x / 2, me = threadIdx.x % half;
  if ((int)threadIdx.x < half) {
    for (int turn = 0; turn < turns; turn++) {
      empty.arrive_and_wait();
      stage[me] = in[turn * half + me];
      (void)full.arrive();
    }
  } else {
    int total = 0;
    (void)empty.arrive();
    for (int turn = 0; turn < turns; turn++) {
      full.arrive_and_wait();
      for (int i = 0; i < half; i++) total = total * 31 + stage[i];
      if (turn + 1 < turns) (void)empty.arrive();
    }
    out[me] = total;
  }
}

extern "C" __global__ void pipelined(const int *in, int *out, int tiles) {
  constexpr int STAGES = 2, SIZE = 64;
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, STAGES> state;
  __shared__ int stage[STAGES][SIZE];
  auto group = cooperative_groups::this_thread_block();
  auto pipe = cuda::make_pipeline(group, &state);
  int total = 0;
  for (int compute = 0, fetch = 0; compute < tiles; compute++) {
    for (; fetch < tiles && fetch < compute + STAGES; fetch++) {
      pipe.producer_acquire();
      cuda::memcpy_async(group, stage[fetch % STAGES], in + fetch * SIZE, cuda::aligned_size_t<16>(sizeof(int) * SIZE), pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    total = total * 31 + stage[compute % STAGES][(threadIdx.x + 1) % SIZE];
    pipe.consumer_release();
  }
  out[threadIdx.x] = total;
}

// Barriers, latches and semaphores that are made of atomics wait in loops for the block's other threads.
extern "C" __global__ void waiting(const int *in, int *out) {
  __shared__ cuda::std::aligned_storage_t<sizeof(cuda::latch<cuda::thread_scope_block>), 16> place;
  __shared__ cuda::std::aligned_storage_t<sizeof(cuda::binary_semaphore<cuda::thread_scope_block>), 16> token;
  __shared__ int words[128], count;
  auto *all = reinterpret_cast<cuda::latch<cuda::thread_scope_block> *>(&place);
  auto *one = reinterpret_cast<cuda::binary_semaphore<cuda::thread_scope_block> *>(&token);
  if (threadIdx.x == 0) {
    new (all) cuda::latch<cuda::thread_scope_block>(blockDim.x);
    new (one) cuda::binary_semaphore<cuda::thread_scope_block>(1);
    count = 0;
  }
  __syncthreads();
  words[threadIdx.x] = in[threadIdx.x];
  all->arrive_and_wait();
  one->acquire();
  count = count + words[blockDim.x - 1 - threadIdx.x];
  one->release();
  __syncthreads();
  out[threadIdx.x] = count + words[(threadIdx.x + 1) % blockDim.x];
}

// A flag in memory that one thread sets and all others wait for, without any barrier.
extern "C" __global__ void flagged(int *flag, int *value, int *out) {
  cuda::atomic_ref<int, cuda::thread_scope_device> ready(*flag);
  if (threadIdx.x == blockDim.x - 1) {
    *value = 42;
    ready.store(1, cuda::std::memory_order_release);
  } else {
    while (ready.load(cuda::std::memory_order_acquire) == 0) {
    }
  }
  out[threadIdx.x] = *value;
}
