typedef int (*function)(int, int);
static __device__ int add(int a, int b) { return a + b; }
static __device__ int multiply(int a, int b) { return a * b; }
static __device__ int power(int a, int b) { return b <= 0 ? 1 : a * power(a, b - 1); }
static __device__ int neighbour(int a, int b) { return __shfl_xor_sync(~0u, a, 1) + b; }
__constant__ function table[4] = {add, multiply, power, add};
__device__ function chosen = multiply;

extern "C" __global__ void through_a_table(const int *which, const int *a, const int *b, int *out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = table[which[i]](a[i], b[i]);
}

__device__ function waiting[2] = {neighbour, multiply};
extern "C" __global__ void through_a_table_to_shuffles(int which, const int *a, const int *b, int *out) {
  int i = threadIdx.x;
  out[i] = waiting[which](a[i], b[i]);
}

struct Shape {
  int size;
  __device__ virtual int area() const = 0;
};
struct Square : Shape {
  __device__ int area() const override { return size * size; }
};
struct Strip : Shape {
  __device__ int area() const override { return 3 * size; }
};

extern "C" __global__ void virtual_functions(const int *x, int *out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  Square square;
  Strip strip;
  square.size = strip.size = x[i];
  Shape *shape = x[i] & 1 ? (Shape *)&square : (Shape *)&strip;
  out[i] = shape->area();
}

// Data that points at data and functions.
__device__ int numbers[4] = {10, 20, 30, 40};
struct Entry {
  char tag;
  int *where;
  function what;
};
__device__ Entry entries[2] = {{'a', &numbers[1], add}, {'b', numbers + 3, multiply}};
extern "C" __global__ void relocated(int *out) {
  for (int i = 0; i < 2; i++) out[i] = entries[i].tag + entries[i].what(*entries[i].where, 2);
  out[2] = chosen(6, 7);
}
