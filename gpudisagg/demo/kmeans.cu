// Lloyd's K-means. The host compiles it once for a shape: REAL (float or double), DIMS (a multiple of the numbers in 16
// bytes), CLUSTERS, and SHARES, the number of points that a block of `accumulate` looks at together (its block is
// DIMS / WIDTH x SHARES threads).
//
//   points     [n][DIMS], as numpy has them      centroids  [CLUSTERS][DIMS]      labels  [n]
//
// One iteration is assign, accumulate, update, report. Only `accumulate` and `inertia` need a barrier, once each,
// outside their loops; nothing needs an atomic operation per point.

typedef REAL real;

// Sixteen bytes: what a thread loads best at a time.
template <typename T> struct packet_of;
template <> struct packet_of<float> { typedef float4 type; };
template <> struct packet_of<double> { typedef double2 type; };
typedef packet_of<real>::type packet;
#define WIDTH ((int)(sizeof(packet) / sizeof(real)))
#define PACKETS (DIMS / WIDTH)
#define UNROLL (DIMS * CLUSTERS <= 1024 ? DIMS : 4) // whole, unless the code would be long in compiling

__device__ void add(float4 &sum, const float4 &p)
{
  sum.x += p.x;
  sum.y += p.y;
  sum.z += p.z;
  sum.w += p.w;
}

__device__ void add(double2 &sum, const double2 &p)
{
  sum.x += p.x;
  sum.y += p.y;
}

// The nearest centroid of each point, by squared distance; of two equally near, the first.
// A thread is a point. All threads read the same centroid at the same time, so it comes from the cache, broadcast.
// There is no branch: threads past the end of the last block do the last point once more.
extern "C" __global__ void assign(const real *__restrict__ points, const real *__restrict__ centroids,
                                  int *__restrict__ labels, int n)
{
  int i = min((int)(blockIdx.x * blockDim.x + threadIdx.x), n - 1);
  const real *point = points + (size_t)i * DIMS;
  real distance[CLUSTERS];
#pragma unroll
  for (int k = 0; k < CLUSTERS; k++) distance[k] = 0;
#pragma unroll UNROLL
  for (int d = 0; d < DIMS; d++) {
    real x = point[d];
#pragma unroll
    for (int k = 0; k < CLUSTERS; k++) {
      real difference = x - centroids[k * DIMS + d];
      distance[k] += difference * difference;
    }
  }
  int nearest = 0;
  real least = distance[0];
#pragma unroll
  for (int k = 1; k < CLUSTERS; k++) {
    nearest = distance[k] < least ? k : nearest;
    least = distance[k] < least ? distance[k] : least;
  }
  labels[i] = nearest;
}

// Sums and counts of each cluster over the points of this block, and how many of them changed their cluster.
// Thread (q, s) walks every SHARES-th point for one packet of its dimensions and owns one column of shared memory:
// reads of the points are coalesced, and no two threads ever add to the same place.
extern "C" __global__ void accumulate(const packet *__restrict__ points, const int *__restrict__ labels,
                                      const int *__restrict__ previous, int n, int per_block,
                                      packet *__restrict__ sums, int *__restrict__ counts, int *__restrict__ changed)
{
  __shared__ packet total[CLUSTERS][SHARES][PACKETS];
  __shared__ int members[CLUSTERS][SHARES];
  int q = threadIdx.x, s = threadIdx.y;
  int begin = blockIdx.x * per_block;
  int end = min(n, begin + per_block);

  for (int k = 0; k < CLUSTERS; k++) total[k][s][q] = packet();
  for (int i = begin + s; i < end; i += SHARES) add(total[labels[i]][s][q], points[(size_t)i * PACKETS + q]);

  if (q == 0) { // one thread of each share counts
    int moved = 0;
    for (int k = 0; k < CLUSTERS; k++) members[k][s] = 0;
    for (int i = begin + s; i < end; i += SHARES) {
      members[labels[i]][s]++;
      moved += labels[i] != previous[i];
    }
    if (moved) atomicAdd(changed, moved);
  }
  __syncthreads();

  if (s == 0) {
    for (int k = 0; k < CLUSTERS; k++) {
      packet sum = packet();
      for (int j = 0; j < SHARES; j++) add(sum, total[k][j][q]);
      sums[(blockIdx.x * CLUSTERS + k) * PACKETS + q] = sum;
      if (q == 0) {
        int count = 0;
        for (int j = 0; j < SHARES; j++) count += members[k][j];
        counts[blockIdx.x * CLUSTERS + k] = count;
      }
    }
  }
}

// The new centroids: a thread is one coordinate of one of them. A cluster without points stays where it was.
extern "C" __global__ void update(const real *__restrict__ sums, const int *__restrict__ counts, int blocks,
                                  const real *__restrict__ centroids, real *__restrict__ moved)
{
  int coordinate = blockIdx.x * blockDim.x + threadIdx.x;
  if (coordinate >= CLUSTERS * DIMS) return;
  int k = coordinate / DIMS;
  real sum = 0;
  int count = 0;
  for (int b = 0; b < blocks; b++) {
    sum += sums[b * CLUSTERS * DIMS + coordinate];
    count += counts[b * CLUSTERS + k];
  }
  moved[coordinate] = count ? sum / count : centroids[coordinate];
}

// What the host needs to decide whether to go on, written where the host reads it: how far each centroid moved
// (squared), and how many points changed their cluster. Sets the counter back for the next iteration.
extern "C" __global__ void report(const real *__restrict__ centroids, const real *__restrict__ moved,
                                  int *__restrict__ changed, double *__restrict__ shift, long long *__restrict__ moves)
{
  int k = threadIdx.x;
  double sum = 0;
  for (int d = 0; d < DIMS; d++) {
    double difference = (double)moved[k * DIMS + d] - (double)centroids[k * DIMS + d];
    sum += difference * difference;
  }
  shift[k] = sum;
  if (k == 0) {
    *moves = *changed;
    *changed = 0;
  }
}

// Sum of squared distances of the points to their centroids, one partial sum a block; in double whatever REAL is.
extern "C" __global__ void inertia(const real *__restrict__ points, const real *__restrict__ centroids,
                                   const int *__restrict__ labels, int n, double *__restrict__ partial)
{
  __shared__ double sums[256];
  double sum = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    const real *point = points + (size_t)i * DIMS;
    const real *centroid = centroids + labels[i] * DIMS;
    double distance = 0;
    for (int d = 0; d < DIMS; d++) {
      double difference = (double)point[d] - (double)centroid[d];
      distance += difference * difference;
    }
    sum += distance;
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned t = 1; t < blockDim.x; t++) sum += sums[t];
    partial[blockIdx.x] = sum;
  }
}
