// The programs of every CUDA course: tiles, transposes, reductions, scans, histograms, sorts.
#include <cuda_runtime.h>

__global__ void vectorAdd(const float *A, const float *B, float *C, int numElements) {
  int i = blockDim.x * blockIdx.x + threadIdx.x;
  if (i < numElements) {
    C[i] = A[i] + B[i] + 0.0f;
  }
}

template <int BLOCK_SIZE>
__global__ void MatrixMulCUDA(float *C, float *A, float *B, int wA, int wB) {
  int bx = blockIdx.x, by = blockIdx.y, tx = threadIdx.x, ty = threadIdx.y;
  int aBegin = wA * BLOCK_SIZE * by;
  int aEnd = aBegin + wA - 1;
  int aStep = BLOCK_SIZE;
  int bBegin = BLOCK_SIZE * bx;
  int bStep = BLOCK_SIZE * wB;
  float Csub = 0;
  for (int a = aBegin, b = bBegin; a <= aEnd; a += aStep, b += bStep) {
    __shared__ float As[BLOCK_SIZE][BLOCK_SIZE];
    __shared__ float Bs[BLOCK_SIZE][BLOCK_SIZE];
    As[ty][tx] = A[a + wA * ty + tx];
    Bs[ty][tx] = B[b + wB * ty + tx];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < BLOCK_SIZE; ++k) Csub += As[ty][k] * Bs[k][tx];
    __syncthreads();
  }
  int c = wB * BLOCK_SIZE * by + BLOCK_SIZE * bx;
  C[c + wB * ty + tx] = Csub;
}
template __global__ void MatrixMulCUDA<16>(float *, float *, float *, int, int);
template __global__ void MatrixMulCUDA<32>(float *, float *, float *, int, int);

#define TILE_DIM 32
#define BLOCK_ROWS 8

extern "C" __global__ void transposeNaive(float *odata, const float *idata) {
  int x = blockIdx.x * TILE_DIM + threadIdx.x;
  int y = blockIdx.y * TILE_DIM + threadIdx.y;
  int width = gridDim.x * TILE_DIM;
  int height = gridDim.y * TILE_DIM;
  for (int j = 0; j < TILE_DIM; j += BLOCK_ROWS) odata[x * height + (y + j)] = idata[(y + j) * width + x];
}

extern "C" __global__ void transposeNoBankConflicts(float *odata, const float *idata, int width, int height) {
  __shared__ float tile[TILE_DIM][TILE_DIM + 1];
  int x = blockIdx.x * TILE_DIM + threadIdx.x;
  int y = blockIdx.y * TILE_DIM + threadIdx.y;
  for (int j = 0; j < TILE_DIM; j += BLOCK_ROWS)
    if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = idata[(y + j) * width + x];
  __syncthreads();
  x = blockIdx.y * TILE_DIM + threadIdx.x;
  y = blockIdx.x * TILE_DIM + threadIdx.y;
  for (int j = 0; j < TILE_DIM; j += BLOCK_ROWS)
    if (x < height && y + j < width) odata[(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
}

extern "C" __global__ void transposeDiagonal(double *odata, double *idata, int width, int height) {
  __shared__ double tile[TILE_DIM][TILE_DIM + 1];
  int blockIdx_x, blockIdx_y;
  if (width == height) {
    blockIdx_y = blockIdx.x;
    blockIdx_x = (blockIdx.x + blockIdx.y) % gridDim.x;
  } else {
    int bid = blockIdx.x + gridDim.x * blockIdx.y;
    blockIdx_y = bid % gridDim.y;
    blockIdx_x = ((bid / gridDim.y) + blockIdx_y) % gridDim.x;
  }
  int xIndex = blockIdx_x * TILE_DIM + threadIdx.x;
  int yIndex = blockIdx_y * TILE_DIM + threadIdx.y;
  int index_in = xIndex + yIndex * width;
  xIndex = blockIdx_y * TILE_DIM + threadIdx.x;
  yIndex = blockIdx_x * TILE_DIM + threadIdx.y;
  int index_out = xIndex + yIndex * height;
  for (int i = 0; i < TILE_DIM; i += BLOCK_ROWS) tile[threadIdx.y + i][threadIdx.x] = idata[index_in + i * width];
  __syncthreads();
  for (int i = 0; i < TILE_DIM; i += BLOCK_ROWS) odata[index_out + i * height] = tile[threadIdx.x][threadIdx.y + i];
}

// Reductions, from the first that everybody writes to the last.
template <class T> struct SharedMemory {
  __device__ inline operator T *() {
    extern __shared__ int __smem[];
    return (T *)__smem;
  }
};
template <> struct SharedMemory<double> {
  __device__ inline operator double *() {
    extern __shared__ double __smem_d[];
    return (double *)__smem_d;
  }
};

template <class T> __global__ void reduce0(T *g_idata, T *g_odata, unsigned int n) {
  T *sdata = SharedMemory<T>();
  unsigned int tid = threadIdx.x;
  unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
  sdata[tid] = (i < n) ? g_idata[i] : 0;
  __syncthreads();
  for (unsigned int s = 1; s < blockDim.x; s *= 2) {
    if ((tid % (2 * s)) == 0) sdata[tid] += sdata[tid + s];
    __syncthreads();
  }
  if (tid == 0) g_odata[blockIdx.x] = sdata[0];
}
template __global__ void reduce0<int>(int *, int *, unsigned int);
template __global__ void reduce0<double>(double *, double *, unsigned int);

extern "C" __global__ void reduce1(int *g_idata, int *g_odata, unsigned int n) {
  extern __shared__ int __smem[];
  int *sdata = __smem;
  unsigned int tid = threadIdx.x;
  unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
  sdata[tid] = (i < n) ? g_idata[i] : 0;
  __syncthreads();
  for (unsigned int s = 1; s < blockDim.x; s *= 2) {
    int index = 2 * s * tid;
    if (index < blockDim.x) sdata[index] += sdata[index + s];
    __syncthreads();
  }
  if (tid == 0) g_odata[blockIdx.x] = sdata[0];
}

extern "C" __global__ void reduce3(int *g_idata, int *g_odata, unsigned int n) {
  extern __shared__ int __smem[];
  int *sdata = __smem;
  unsigned int tid = threadIdx.x;
  unsigned int i = blockIdx.x * (blockDim.x * 2) + threadIdx.x;
  int mySum = (i < n) ? g_idata[i] : 0;
  if (i + blockDim.x < n) mySum += g_idata[i + blockDim.x];
  sdata[tid] = mySum;
  __syncthreads();
  for (unsigned int s = blockDim.x / 2; s > 0; s >>= 1) {
    if (tid < s) sdata[tid] = mySum = mySum + sdata[tid + s];
    __syncthreads();
  }
  if (tid == 0) g_odata[blockIdx.x] = mySum;
}

// The tail of before Volta: the lanes of the last warp are in step, and volatile is all there is to say so.
template <class T, unsigned int blockSize> __device__ void warpReduce(volatile T *sdata, unsigned int tid) {
  if (blockSize >= 64) sdata[tid] += sdata[tid + 32];
  if (blockSize >= 32) sdata[tid] += sdata[tid + 16];
  if (blockSize >= 16) sdata[tid] += sdata[tid + 8];
  if (blockSize >= 8) sdata[tid] += sdata[tid + 4];
  if (blockSize >= 4) sdata[tid] += sdata[tid + 2];
  if (blockSize >= 2) sdata[tid] += sdata[tid + 1];
}
template <class T, unsigned int blockSize, bool nIsPow2>
__global__ void reduce6(T *g_idata, T *g_odata, unsigned int n) {
  T *sdata = SharedMemory<T>();
  unsigned int tid = threadIdx.x;
  unsigned int i = blockIdx.x * blockSize * 2 + threadIdx.x;
  unsigned int gridSize = blockSize * 2 * gridDim.x;
  T mySum = 0;
  while (i < n) {
    mySum += g_idata[i];
    if (nIsPow2 || i + blockSize < n) mySum += g_idata[i + blockSize];
    i += gridSize;
  }
  sdata[tid] = mySum;
  __syncthreads();
  if (blockSize >= 512) {
    if (tid < 256) sdata[tid] = mySum = mySum + sdata[tid + 256];
    __syncthreads();
  }
  if (blockSize >= 256) {
    if (tid < 128) sdata[tid] = mySum = mySum + sdata[tid + 128];
    __syncthreads();
  }
  if (blockSize >= 128) {
    if (tid < 64) sdata[tid] = mySum = mySum + sdata[tid + 64];
    __syncthreads();
  }
  if (tid < 32) warpReduce<T, blockSize>(sdata, tid);
  if (tid == 0) g_odata[blockIdx.x] = sdata[0];
}
template __global__ void reduce6<int, 256, false>(int *, int *, unsigned int);
template __global__ void reduce6<float, 64, true>(float *, float *, unsigned int);

// The last block adds what all blocks found.
__device__ unsigned int retirementCount = 0;
extern "C" __global__ void reduceSinglePass(const float *g_idata, volatile float *g_odata, unsigned int n) {
  __shared__ float sdata[256];
  __shared__ bool amLast;
  unsigned int tid = threadIdx.x;
  float sum = 0;
  for (unsigned int i = blockIdx.x * blockDim.x + tid; i < n; i += blockDim.x * gridDim.x) sum += g_idata[i];
  sdata[tid] = sum;
  __syncthreads();
  for (unsigned int s = blockDim.x / 2; s > 0; s >>= 1) {
    if (tid < s) sdata[tid] += sdata[tid + s];
    __syncthreads();
  }
  if (gridDim.x == 1) {
    if (tid == 0) g_odata[0] = sdata[0];
    return;
  }
  if (tid == 0) {
    g_odata[blockIdx.x] = sdata[0];
    __threadfence();
    unsigned int ticket = atomicInc(&retirementCount, gridDim.x);
    amLast = (ticket == gridDim.x - 1);
  }
  __syncthreads();
  if (amLast) {
    sum = 0;
    for (unsigned int i = tid; i < gridDim.x; i += blockDim.x) sum += g_odata[i];
    sdata[tid] = sum;
    __syncthreads();
    for (unsigned int s = blockDim.x / 2; s > 0; s >>= 1) {
      if (tid < s) sdata[tid] += sdata[tid + s];
      __syncthreads();
    }
    if (tid == 0) {
      g_odata[0] = sdata[0];
      retirementCount = 0;
    }
  }
}

extern "C" __global__ void scanHillisSteele(int *g_odata, const int *g_idata, int n) {
  extern __shared__ int __smem[];
  int *temp = __smem;
  int thid = threadIdx.x;
  int pout = 0, pin = 1;
  temp[pout * n + thid] = (thid > 0) ? g_idata[thid - 1] : 0;
  __syncthreads();
  for (int offset = 1; offset < n; offset *= 2) {
    pout = 1 - pout;
    pin = 1 - pout;
    if (thid >= offset)
      temp[pout * n + thid] = temp[pin * n + thid] + temp[pin * n + thid - offset];
    else
      temp[pout * n + thid] = temp[pin * n + thid];
    __syncthreads();
  }
  g_odata[thid] = temp[pout * n + thid];
}

#define LOG_NUM_BANKS 5
#define CONFLICT_FREE_OFFSET(n) ((n) >> LOG_NUM_BANKS)
extern "C" __global__ void scanBlelloch(float *g_odata, const float *g_idata, int n) {
  extern __shared__ float __smem_f[];
  float *temp = __smem_f;
  int thid = threadIdx.x;
  int offset = 1;
  int ai = thid, bi = thid + (n / 2);
  temp[ai + CONFLICT_FREE_OFFSET(ai)] = g_idata[ai];
  temp[bi + CONFLICT_FREE_OFFSET(bi)] = g_idata[bi];
  for (int d = n >> 1; d > 0; d >>= 1) {
    __syncthreads();
    if (thid < d) {
      int ai = offset * (2 * thid + 1) - 1, bi = offset * (2 * thid + 2) - 1;
      ai += CONFLICT_FREE_OFFSET(ai);
      bi += CONFLICT_FREE_OFFSET(bi);
      temp[bi] += temp[ai];
    }
    offset *= 2;
  }
  if (thid == 0) temp[n - 1 + CONFLICT_FREE_OFFSET(n - 1)] = 0;
  for (int d = 1; d < n; d *= 2) {
    offset >>= 1;
    __syncthreads();
    if (thid < d) {
      int ai = offset * (2 * thid + 1) - 1, bi = offset * (2 * thid + 2) - 1;
      ai += CONFLICT_FREE_OFFSET(ai);
      bi += CONFLICT_FREE_OFFSET(bi);
      float t = temp[ai];
      temp[ai] = temp[bi];
      temp[bi] += t;
    }
  }
  __syncthreads();
  g_odata[ai] = temp[ai + CONFLICT_FREE_OFFSET(ai)];
  g_odata[bi] = temp[bi + CONFLICT_FREE_OFFSET(bi)];
}

// scan.cu's way, with the warp in step by volatile.
__device__ unsigned scan1Inclusive(unsigned idata, volatile unsigned *s_Data, unsigned size) {
  unsigned pos = 2 * threadIdx.x - (threadIdx.x & (size - 1));
  s_Data[pos] = 0;
  pos += size;
  s_Data[pos] = idata;
  for (unsigned offset = 1; offset < size; offset <<= 1) {
    __syncthreads();
    unsigned t = s_Data[pos] + s_Data[pos - offset];
    __syncthreads();
    s_Data[pos] = t;
  }
  return s_Data[pos];
}
extern "C" __global__ void scanExclusiveShared(uint4 *d_Dst, uint4 *d_Src, unsigned size) {
  __shared__ unsigned s_Data[2 * 256];
  unsigned pos = blockIdx.x * blockDim.x + threadIdx.x;
  uint4 idata4 = d_Src[pos];
  idata4.y += idata4.x;
  idata4.z += idata4.y;
  idata4.w += idata4.z;
  unsigned oval = scan1Inclusive(idata4.w, s_Data, size / 4) - idata4.w;
  uint4 odata4;
  odata4.x = oval;
  odata4.y = oval + idata4.x;
  odata4.z = oval + idata4.y;
  odata4.w = oval + idata4.z;
  d_Dst[pos] = odata4;
}

// A byte per thread and bin; four pixels per word.
typedef unsigned int uint;
typedef unsigned char uchar;
#define HISTOGRAM64_THREADBLOCK_SIZE 64
__device__ inline void addByte(uchar *s_ThreadBase, uint data) {
  s_ThreadBase[__umul24(data, HISTOGRAM64_THREADBLOCK_SIZE)]++;
}
extern "C" __global__ void histogram64Kernel(uint *d_PartialHistograms, const uint *d_Data, uint dataCount) {
  __shared__ uchar s_Hist[HISTOGRAM64_THREADBLOCK_SIZE * 64];
  for (int i = 0; i < 64 / 4; i++) ((uint *)s_Hist)[threadIdx.x + i * HISTOGRAM64_THREADBLOCK_SIZE] = 0;
  __syncthreads();
  const uint threadPos = (threadIdx.x & ~63) | ((threadIdx.x & 15) << 2) | ((threadIdx.x & 48) >> 4);
  uchar *s_ThreadBase = s_Hist + threadPos;
  for (uint pos = blockIdx.x * blockDim.x + threadIdx.x; pos < dataCount; pos += blockDim.x * gridDim.x) {
    uint data = d_Data[pos];
    addByte(s_ThreadBase, (data >> 2) & 0x3FU);
    addByte(s_ThreadBase, (data >> 10) & 0x3FU);
    addByte(s_ThreadBase, (data >> 18) & 0x3FU);
    addByte(s_ThreadBase, (data >> 26) & 0x3FU);
  }
  __syncthreads();
  if (threadIdx.x < 64) {
    uchar *s_HistBase = s_Hist + threadIdx.x * HISTOGRAM64_THREADBLOCK_SIZE;
    uint sum = 0;
    uint pos = 4 * (threadIdx.x & 15);
    for (uint i = 0; i < HISTOGRAM64_THREADBLOCK_SIZE / 4; i++) {
      sum += s_HistBase[pos + 0] + s_HistBase[pos + 1] + s_HistBase[pos + 2] + s_HistBase[pos + 3];
      pos = (pos + 4) & (HISTOGRAM64_THREADBLOCK_SIZE - 1);
    }
    d_PartialHistograms[blockIdx.x * 64 + threadIdx.x] = sum;
  }
}

#define WARP_COUNT 6
// Without shared atomics: each lane tags its count, and tries again when another lane's tag is there.
__device__ inline void addByteTagged(volatile uint *s_WarpHist, uint data, uint threadTag) {
  uint count;
  do {
    count = s_WarpHist[data] & 0x07FFFFFFU;
    count = threadTag | (count + 1);
    s_WarpHist[data] = count;
  } while (s_WarpHist[data] != count);
}
extern "C" __global__ void histogram256Tagged(uint *d_Partial, const uint *d_Data, uint dataCount) {
  __shared__ uint s_Hist[WARP_COUNT * 256];
  uint *s_WarpHist = s_Hist + (threadIdx.x >> 5) * 256;
  for (uint i = threadIdx.x; i < WARP_COUNT * 256; i += blockDim.x) s_Hist[i] = 0;
  const uint tag = threadIdx.x << 27;
  __syncthreads();
  for (uint pos = blockIdx.x * blockDim.x + threadIdx.x; pos < dataCount; pos += blockDim.x * gridDim.x) {
    uint data = d_Data[pos];
    addByteTagged(s_WarpHist, (data >> 0) & 0xFFU, tag);
    addByteTagged(s_WarpHist, (data >> 8) & 0xFFU, tag);
    addByteTagged(s_WarpHist, (data >> 16) & 0xFFU, tag);
    addByteTagged(s_WarpHist, (data >> 24) & 0xFFU, tag);
  }
  __syncthreads();
  for (uint bin = threadIdx.x; bin < 256; bin += blockDim.x) {
    uint sum = 0;
    for (uint i = 0; i < WARP_COUNT; i++) sum += s_Hist[bin + i * 256] & 0x07FFFFFFU;
    d_Partial[blockIdx.x * 256 + bin] = sum;
  }
}
extern "C" __global__ void histogram256(uint *d_Histogram, const uchar *d_Data, uint n) {
  __shared__ uint s_Hist[WARP_COUNT * 256];
  uint *s_WarpHist = s_Hist + (threadIdx.x >> 5) * 256;
#pragma unroll
  for (uint i = 0; i < 256 / 32; i++) s_Hist[threadIdx.x + i * WARP_COUNT * 32] = 0;
  __syncthreads();
  for (uint pos = blockIdx.x * blockDim.x + threadIdx.x; pos < n; pos += blockDim.x * gridDim.x)
    atomicAdd(s_WarpHist + d_Data[pos], 1);
  __syncthreads();
  for (uint bin = threadIdx.x; bin < 256; bin += WARP_COUNT * 32) {
    uint sum = 0;
    for (uint i = 0; i < WARP_COUNT; i++) sum += s_Hist[bin + i * 256];
    if (sum) atomicAdd(d_Histogram + bin, sum);
  }
}

__device__ inline void Comparator(uint &keyA, uint &valA, uint &keyB, uint &valB, uint dir) {
  uint t;
  if ((keyA > keyB) == dir) {
    t = keyA; keyA = keyB; keyB = t;
    t = valA; valA = valB; valB = t;
  }
}
#define SHARED_SIZE_LIMIT 1024U
extern "C" __global__ void __launch_bounds__(512)
bitonicSortShared(uint *d_DstKey, uint *d_DstVal, uint *d_SrcKey, uint *d_SrcVal, uint arrayLength, uint dir) {
  __shared__ uint s_key[SHARED_SIZE_LIMIT];
  __shared__ uint s_val[SHARED_SIZE_LIMIT];
  const uint half = arrayLength / 2;
  s_key[threadIdx.x] = d_SrcKey[blockIdx.x * arrayLength + threadIdx.x];
  s_val[threadIdx.x] = d_SrcVal[blockIdx.x * arrayLength + threadIdx.x];
  s_key[threadIdx.x + half] = d_SrcKey[blockIdx.x * arrayLength + threadIdx.x + half];
  s_val[threadIdx.x + half] = d_SrcVal[blockIdx.x * arrayLength + threadIdx.x + half];
  for (uint size = 2; size < arrayLength; size <<= 1) {
    uint ddd = dir ^ ((threadIdx.x & (size / 2)) != 0);
    for (uint stride = size / 2; stride > 0; stride >>= 1) {
      __syncthreads();
      uint pos = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
      Comparator(s_key[pos + 0], s_val[pos + 0], s_key[pos + stride], s_val[pos + stride], ddd);
    }
  }
  for (uint stride = arrayLength / 2; stride > 0; stride >>= 1) {
    __syncthreads();
    uint pos = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
    Comparator(s_key[pos + 0], s_val[pos + 0], s_key[pos + stride], s_val[pos + stride], dir);
  }
  __syncthreads();
  d_DstKey[blockIdx.x * arrayLength + threadIdx.x] = s_key[threadIdx.x];
  d_DstVal[blockIdx.x * arrayLength + threadIdx.x] = s_val[threadIdx.x];
  d_DstKey[blockIdx.x * arrayLength + threadIdx.x + half] = s_key[threadIdx.x + half];
  d_DstVal[blockIdx.x * arrayLength + threadIdx.x + half] = s_val[threadIdx.x + half];
}

extern "C" __global__ void oddEvenMergeSortShared(uint *d_Key, uint *d_Val, uint arrayLength, uint dir) {
  extern __shared__ uint pairs[];
  uint *s_key = pairs, *s_val = pairs + arrayLength;
  for (uint i = threadIdx.x; i < arrayLength; i += blockDim.x) {
    s_key[i] = d_Key[i];
    s_val[i] = d_Val[i];
  }
  for (uint size = 2; size <= arrayLength; size <<= 1) {
    uint stride = size / 2;
    uint offset = threadIdx.x & (stride - 1);
    {
      __syncthreads();
      uint pos = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
      Comparator(s_key[pos + 0], s_val[pos + 0], s_key[pos + stride], s_val[pos + stride], dir);
      stride >>= 1;
    }
    for (; stride > 0; stride >>= 1) {
      __syncthreads();
      uint pos = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
      if (offset >= stride)
        Comparator(s_key[pos - stride], s_val[pos - stride], s_key[pos + 0], s_val[pos + 0], dir);
    }
  }
  __syncthreads();
  for (uint i = threadIdx.x; i < arrayLength; i += blockDim.x) {
    d_Key[i] = s_key[i];
    d_Val[i] = s_val[i];
  }
}

// A sort of one block, a bit at a time, by ballots.
extern "C" __global__ void radixSortBits(unsigned *keys, int n, int bits) {
  extern __shared__ unsigned ranked[];
  __shared__ unsigned warpTotals[32];
  unsigned key = threadIdx.x < n ? keys[threadIdx.x] : 0xFFFFFFFFu;
  unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  for (int bit = 0; bit < bits; ++bit) {
    bool zero = !((key >> bit) & 1);
    unsigned ballot = __ballot_sync(0xFFFFFFFFu, zero);
    unsigned before = __popc(ballot & ((1u << lane) - 1));
    if (lane == 0) warpTotals[warp] = __popc(ballot);
    unsigned zeros = __syncthreads_count(zero);
    for (unsigned w = 0; w < warp; ++w) before += warpTotals[w];
    unsigned to = zero ? before : zeros + threadIdx.x - before;
    ranked[to] = key;
    __syncthreads();
    key = ranked[threadIdx.x];
    __syncthreads();
  }
  (void)warps;
  if (threadIdx.x < n) keys[threadIdx.x] = key;
}
