// What C++ allows in device code: recursion, virtual functions, function pointers, bit fields, odd control flow.
#include <cstdint>
#include <cassert>
#include <cstdio>

// Recursion: quicksort, Ackermann, Hanoi, permutations, a ray tracer.
__device__ void quicksort(int *a, int lo, int hi) {
  if (lo >= hi) return;
  int pivot = a[(lo + hi) >> 1], i = lo - 1, j = hi + 1;
  for (;;) {
    do ++i; while (a[i] < pivot);
    do --j; while (a[j] > pivot);
    if (i >= j) break;
    int t = a[i];
    a[i] = a[j];
    a[j] = t;
  }
  quicksort(a, lo, j);
  quicksort(a, j + 1, hi);
}
__global__ void sort_rows(int *a, int width) { quicksort(a + (blockIdx.x * blockDim.x + threadIdx.x) * width, 0, width - 1); }

__device__ __noinline__ unsigned ackermann(unsigned m, unsigned n) {
  if (m == 0) return n + 1;
  if (n == 0) return ackermann(m - 1, 1);
  return ackermann(m - 1, ackermann(m, n - 1));
}
__global__ void ackermanns(unsigned *out) { out[threadIdx.y * blockDim.x + threadIdx.x] = ackermann(threadIdx.y, threadIdx.x); }

__device__ int solve_queens(int n, unsigned columns, unsigned left, unsigned right, int row) {
  if (row == n) return 1;
  int found = 0;
  for (unsigned free = ~(columns | left | right) & ((1u << n) - 1); free; free &= free - 1) {
    unsigned bit = free & -free;
    found += solve_queens(n, columns | bit, (left | bit) << 1, (right | bit) >> 1, row + 1);
  }
  return found;
}
__global__ void queens(int *total, int n) {
  int column = threadIdx.x;
  if (column < n) {
    unsigned bit = 1u << column;
    atomicAdd(total, solve_queens(n, bit, bit << 1, bit >> 1, 1));
  }
}

struct Vec3 {
  float x, y, z;
  __host__ __device__ Vec3(float x = 0, float y = 0, float z = 0) : x(x), y(y), z(z) {}
  __device__ Vec3 operator+(const Vec3 &o) const { return Vec3(x + o.x, y + o.y, z + o.z); }
  __device__ Vec3 operator-(const Vec3 &o) const { return Vec3(x - o.x, y - o.y, z - o.z); }
  __device__ Vec3 operator*(float s) const { return Vec3(x * s, y * s, z * s); }
  __device__ float dot(const Vec3 &o) const { return x * o.x + y * o.y + z * o.z; }
  __device__ Vec3 unit() const { return *this * rsqrtf(dot(*this)); }
};
struct Sphere {
  float x, y, z, radius, colour, mirror;
};
__constant__ Sphere spheres[8];
__constant__ int sphere_count;
__device__ float trace(const Vec3 &from, const Vec3 &to, int depth) {
  float nearest = 1e30f;
  int hit = -1;
  for (int i = 0; i < sphere_count; ++i) {
    Vec3 c = Vec3(spheres[i].x, spheres[i].y, spheres[i].z) - from;
    float along = c.dot(to), d2 = c.dot(c) - along * along, r2 = spheres[i].radius * spheres[i].radius;
    if (along < 0 || d2 > r2) continue;
    float t = along - sqrtf(r2 - d2);
    if (t > 1e-3f && t < nearest) nearest = t, hit = i;
  }
  if (hit < 0) return 0.5f * (to.y + 1.0f);
  Vec3 at = from + to * nearest;
  Vec3 normal = (at - Vec3(spheres[hit].x, spheres[hit].y, spheres[hit].z)).unit();
  float light = fmaxf(0.f, normal.dot(Vec3(0.577350f, 0.577350f, -0.577350f)));
  float own = spheres[hit].colour * light;
  if (depth == 0 || spheres[hit].mirror == 0) return own;
  Vec3 bounce = to - normal * (2 * normal.dot(to));
  return own + spheres[hit].mirror * trace(at, bounce.unit(), depth - 1);
}
__global__ void raytrace(float *image, int width, int height, int depth) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= width || y >= height) return;
  Vec3 to((x + 0.5f) / width - 0.5f, (y + 0.5f) / height - 0.5f, 1.f);
  image[y * width + x] = trace(Vec3(0, 0, -3), to.unit(), depth);
}

// Virtual functions of objects that are made on the device.
struct Shape {
  __device__ virtual float area() const = 0;
  __device__ virtual int sides() const { return 0; }
  __device__ virtual ~Shape() {}
};
struct Rectangle : Shape {
  float w, h;
  __device__ Rectangle(float w, float h) : w(w), h(h) {}
  __device__ float area() const override { return w * h; }
  __device__ int sides() const override { return 4; }
};
struct Square : Rectangle {
  __device__ Square(float a) : Rectangle(a, a) {}
  __device__ float area() const override { return w * w; }
};
struct Disc : Shape {
  float r;
  __device__ Disc(float r) : r(r) {}
  __device__ float area() const override { return 3.0f * r * r; }
};
__global__ void make_shapes(char *storage, const float *size, const int *kind, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  char *at = storage + 32 * i;
  Shape *made;
  Rectangle r(size[i], 2.f * size[i]);
  Square s(size[i]);
  Disc d(size[i]);
  made = kind[i] == 0 ? (Shape *)&r : kind[i] == 1 ? (Shape *)&s : (Shape *)&d;
  memcpy(at, made, kind[i] == 2 ? sizeof(Disc) : sizeof(Rectangle));
}
__global__ void measure_shapes(const char *storage, float *areas, int *sides, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const Shape *shape = (const Shape *)(storage + 32 * i);
  areas[i] = shape->area();
  sides[i] = shape->sides();
}

// Function pointers in a table, as arguments, from a switch; member pointers.
typedef float (*Unary)(float);
__device__ float halve(float x) { return x / 2; }
__device__ float negate(float x) { return -x; }
__device__ float square(float x) { return x * x; }
__device__ Unary operations[3] = {halve, negate, square};
template <class F> __device__ float apply(F f, float x) { return f(f(x)); }
__global__ void by_pointer(const float *x, const int *which, float *y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float bias = x[0];
  auto shifted = [=](float v) { return v + bias; };
  y[i] = which[i] < 3 ? operations[which[i]](x[i]) : which[i] == 3 ? apply(square, x[i]) : apply(shifted, x[i]);
}

// A virtual machine: a switch in a loop, with gotos.
enum Op : uint8_t { PUSH, ADD, MUL, DUP, SWAP, JNZ, DEC, HALT };
__global__ void interpret(const uint8_t *code, const int *start, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int stack[16], top = 0, pc = 0, steps = 0;
  stack[top++] = start[i];
  while (true) {
    if (++steps > 200) goto halt;
    switch ((Op)code[pc++]) {
      case PUSH: stack[top++] = (int8_t)code[pc++]; break;
      case ADD: --top; stack[top - 1] += stack[top]; break;
      case MUL: --top; stack[top - 1] *= stack[top]; break;
      case DUP: stack[top] = stack[top - 1]; ++top; break;
      case SWAP: { int t = stack[top - 1]; stack[top - 1] = stack[top - 2]; stack[top - 2] = t; } break;
      case DEC: stack[top - 1]--; break;
      case JNZ: {
        int8_t to = code[pc++];
        if (stack[top - 1] != 0) pc += to;
        break;
      }
      case HALT: goto halt;
    }
  }
halt:
  out[i] = stack[0];
}

// Control flow that isn't reducible: a jump into the middle of a loop.
__global__ void irreducible(const int *x, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], count = 0;
  if (v & 1) goto middle;
top:
  v = v / 2;
  ++count;
  if (v == 7) goto out;
middle:
  v = v - 3;
  count += 100;
  if (v > 0) goto top;
  if (v < -50) goto out;
  v -= 11;
  goto middle;
out:
  out[i] = count * 1000 + v;
}
__global__ void duffs_device(int *to, const int *from, int count) {
  if (threadIdx.x >= count) return;
  int c = threadIdx.x + 1;
  int sum = 0, at = 0;
  int n = (c + 7) / 8;
  switch (c % 8) {
    case 0: do { sum = sum * 3 + from[at++];
    case 7: sum = sum * 3 + from[at++];
    case 6: sum = sum * 3 + from[at++];
    case 5: sum = sum * 3 + from[at++];
    case 4: sum = sum * 3 + from[at++];
    case 3: sum = sum * 3 + from[at++];
    case 2: sum = sum * 3 + from[at++];
    case 1: sum = sum * 3 + from[at++];
            } while (--n > 0);
  }
  to[threadIdx.x] = sum;
}

// Loops that lanes leave, skip and enter again at different times, with a warp's sum in the middle.
__global__ void ragged_loops(const int *limits, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int acc = 0;
  for (int a = 0; a < limits[i]; ++a) {
    if (a % 3 == 1) continue;
    for (int b = a; ; b += 2) {
      if (b > 20) break;
      if ((b ^ i) % 5 == 0) { acc += 7; goto next; }
      acc += b;
    }
    acc ^= 0x55;
  next:
    if (acc > 5000) return;
    out[i] = acc;
  }
  out[i] = -acc;
}

// Layout: bit fields, unions, packed and aligned structures, large ones by value and returned.
struct Packed { unsigned a : 3; unsigned b : 7; int c : 9; unsigned long long d : 45; signed char e : 4; };
union Bits { float f; unsigned u; unsigned short h[2]; unsigned char b[4]; };
#pragma pack(push, 1)
struct Tight { char tag; int value; short small; double wide; };
#pragma pack(pop)
struct __align__(16) Wide { int a; char b; double c[3]; };
__global__ void bit_fields(const unsigned *x, Packed *out, unsigned *sums, int n) {
  int i = threadIdx.x;
  if (i >= n) return;
  Packed p = out[i];
  p.a = x[i];
  p.b += x[i] >> 3;
  p.c = x[i] >> 10;
  p.d ^= (unsigned long long)x[i] << 13;
  p.e = x[i] >> 20;
  out[i] = p;
  Bits bits;
  bits.u = x[i];
  bits.h[0] += 1;
  bits.b[3] &= 0x7f;
  sums[i] = bits.u + (unsigned)p.c + p.e;
}
__global__ void tight(const char *raw, int *out, int n) {
  int i = threadIdx.x;
  if (i >= n) return;
  Tight t;
  char *bytes = (char *)&t;
  for (int k = 0; k < sizeof(Tight); ++k) bytes[k] = raw[i * sizeof(Tight) + k];
  out[i] = t.tag + t.value * 2 + t.small * 3 + (int)t.wide;
}
struct Big { int n; float values[200]; Wide wide; };
__device__ __noinline__ Big scaled(Big big, float by) {
  for (int i = 0; i < 200; ++i) big.values[i] *= by;
  big.wide.c[1] += by;
  return big;
}
__global__ void large_parameter(Big big, Big *out, const float *by, int unused, char last) {
  Big made = scaled(big, by[threadIdx.x]);
  made.n = threadIdx.x + last;
  made.wide.a = (int)sizeof(Big);
  out[threadIdx.x] = made;
}

// Globals of a module with initial values, pointers to one another among them; shared memory inside a function.
namespace settings {
__device__ int counter = 41;
__device__ float weights[2][3] = {{1.5f, -2.f, 0.25f}, {8.f}};
__device__ const char *words[] = {"warp", "", "a longer word", "b"};
__device__ int *where = &counter;
__device__ double *last = nullptr;
static __device__ __constant__ int8_t small[5] = {-1, 2, -3, 4, -5};
}
__global__ void use_globals(int *lengths, float *sums, int *counted) {
  int i = threadIdx.x;
  int length = 0;
  for (const char *c = settings::words[i & 3]; *c; ++c) length += *c;
  lengths[i] = length + settings::small[i % 5];
  float sum = 0;
  for (int k = 0; k < 3; ++k) sum += settings::weights[i & 1][k];
  sums[i] = sum;
  atomicAdd(settings::where, 1);
  __syncthreads();
  if (i == 0) *counted = settings::counter + (settings::last == nullptr);
}
__device__ int block_sum(int v) {
  static __shared__ int total;
  __syncthreads();
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, v);
  __syncthreads();
  return total;
}
__global__ void shared_in_function(const int *x, int *out) {
  int a = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
  int b = block_sum(a % 7 + threadIdx.x);
  if (threadIdx.x == 0) out[blockIdx.x] = a * 1000 + b;
}
extern __shared__ __align__(16) unsigned char dynamic[];
__global__ void several_arrays(const double *x, double *out, int n) {
  double *wide = (double *)dynamic;
  int *index = (int *)(wide + n);
  short *small = (short *)(index + n);
  char *flags = (char *)(small + n);
  int i = threadIdx.x;
  if (i < n) {
    wide[i] = x[i];
    index[i] = n - 1 - i;
    small[i] = (short)(i * i);
    flags[i] = i % 3 == 0;
  }
  __syncthreads();
  if (i < n) out[i] = wide[index[i]] + small[index[i]] + flags[i] * 0.5;
}

// Templates: recursion over types, variadic sums, constant expressions, policy classes.
template <int N> struct Fib { static constexpr unsigned long long value = Fib<N - 1>::value + Fib<N - 2>::value; };
template <> struct Fib<0> { static constexpr unsigned long long value = 0; };
template <> struct Fib<1> { static constexpr unsigned long long value = 1; };
template <class... T> __device__ auto total(T... v) { return (v + ... + 0); }
template <class T, int N, class Op> __device__ T fold(const T *x, Op op) {
  T v = x[0];
#pragma unroll
  for (int i = 1; i < N; ++i) v = op(v, x[i]);
  return v;
}
struct Gcd { __device__ unsigned operator()(unsigned a, unsigned b) const { while (b) { unsigned t = a % b; a = b; b = t; } return a; } };
template <class T> __global__ void templates(const T *x, T *out, unsigned long long *fib, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  out[i] = fold<T, 4>(x + 4 * i, Gcd{}) + (T)total(1, 2, (T)i);
  if (i == 0) *fib = Fib<80>::value;
}
template __global__ void templates<unsigned>(const unsigned *, unsigned *, unsigned long long *, int);
template __global__ void templates<unsigned short>(const unsigned short *, unsigned short *, unsigned long long *, int);

// Text.
__device__ int text_length(const char *s) { int n = 0; while (s[n]) ++n; return n; }
__device__ bool find_word(const char *text, const char *word) {
  for (; *text; ++text) {
    const char *t = text, *w = word;
    while (*w && *t == *w) ++t, ++w;
    if (!*w) return true;
  }
  return !*word;
}
__global__ void edit_distance(const char *words, int stride, const char *target, int *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const char *word = words + i * stride;
  int m = text_length(target), row[33];
  for (int j = 0; j <= m; ++j) row[j] = j;
  for (int a = 0; word[a]; ++a) {
    int diagonal = row[0];
    row[0] = a + 1;
    for (int j = 1; j <= m; ++j) {
      int keep = row[j], cost = diagonal + (word[a] != target[j - 1]);
      row[j] = min(min(row[j] + 1, row[j - 1] + 1), cost);
      diagonal = keep;
    }
  }
  out[i] = find_word(word, target) ? -1 - row[m] : row[m];
}
__global__ void to_decimal(const long long *x, char *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  char digits[24];
  int at = 23;
  digits[at] = 0;
  bool negative = x[i] < 0;
  unsigned long long v = negative ? -(unsigned long long)x[i] : x[i];
  do digits[--at] = '0' + v % 10; while (v /= 10);
  if (negative) digits[--at] = '-';
  for (int k = 0; at < 24; ++k, ++at) out[24 * i + k] = digits[at];
}
// Index spaces.
__global__ void three_dimensions(unsigned *out) {
  unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  unsigned lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  out[block * threads + thread] = block * 7 + thread * 3 + (lane == thread % 32 ? 1000000 : 0) + warpSize;
}
__global__ void tall(unsigned char *out) { if (threadIdx.x == 0) out[blockIdx.y] = (unsigned char)(blockIdx.y * 7 + 1); }
__global__ void nothing() {}
