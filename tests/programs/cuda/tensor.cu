// A tile at a time on the matrix units.
#include <mma.h>
using namespace nvcuda;
extern "C" __global__ void wmma_product(const half *a, const half *b, float *c, int m, int n, int k) {
  int tile_m = blockIdx.y, tile_n = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (tile_n * 16 >= n) return;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc;
  wmma::fill_fragment(acc, 0.0f);
  for (int i = 0; i < k; i += 16) {
    wmma::load_matrix_sync(fa, a + tile_m * 16 * k + i, k);
    wmma::load_matrix_sync(fb, b + tile_n * 16 * k + i, k);
    wmma::mma_sync(acc, fa, fb, acc);
  }
  for (int t = 0; t < acc.num_elements; ++t) acc.x[t] *= 0.5f;
  wmma::store_matrix_sync(c + tile_m * 16 * n + tile_n * 16, acc, n, wmma::mem_row_major);
}
