// GELU and its gradient, in one pass over the numbers each.

#include "gelu.h"

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 1 << 14;

template <typename Function>
void in_parallel(const float* a, const float* b, float* to, int64_t n, int64_t threads, Function function) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t first = 0; first < n; first += CHUNK)
    each(a + first, b + first, to + first, std::min(CHUNK, n - first), function);
}

}  // namespace

extern "C" void gelu(const float* x, float* result, int64_t n, int64_t threads) {
  in_parallel(x, x, result, n, threads, [](vec x, vec) { return gelu_of(x); });
}

extern "C" void gelu_gradient(const float* x, const float* gradient, float* result, int64_t n, int64_t threads) {
  in_parallel(x, gradient, result, n, threads, [](vec x, vec g) { return g * gelu_derivative(x); });
}
