// GELU, x·Φ(x) with the exact Φ of the normal distribution, and its derivative Φ(x) + x·φ(x).

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 1 << 14;

// erf(x) to 3e-7, by the rational function of Eigen (generic_fast_erf_float), which is odd.
inline vec error_function(vec x) {
  x = x < -4.0f ? all(-4.0f) : x;
  x = x > 4.0f ? all(4.0f) : x;
  const vec s = x * x;
  vec p = all(-2.72614225801306e-10f);
  p = p * s + 2.77068142495902e-08f;
  p = p * s - 2.10102402082508e-06f;
  p = p * s - 5.69250639462346e-05f;
  p = p * s - 7.34990630326855e-04f;
  p = p * s - 2.95459980854025e-03f;
  p = p * s - 1.60960333262415e-02f;
  vec q = all(-1.45660718464996e-05f);
  q = q * s - 2.13374055278905e-04f;
  q = q * s - 1.68282697438203e-03f;
  q = q * s - 7.37332916720468e-03f;
  q = q * s - 1.42647390514189e-02f;
  return x * p / q;
}

inline vec cumulative(vec x) { return error_function(x * 0.70710678118654752f) * 0.5f + 0.5f; }

// to[i] = function(a[i], b[i]) of n numbers; the last ones by way of whole vectors of their own.
template <typename Function>
void each(const float* a, const float* b, float* to, int64_t n, int64_t threads, Function function) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t first = 0; first < n; first += CHUNK) {
    const int64_t end = std::min(n, first + CHUNK);
    int64_t i = first;
    for (; i + WIDTH <= end; i += WIDTH)
      *reinterpret_cast<loose*>(to + i) = function(*reinterpret_cast<const loose*>(a + i),
                                                   *reinterpret_cast<const loose*>(b + i));
    if (i == end) continue;
    vec last_a{}, last_b{};
    for (int64_t j = i; j < end; ++j) last_a[j - i] = a[j], last_b[j - i] = b[j];
    const vec last = function(last_a, last_b);
    for (int64_t j = i; j < end; ++j) to[j] = last[j - i];
  }
}

}  // namespace

extern "C" void gelu(const float* x, float* result, int64_t n, int64_t threads) {
  each(x, x, result, n, threads, [](vec x, vec) { return x * cumulative(x); });
}

extern "C" void gelu_gradient(const float* x, const float* gradient, float* result, int64_t n, int64_t threads) {
  each(x, gradient, result, n, threads, [](vec x, vec g) {
    const vec density = exponential(x * x * -0.5f) * 0.39894228040143268f;
    return g * (cumulative(x) + x * density);
  });
}
