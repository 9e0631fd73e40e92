// Digests, ciphers and generators: a message, a block or a stream per thread.
#include <stdint.h>
__constant__ uint32_t K256[64];
__device__ __forceinline__ uint32_t ror(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }
__device__ __forceinline__ uint32_t rol(uint32_t x, int n) { return __funnelshift_l(x, x, n); }
__device__ uint32_t big_endian(uint32_t x) { return __byte_perm(x, 0, 0x0123); }

extern "C" __global__ void sha256(const uint8_t *messages, int stride, const int *lengths, uint32_t *digests, int n) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  const uint8_t *m = messages + id * stride;
  int length = lengths[id];
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  int blocks = (length + 8) / 64 + 1;
  for (int b = 0; b < blocks; ++b) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      uint32_t v = 0;
      for (int k = 0; k < 4; ++k) {
        int at = b * 64 + i * 4 + k;
        uint8_t byte = at < length ? m[at] : at == length ? 0x80 : 0;
        v = v << 8 | byte;
      }
      w[i] = v;
    }
    if (b == blocks - 1) w[15] = length * 8;
    for (int i = 16; i < 64; ++i) {
      uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ (w[i - 15] >> 3);
      uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = h[0], bb = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], hh = h[7];
#pragma unroll 8
    for (int i = 0; i < 64; ++i) {
      uint32_t t1 = hh + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + K256[i] + w[i];
      uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & bb) ^ (a & c) ^ (bb & c));
      hh = g; g = f; f = e; e = d + t1; d = c; c = bb; bb = a; a = t1 + t2;
    }
    h[0] += a; h[1] += bb; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += hh;
  }
  for (int i = 0; i < 8; ++i) digests[id * 8 + i] = big_endian(h[i]);
}

__constant__ uint32_t KMD5[64];
extern "C" __global__ void md5_of_words(const uint32_t *words, uint32_t *digests, int n) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  uint32_t m[16] = {words[2 * id], words[2 * id + 1], 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0};
  const int shifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
  uint32_t a = 0x67452301, b = 0xefcdab89, c = 0x98badcfe, d = 0x10325476;
  for (int i = 0; i < 64; ++i) {
    uint32_t f;
    int g;
    switch (i / 16) {
      case 0: f = (b & c) | (~b & d); g = i; break;
      case 1: f = (d & b) | (~d & c); g = (5 * i + 1) & 15; break;
      case 2: f = b ^ c ^ d; g = (3 * i + 5) & 15; break;
      default: f = c ^ (b | ~d); g = (7 * i) & 15;
    }
    f += a + KMD5[i] + m[g];
    a = d; d = c; c = b;
    b += rol(f, shifts[i / 16][i & 3]);
  }
  digests[4 * id] = a + 0x67452301; digests[4 * id + 1] = b + 0xefcdab89;
  digests[4 * id + 2] = c + 0x98badcfe; digests[4 * id + 3] = d + 0x10325476;
}

__constant__ uint64_t ROUNDS[24];
__device__ uint64_t rol64(uint64_t x, int n) { return n ? x << n | x >> (64 - n) : x; }
extern "C" __global__ void sha3_256_of_lanes(const uint64_t *lanes, uint64_t *digests, int n) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  uint64_t s[25] = {};
  for (int i = 0; i < 4; ++i) s[i] = lanes[4 * id + i];
  s[4] = 6;
  s[16] = 0x8000000000000000ull;
  for (int r = 0; r < 24; ++r) {
    uint64_t c[5], d;
    for (int x = 0; x < 5; ++x) c[x] = s[x] ^ s[x + 5] ^ s[x + 10] ^ s[x + 15] ^ s[x + 20];
    for (int x = 0; x < 5; ++x) {
      d = c[(x + 4) % 5] ^ rol64(c[(x + 1) % 5], 1);
      for (int y = 0; y < 25; y += 5) s[y + x] ^= d;
    }
    uint64_t last = s[1];
    int x = 1, y = 0;
    for (int t = 0; t < 24; ++t) {
      int nx = y, ny = (2 * x + 3 * y) % 5;
      x = nx; y = ny;
      uint64_t keep = s[y * 5 + x];
      s[y * 5 + x] = rol64(last, ((t + 1) * (t + 2) / 2) % 64);
      last = keep;
    }
    for (int y = 0; y < 25; y += 5) {
      uint64_t row[5];
      for (int x = 0; x < 5; ++x) row[x] = s[y + x];
      for (int x = 0; x < 5; ++x) s[y + x] = row[x] ^ (~row[(x + 1) % 5] & row[(x + 2) % 5]);
    }
    s[0] ^= ROUNDS[r];
  }
  for (int i = 0; i < 4; ++i) digests[4 * id + i] = s[i];
}

// CRC by a table that the block makes in shared memory; ARC4 with a state per thread.
extern "C" __global__ void crc32(const uint8_t *data, int stride, const int *lengths, uint32_t *out, int n) {
  __shared__ uint32_t table[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    table[i] = c;
  }
  __syncthreads();
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  uint32_t c = ~0u;
  for (int i = 0; i < lengths[id]; ++i) c = table[(c ^ data[id * stride + i]) & 0xff] ^ (c >> 8);
  out[id] = ~c;
}
extern "C" __global__ void arc4(const uint8_t *keys, int key_length, uint8_t *out, int length, int n) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= n) return;
  uint8_t s[256];
  for (int i = 0; i < 256; ++i) s[i] = i;
  uint8_t j = 0;
  for (int i = 0; i < 256; ++i) {
    j += s[i] + keys[id * key_length + i % key_length];
    uint8_t t = s[i]; s[i] = s[j]; s[j] = t;
  }
  uint8_t i = j = 0;
  for (int k = 0; k < length; ++k) {
    i += 1;
    j += s[i];
    uint8_t t = s[i]; s[i] = s[j]; s[j] = t;
    out[id * length + k] = s[(uint8_t)(s[i] + s[j])];
  }
}
struct Pcg {
  uint64_t state, inc;
  __device__ uint32_t next() {
    uint64_t old = state;
    state = old * 6364136223846793005ull + inc;
    uint32_t x = ((old >> 18u) ^ old) >> 27u, r = old >> 59u;
    return (x >> r) | (x << ((-r) & 31));
  }
};
extern "C" __global__ void generators(uint64_t seed, uint32_t *pcg, uint32_t *shift, int draws) {
  int id = blockIdx.x * blockDim.x + threadIdx.x;
  Pcg g{seed + id, (uint64_t)id << 1 | 1};
  uint32_t x = (uint32_t)seed ^ (id + 1);
  for (int k = 0; k < draws; ++k) {
    pcg[id * draws + k] = g.next();
    x ^= x << 13; x ^= x >> 17; x ^= x << 5;
    shift[id * draws + k] = x;
  }
}
