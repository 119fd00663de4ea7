// Gradients of a linear layer's weights and bias on a CPU: gᵀ·x and the sum of g over its rows, for
// T×O gradients g and T×I inputs x, both float32 in rows. Called by linear.py.
//
// The blocking is that of Goto and van de Geijn (ACM TOMS 34/3, 2008): a panel of g in the first-level
// cache, panels of x in the second, a tile of the result in registers. Sums are made in an order
// that the number of threads does not change.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "vectors.h"

namespace {

#ifdef __AVX512F__
constexpr int ROWS = 14;
#else
constexpr int ROWS = 6;
#endif
constexpr int COLUMNS = 2 * WIDTH;
constexpr int DEPTH = 400;    // rows of g and x at a time, about
constexpr int BREADTH = 8;    // panels of x at a time: 400·32·8·4 bytes are less than half a megabyte

using Memory = std::unique_ptr<float, decltype(&std::free)>;

Memory memory(int64_t floats) {
  return {static_cast<float*>(std::aligned_alloc(64, (4 * floats + 127) / 64 * 64)), std::free};
}

// c (R×COLUMNS) = or += aᵀ·b for packed panels a (depth×ROWS) and b (depth×COLUMNS).
template <int R>
inline void tile(float* c, int64_t ldc, const float* a, const float* b, int64_t depth, bool add) {
  vec sums[R][2] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const vec left = *reinterpret_cast<const vec*>(b + k * COLUMNS);
    const vec right = *reinterpret_cast<const vec*>(b + k * COLUMNS + WIDTH);
    for (int r = 0; r < R; ++r) {
      sums[r][0] += a[k * ROWS + r] * left;
      sums[r][1] += a[k * ROWS + r] * right;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) {
      loose& to = *reinterpret_cast<loose*>(c + r * ldc + v * WIDTH);
      to = add ? to + sums[r][v] : sums[r][v];
    }
}

template <int R>
void tile_of(int64_t rows, float* c, int64_t ldc, const float* a, const float* b, int64_t depth, bool add) {
  if (rows == R) return tile<R>(c, ldc, a, b, depth, add);
  if constexpr (R > 1) tile_of<R - 1>(rows, c, ldc, a, b, depth, add);
}

// Columns first … first + WIDE of a block's rows, one row after the other, filled up with zeros.
template <int WIDE>
void pack(float* to, const float* from, int64_t ld, int64_t columns, int64_t first, int64_t depth) {
  const int64_t count = std::min<int64_t>(WIDE, columns - first);
  for (int64_t k = 0; k < depth; ++k, to += WIDE) {
    const float* row = from + k * ld + first;
    if (count == WIDE)
      for (int i = 0; i < WIDE; ++i) to[i] = row[i];
    else
      for (int i = 0; i < WIDE; ++i) to[i] = i < count ? row[i] : 0.0f;
  }
}

}  // namespace

extern "C" void weight_gradient(const float* g, const float* x, float* weight, float* bias, int64_t tokens,
                                int64_t outputs, int64_t inputs, int64_t threads) {
  const int64_t blocks = (tokens + DEPTH - 1) / DEPTH, deepest = (tokens + blocks - 1) / blocks;
  const int64_t g_panels = (outputs + ROWS - 1) / ROWS, x_panels = (inputs + COLUMNS - 1) / COLUMNS;
  const int64_t breadth = std::min<int64_t>(BREADTH, (x_panels + threads - 1) / threads);
  const int64_t groups = (x_panels + breadth - 1) / breadth;
  const Memory packed_g = memory(g_panels * deepest * ROWS);
#pragma omp parallel num_threads(threads)
  {
    const Memory packed_x = memory(breadth * deepest * COLUMNS);
    float edge[ROWS * COLUMNS];
    for (int64_t first = 0, depth; first < tokens; first += depth) {
      depth = std::min(deepest, tokens - first);
      const float *rows_g = g + first * outputs, *rows_x = x + first * inputs;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < g_panels; ++i) {
        float* panel = packed_g.get() + i * depth * ROWS;
        pack<ROWS>(panel, rows_g, outputs, outputs, i * ROWS, depth);
        float sums[ROWS] = {};
        for (int64_t k = 0; k < depth; ++k)
          for (int r = 0; r < ROWS; ++r) sums[r] += panel[k * ROWS + r];
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, outputs - i * ROWS); ++r)
          bias[i * ROWS + r] = sums[r] + (first ? bias[i * ROWS + r] : 0.0f);
      }
#pragma omp for schedule(dynamic)
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = group * breadth, end = std::min(x_panels, begin + breadth);
        for (int64_t j = begin; j < end; ++j)
          pack<COLUMNS>(packed_x.get() + (j - begin) * depth * COLUMNS, rows_x, inputs, inputs, j * COLUMNS, depth);
        for (int64_t i = 0; i < g_panels; ++i) {
          const int64_t rows = std::min<int64_t>(ROWS, outputs - i * ROWS);
          const float* left = packed_g.get() + i * depth * ROWS;
          for (int64_t j = begin; j < end; ++j) {
            const float* right = packed_x.get() + (j - begin) * depth * COLUMNS;
            float* to = weight + i * ROWS * inputs + j * COLUMNS;
            const int64_t columns = std::min<int64_t>(COLUMNS, inputs - j * COLUMNS);
            if (columns == COLUMNS) {
              tile_of<ROWS>(rows, to, inputs, left, right, depth, first > 0);
              continue;
            }
            tile_of<ROWS>(rows, edge, COLUMNS, left, right, depth, false);
            for (int64_t r = 0; r < rows; ++r)
              for (int64_t c = 0; c < columns; ++c)
                to[r * inputs + c] = edge[r * COLUMNS + c] + (first ? to[r * inputs + c] : 0.0f);
          }
        }
      }
    }
  }
}
