// Vectors of floats as wide as the processor's registers (GCC's and Clang's vector extension).

#pragma once

#include <algorithm>
#include <cstdint>

#ifdef __AVX512F__
constexpr int WIDTH = 16;
#else
constexpr int WIDTH = 8;
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH), may_alias));
typedef float loose __attribute__((vector_size(4 * WIDTH), may_alias, aligned(4)));  // anywhere
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));

inline vec all(float x) { return vec{} + x; }

// The polynomial of x with these coefficients, that of the highest power first.
template <typename... Floats>
inline vec polynomial(vec x, float highest, Floats... others) {
  vec p = all(highest);
  ((p = p * x + others), ...);
  return p;
}

inline vec clamped(vec x, float bound) {
  x = x < -bound ? all(-bound) : x;
  return x > bound ? all(bound) : x;
}

// e^x for x ≤ 0 to 1e-7 of it, not less than e^-87 (Cephes' polynomial on ±ln2/2).
inline vec exponential(vec x) {
  x = x < -87.0f ? all(-87.0f) : x;
  const float round = 12582912.0f;  // 1.5·2^23: what is added to it loses its fraction
  const vec n = (x * 1.44269504088896341f + round) - round;
  const vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = polynomial(r, 1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                     5.0000001201e-1f);
  p = p * (r * r) + r + 1.0f;
  const ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
  return p * (vec)power;
}

// to[i] = function(a[i], b[i]) of n numbers; the last ones by way of whole vectors of their own.
template <typename Function>
inline void each(const float* a, const float* b, float* to, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + WIDTH <= n; i += WIDTH)
    *reinterpret_cast<loose*>(to + i) =
        function(*reinterpret_cast<const loose*>(a + i), *reinterpret_cast<const loose*>(b + i));
  if (i == n) return;
  vec last_a{}, last_b{};
  for (int64_t j = i; j < n; ++j) last_a[j - i] = a[j], last_b[j - i] = b[j];
  const vec last = function(last_a, last_b);
  for (int64_t j = i; j < n; ++j) to[j] = last[j - i];
}
