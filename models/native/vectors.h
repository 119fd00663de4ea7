// Vectors of floats as wide as the processor's registers (GCC's and Clang's vector extension).

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

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

constexpr std::make_integer_sequence<int, WIDTH> PLACES{};

template <int... FROM>
inline vec picked(vec a, vec b) {  // the numbers at these places of a, followed by b
#ifdef __clang__
  return __builtin_shufflevector(a, b, FROM...);
#else
  return __builtin_shuffle(a, b, ivec{FROM...});
#endif
}

// f of all numbers of x, two by two, in each place of the result.
template <int STEP = WIDTH / 2, typename Function, int... N>
inline vec folded(vec x, Function f, std::integer_sequence<int, N...> places) {
  x = f(x, picked<(N ^ STEP)...>(x, x));
  if constexpr (STEP > 1) return folded<STEP / 2>(x, f, places);
  return x;
}

inline vec sum(vec x) {
  return folded(x, [](vec a, vec b) { return a + b; }, PLACES);
}

inline vec largest(vec x) {
  return folded(x, [](vec a, vec b) { return a > b ? a : b; }, PLACES);
}

// Vectors STEP apart swap numbers: those at places with that bit for those at places without.
template <int STEP, int... N>
inline void exchange(vec* rows, std::integer_sequence<int, N...>) {
#pragma GCC unroll 16
  for (int i = 0; i < WIDTH; ++i) {
    if (i & STEP) continue;
    const vec a = rows[i], b = rows[i + STEP];
    rows[i] = picked<(N & STEP ? WIDTH + (N ^ STEP) : N)...>(a, b);
    rows[i + STEP] = picked<(N & STEP ? WIDTH + N : N + STEP)...>(a, b);
  }
}

// WIDTH rows of WIDTH numbers, turned over; `from` may begin anywhere.
inline void transpose_square(const float* from, int64_t ld_from, float* to, int64_t ld_to) {
  vec rows[WIDTH];
  for (int i = 0; i < WIDTH; ++i) rows[i] = *reinterpret_cast<const loose*>(from + i * ld_from);
  if constexpr (WIDTH > 8) exchange<8>(rows, PLACES);
  exchange<4>(rows, PLACES);
  exchange<2>(rows, PLACES);
  exchange<1>(rows, PLACES);
  for (int i = 0; i < WIDTH; ++i) *reinterpret_cast<vec*>(to + i * ld_to) = rows[i];
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
