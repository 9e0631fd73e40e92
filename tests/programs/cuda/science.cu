// Simulations, images, graphs and dynamic programming: the kernels of benchmark suites.
#define BLOCK 16
struct Body { float3 position; float mass; };
extern "C" __global__ void nbody(const float4 *bodies, float4 *acceleration, int n, float softening) {
  extern __shared__ float4 tile[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  float4 me = i < n ? bodies[i] : make_float4(0, 0, 0, 0);
  float3 a = {0.f, 0.f, 0.f};
  for (int start = 0; start < n; start += blockDim.x) {
    tile[threadIdx.x] = start + threadIdx.x < n ? bodies[start + threadIdx.x] : make_float4(0, 0, 0, 0);
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < blockDim.x; ++k) {
      float3 r = {tile[k].x - me.x, tile[k].y - me.y, tile[k].z - me.z};
      float d2 = r.x * r.x + r.y * r.y + r.z * r.z + softening, inv = rsqrtf(d2), s = tile[k].w * inv * inv * inv;
      a.x += r.x * s; a.y += r.y * s; a.z += r.z * s;
    }
    __syncthreads();
  }
  if (i < n) acceleration[i] = make_float4(a.x, a.y, a.z, 0);
}
__device__ inline float cnd(float d) {
  const float A1 = 0.31938153f, A2 = -0.356563782f, A3 = 1.781477937f, A4 = -1.821255978f, A5 = 1.330274429f, RSQRT2PI = 0.39894228040143267793994605993438f;
  float K = __fdividef(1.0f, 1.0f + 0.2316419f * fabsf(d));
  float c = RSQRT2PI * __expf(-0.5f * d * d) * (K * (A1 + K * (A2 + K * (A3 + K * (A4 + K * A5)))));
  return d > 0 ? 1.0f - c : c;
}
extern "C" __global__ void BlackScholes(float2 *call, float2 *put, const float2 *price, const float2 *strike, const float2 *years, float riskfree, float volatility, int n) {
  int opt = blockDim.x * blockIdx.x + threadIdx.x;
  if (opt < n / 2) {
    const float S[2] = {price[opt].x, price[opt].y}, X[2] = {strike[opt].x, strike[opt].y}, T[2] = {years[opt].x, years[opt].y};
    float c[2], p[2];
    for (int k = 0; k < 2; ++k) {
      float sqrtT = __fdividef(1.0f, rsqrtf(T[k]));
      float d1 = __fdividef(__logf(S[k] / X[k]) + (riskfree + 0.5f * volatility * volatility) * T[k], volatility * sqrtT);
      float d2 = d1 - volatility * sqrtT, e = __expf(-riskfree * T[k]);
      c[k] = S[k] * cnd(d1) - X[k] * e * cnd(d2);
      p[k] = X[k] * e * (1.0f - cnd(d2)) - S[k] * (1.0f - cnd(d1));
    }
    call[opt] = make_float2(c[0], c[1]);
    put[opt] = make_float2(p[0], p[1]);
  }
}
#define RADIUS 4
__constant__ float c_Kernel[2 * RADIUS + 1];
extern "C" __global__ void convolutionRows(float *dst, const float *src, int w, int h) {
  __shared__ float s[4][32 + 2 * RADIUS];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 4 + threadIdx.y;
  for (int i = threadIdx.x; i < 32 + 2 * RADIUS; i += 32) {
    int at = (int)blockIdx.x * 32 + i - RADIUS;
    s[threadIdx.y][i] = y < h && at >= 0 && at < w ? src[y * w + at] : 0;
  }
  __syncthreads();
  if (x >= w || y >= h) return;
  float sum = 0;
#pragma unroll
  for (int k = -RADIUS; k <= RADIUS; ++k) sum += c_Kernel[RADIUS - k] * s[threadIdx.y][threadIdx.x + RADIUS + k];
  dst[y * w + x] = sum;
}
extern "C" __global__ void sobel(const unsigned char *in, unsigned char *out, int w, int h) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= h) return;
  auto at = [&](int dx, int dy) { return (int)in[min(max(y + dy, 0), h - 1) * w + min(max(x + dx, 0), w - 1)]; };
  int gx = at(1, -1) + 2 * at(1, 0) + at(1, 1) - at(-1, -1) - 2 * at(-1, 0) - at(-1, 1);
  int gy = at(-1, 1) + 2 * at(0, 1) + at(1, 1) - at(-1, -1) - 2 * at(0, -1) - at(1, -1);
  out[y * w + x] = min(abs(gx) + abs(gy), 255);
}
extern "C" __global__ void bilateral(const float *in, float *out, int w, int h, int r, float sd, float sr) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= w || y >= h) return;
  float sum = 0, weight = 0, centre = in[y * w + x];
  for (int j = max(y - r, 0); j <= min(y + r, h - 1); ++j)
    for (int i = max(x - r, 0); i <= min(x + r, w - 1); ++i) {
      float v = in[j * w + i], d = v - centre;
      float g = expf(-((i - x) * (i - x) + (j - y) * (j - y)) / sd - d * d / sr);
      sum += g * v;
      weight += g;
    }
  out[y * w + x] = sum / weight;
}
extern "C" __global__ void dct8x8(const float *src, float *dst, int stride) {
  __shared__ float block[8][9], part[8][9];
  int x = threadIdx.x, y = threadIdx.y, at = (blockIdx.y * 8 + y) * stride + blockIdx.x * 8 + x;
  block[y][x] = src[at];
  __syncthreads();
  float s = 0;
  for (int k = 0; k < 8; ++k) s += block[y][k] * cospif((2 * k + 1) * x / 16.f);
  part[y][x] = s * (x == 0 ? 0.35355339f : 0.5f);
  __syncthreads();
  s = 0;
  for (int k = 0; k < 8; ++k) s += part[k][x] * cospif((2 * k + 1) * y / 16.f);
  dst[at] = s * (y == 0 ? 0.35355339f : 0.5f);
}
extern "C" __global__ void fft_shared(float2 *data, int log_n) {
  extern __shared__ float2 points[];
  int n = 1 << log_n;
  float2 *mine = data + blockIdx.x * n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) points[__brev(i) >> (32 - log_n)] = mine[i];
  __syncthreads();
  for (int half = 1; half < n; half *= 2) {
    for (int b = threadIdx.x; b < n / 2; b += blockDim.x) {
      int k = b & (half - 1), i = ((b - k) << 1) + k, j = i + half;
      float s, c;
      sincospif(-(float)k / half, &s, &c);
      float2 u = points[i], v = points[j], t = make_float2(v.x * c - v.y * s, v.x * s + v.y * c);
      points[i] = make_float2(u.x + t.x, u.y + t.y);
      points[j] = make_float2(u.x - t.x, u.y - t.y);
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) mine[i] = points[i];
}
// Rodinia: levels of a graph, the grid's heat, alignment along diagonals, paths, decomposition, clusters.
struct Vertex { int starting, no_of_edges; };
extern "C" __global__ void bfs_visit(const Vertex *nodes, const int *edges, bool *frontier, bool *updating, bool *visited, int *cost, int n) {
  int tid = blockIdx.x * blockDim.x + threadIdx.x;
  if (tid < n && frontier[tid]) {
    frontier[tid] = false;
    for (int i = nodes[tid].starting; i < nodes[tid].no_of_edges + nodes[tid].starting; i++) {
      int id = edges[i];
      if (!visited[id]) { cost[id] = cost[tid] + 1; updating[id] = true; }
    }
  }
}
extern "C" __global__ void bfs_update(bool *frontier, bool *updating, bool *visited, bool *over, int n) {
  int tid = blockIdx.x * blockDim.x + threadIdx.x;
  if (tid < n && updating[tid]) { frontier[tid] = true; visited[tid] = true; *over = true; updating[tid] = false; }
}
extern "C" __global__ void hotspot(int steps, const float *power, float *from, float *to, int w, int h, float k) {
  __shared__ float t[BLOCK][BLOCK];
  int x = blockIdx.x * (BLOCK - 2 * steps) + threadIdx.x - steps, y = blockIdx.y * (BLOCK - 2 * steps) + threadIdx.y - steps;
  bool in = x >= 0 && x < w && y >= 0 && y < h;
  if (in) t[threadIdx.y][threadIdx.x] = from[y * w + x];
  __syncthreads();
  int tx = threadIdx.x, ty = threadIdx.y;
  float v = 0;
  for (int i = 1; i <= steps; ++i) {
    bool computed = in && tx >= i && tx < BLOCK - i && ty >= i && ty < BLOCK - i;
    if (computed) {
      float c = t[ty][tx];
      float W = x > 0 ? t[ty][tx - 1] : c, E = x < w - 1 ? t[ty][tx + 1] : c, N = y > 0 ? t[ty - 1][tx] : c, S = y < h - 1 ? t[ty + 1][tx] : c;
      v = c + k * (W + E + N + S - 4 * c) + power[y * w + x];
    }
    __syncthreads();
    if (i == steps) { if (computed) to[y * w + x] = v; break; }
    if (computed) t[ty][tx] = v;
    __syncthreads();
  }
}
extern "C" __global__ void needle(const int *reference, int *matrix, int size, int penalty) {
  __shared__ int temp[BLOCK + 1][BLOCK + 1];
  int tx = threadIdx.x;
  for (int i = tx; i <= BLOCK; i += BLOCK) { temp[0][i] = matrix[i]; temp[i][0] = matrix[i * size]; }
  __syncthreads();
  for (int m = 0; m < 2 * BLOCK - 1; ++m) {
    int x = tx + 1, y = m - tx + 1;
    if (y >= 1 && y <= BLOCK)
      temp[y][x] = max(temp[y - 1][x - 1] + reference[y * size + x], max(temp[y][x - 1] - penalty, temp[y - 1][x] - penalty));
    __syncthreads();
  }
  for (int y = 1; y <= BLOCK; ++y) matrix[y * size + tx + 1] = temp[y][tx + 1];
}
extern "C" __global__ void pathfinder(const int *wall, int *result, int rows, int cols) {
  extern __shared__ int both[];
  int *prev = both, *now = both + cols;
  for (int x = threadIdx.x; x < cols; x += blockDim.x) prev[x] = wall[x];
  __syncthreads();
  for (int r = 1; r < rows; ++r) {
    for (int x = threadIdx.x; x < cols; x += blockDim.x)
      now[x] = wall[r * cols + x] + min(prev[x], min(prev[max(x - 1, 0)], prev[min(x + 1, cols - 1)]));
    __syncthreads();
    int *swap = prev; prev = now; now = swap;
    __syncthreads();
  }
  for (int x = threadIdx.x; x < cols; x += blockDim.x) result[x] = prev[x];
}
extern "C" __global__ void lud_diagonal(float *m, int stride) {
  __shared__ float shadow[BLOCK][BLOCK];
  for (int i = 0; i < BLOCK; ++i) shadow[i][threadIdx.x] = m[i * stride + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < BLOCK - 1; ++i) {
    if (threadIdx.x > i) {
      for (int j = 0; j < i; ++j) shadow[threadIdx.x][i] -= shadow[threadIdx.x][j] * shadow[j][i];
      shadow[threadIdx.x][i] /= shadow[i][i];
    }
    __syncthreads();
    if (threadIdx.x > i)
      for (int j = 0; j < i + 1; ++j) shadow[i + 1][threadIdx.x] -= shadow[i + 1][j] * shadow[j][threadIdx.x];
    __syncthreads();
  }
  for (int i = 0; i < BLOCK; ++i) m[i * stride + threadIdx.x] = shadow[i][threadIdx.x];
}
extern "C" __global__ void kmeans(const float *feature, int n, int dims, const float *clusters, int k, int *membership, int *delta) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  int index = -1;
  float least = 3.4e38f;
  for (int c = 0; c < k; ++c) {
    float d = 0;
    for (int i = 0; i < dims; ++i) { float e = feature[i * n + id] - clusters[c * dims + i]; d += e * e; }
    if (d < least) { least = d; index = c; }
  }
  if (membership[id] != index) atomicAdd(delta, 1);
  membership[id] = index;
}
