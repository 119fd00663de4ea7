// Linear layers on a CPU: x·Wᵀ + b and its gradients, with a GELU before the layer worked out where
// its numbers are read. Called by linear.py. All float32: x is T×I, W is O×I, gradients g are T×O.
//
// The blocking is that of Goto and van de Geijn (ACM TOMS 34/3, 2008): a tile of the result in
// registers; the left factor packed by each thread for its own rows, the right one by all together.
// Every number of the result is one sum in one order, whatever the number of threads or of rows.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gelu.h"
#include "memory.h"
#include "vectors.h"

namespace {

#ifdef __AVX512F__
constexpr int ROWS = 14;
#else
constexpr int ROWS = 6;
#endif
constexpr int COLUMNS = 2 * WIDTH;
constexpr int DEPTH = 512;             // terms of the sums at a time, at most
constexpr int STRIDE = DEPTH + 16;     // of packed rows, which then do not meet in the cache
constexpr int PANELS = 84 / ROWS;      // of the left factor at a time: a sixth of a megabyte
constexpr int64_t SECTION = 1 << 21;   // numbers of the right factor at a time: eight megabytes
constexpr int64_t LINE = 16;           // floats of a cache line

inline int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

struct Range {  // of the sums' terms
  int64_t first, count;
};

// How many of K terms are summed up in registers: equal parts of at most DEPTH.
inline int64_t depth_of(int64_t K) { return pieces(K, pieces(K, DEPTH)); }

// How many terms of a right factor of N columns are packed at a time: whole depths.
inline int64_t section_of(int64_t K, int64_t N) {
  const int64_t depth = depth_of(K);
  return depth * std::max<int64_t>(1, SECTION / (depth * N));
}

inline int64_t packed_size(int64_t K, int64_t N) { return std::min(K, section_of(K, N)) * pieces(N, COLUMNS) * COLUMNS; }

// Memory that will be read soon, fetched into the cache along with the terms of a tile: `step` floats
// from one term to the next, `jump` floats from each of ROWS parts of the terms to the next.
struct Ahead {
  const float* data;
  int64_t jump, step;
};

// ---- left factor, M×K: rows row … row + rows as panels of `height` rows each ----

struct RowsOfLeft {  // its rows, or GELU of them
  static constexpr int ROW = STRIDE, TERM = 1, PANEL = ROWS * STRIDE;
  const float* data;
  int64_t inner;
  bool gelu;

  // What `pack` will read for one panel.
  Ahead ahead(int64_t panel, int64_t row, int64_t height, Range terms) const {
    return {data + (row + panel * height) * inner + terms.first, inner, LINE};
  }

  void pack(float* to, int64_t row, int64_t rows, int64_t height, Range terms, bool) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = data + (row + r) * inner + terms.first;
      float* into = to + r / height * PANEL + r % height * STRIDE;
      if (gelu)
        each(from, from, into, terms.count, [](vec x, vec) { return gelu_of(x); });
      else
        std::memcpy(into, from, 4 * terms.count);
    }
  }
};

struct ColumnsOfLeft {  // the columns of K×M, and their sums
  static constexpr int ROW = 1, TERM = ROWS, PANEL = ROWS * DEPTH;
  const float* data;
  int64_t outer;
  float* sums;

  Ahead ahead(int64_t panel, int64_t row, int64_t, Range terms) const {
    return {data + terms.first * outer + row + panel * LINE, pieces(terms.count, ROWS) * outer, outer};
  }

  void pack(float* to, int64_t row, int64_t rows, int64_t height, Range terms, bool with_sums) const {
    const float* from = data + terms.first * outer + row;
    float total[PANELS * ROWS] = {};
    for (int64_t k = 0; k < terms.count; ++k, from += outer) {
      float* into = to + k * ROWS;
      int64_t r = 0;
      for (; r + ROWS <= rows; r += height, into += PANEL) std::memcpy(into, from + r, 4 * ROWS);
      for (; r < rows; r += height, into += PANEL) std::memcpy(into, from + r, 4 * (rows - r));
      if (with_sums)
        for (r = 0; r < rows; ++r) total[r] += from[r];
    }
    if (with_sums)
      for (int64_t r = 0; r < rows; ++r) sums[row + r] = total[r] + (terms.first ? sums[row + r] : 0.0f);
  }
};

// ---- right factor, K×N: some terms of panels of COLUMNS columns each, packed by all threads together ----

struct RowsOfRight {  // its rows, or GELU of them
  const float* data;
  int64_t columns;
  bool gelu;
  float* packed;

  const float* pack(Range terms, int64_t depth) const {
    const int64_t panels = pieces(columns, COLUMNS);
#pragma omp for schedule(static)
    for (int64_t begin = 0; begin < terms.count; begin += LINE)
      for (int64_t j = 0; j < panels; ++j)
        for (int64_t k = begin; k < std::min(begin + LINE, terms.count); ++k) {
          const int64_t above = k / depth * depth;  // terms of earlier depths
          const int64_t place = j * std::min(depth, terms.count - above) + k - above;
          row(data + (terms.first + k) * columns, j * COLUMNS, packed + (above * panels + place) * COLUMNS);
        }
    return packed;
  }

  void row(const float* from, int64_t column, float* to) const {
    const int64_t count = std::min<int64_t>(COLUMNS, columns - column);
    if (gelu)
      each(from + column, from, to, count, [](vec x, vec) { return gelu_of(x); });
    else if (count == COLUMNS)
      std::memcpy(to, from + column, 4 * COLUMNS);
    else
      std::memcpy(to, from + column, 4 * count);
    for (int64_t c = count; c < COLUMNS; ++c) to[c] = 0;
  }
};

// The first WIDTH of `rows` rows and `columns` columns, turned over; rows that are missing are zero.
inline void transpose(const float* from, int64_t ld_from, float* to, int64_t ld_to, int64_t rows, int64_t columns) {
  if (rows >= WIDTH && columns >= WIDTH) return transpose_square(from, ld_from, to, ld_to);
  for (int64_t i = 0; i < std::min<int64_t>(WIDTH, columns); ++i)
    for (int64_t c = 0; c < WIDTH; ++c) to[i * ld_to + c] = c < rows ? from[c * ld_from + i] : 0.0f;
}

struct ColumnsOfRight {  // the rows of N×K as its columns
  const float* data;
  int64_t columns, inner;
  float* packed;

  const float* pack(Range terms, int64_t depth) const {
    const int64_t panels = pieces(columns, COLUMNS);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < panels * pieces(terms.count, depth); ++task) {
      const int64_t j = task % panels, above = task / panels * depth;
      const int64_t count = std::min(depth, terms.count - above);
      const float* from = data + j * COLUMNS * inner + terms.first + above;
      float* to = packed + (above * panels + j * count) * COLUMNS;
      for (int64_t c = 0; c < COLUMNS; c += WIDTH)
        for (int64_t k = 0; k < count; k += WIDTH)
          transpose(from + c * inner + k, inner, to + k * COLUMNS + c, COLUMNS, columns - j * COLUMNS - c, count - k);
    }
    return packed;
  }
};

struct OrderedRight {  // what `linear_order` has made of N×K
  const float* data;
  int64_t panels;
  const float* pack(Range terms, int64_t) const { return data + terms.first * panels * COLUMNS; }
};

// ---- what is done to the result: columns column … column + count of a row, which begin at number `at` ----

struct Nothing {
  static constexpr const float* beside = nullptr;
  void row(float*, int64_t, int64_t, int64_t) const {}
};

struct AddBias {
  static constexpr const float* beside = nullptr;
  const float* bias;
  void row(float* to, int64_t, int64_t column, int64_t count) const {
    each(to, bias + column, to, count, [](vec a, vec b) { return a + b; });
  }
};

struct TimesGeluDerivative {
  const float* beside;  // where the derivative is taken, as many numbers as the result; none: times 1
  void row(float* to, int64_t at, int64_t, int64_t count) const {
    if (beside) each(beside + at, to, to, count, [](vec x, vec g) { return g * gelu_derivative(x); });
  }
};

// ---- product ----

// c (R×COLUMNS) = or += a·b for packed panels a and b. Meanwhile c, what lies `beside` it and what is
// `ahead` come into the cache.
template <int R, int ROW, int TERM>
inline void tile(float* c, int64_t ldc, const float* a, const float* b, int64_t terms, bool add, const float* beside,
                 Ahead ahead) {
  vec sums[R][2] = {};
  const int64_t part = pieces(terms, ROWS);
  int64_t row = 0;
  for (int64_t begin = 0; begin < terms; begin += part, ahead.data += ahead.jump) {
    for (int64_t end = std::min<int64_t>(row + 2, R); row < end; ++row)
      for (int v = 0; v < 2; ++v) {
        __builtin_prefetch(c + row * ldc + v * WIDTH, 1);
        if (beside) __builtin_prefetch(beside + row * ldc + v * WIDTH);
      }
    const float* soon = ahead.data;
    for (int64_t k = begin; k < std::min(begin + part, terms); ++k, soon += ahead.step) {
      __builtin_prefetch(soon, 0, 2);
      const vec left = *reinterpret_cast<const vec*>(b + k * COLUMNS);
      const vec right = *reinterpret_cast<const vec*>(b + k * COLUMNS + WIDTH);
      for (int r = 0; r < R; ++r) {
        sums[r][0] += a[r * ROW + k * TERM] * left;
        sums[r][1] += a[r * ROW + k * TERM] * right;
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) {
      loose& to = *reinterpret_cast<loose*>(c + r * ldc + v * WIDTH);
      to = add ? to + sums[r][v] : sums[r][v];
    }
}

template <int R, typename Left>
void tile_of(int64_t rows, float* c, int64_t ldc, const float* a, const float* b, int64_t terms, bool add,
             const float* beside, Ahead ahead) {
  if (rows == R) return tile<R, Left::ROW, Left::TERM>(c, ldc, a, b, terms, add, beside, ahead);
  if constexpr (R > 1) tile_of<R - 1, Left>(rows, c, ldc, a, b, terms, add, beside, ahead);
}

struct Place {  // of a tile in the result: its first number's, its first column, its size
  int64_t at, column, rows, columns;
};

// A tile of c, rows of N numbers, and what `finish` does to it where these are the last terms.
template <typename Left, typename Finish>
void tile_at(Place place, float* c, int64_t N, const float* a, const float* b, Range terms, bool is_last, Finish finish,
             Ahead ahead) {
  float* to = c + place.at;
  const bool adds = terms.first > 0;
  const float* beside = is_last && finish.beside ? finish.beside + place.at : nullptr;
  if (place.columns == COLUMNS) {
    tile_of<ROWS, Left>(place.rows, to, N, a, b, terms.count, adds, beside, ahead);
  } else {
    float edge[ROWS * COLUMNS];
    tile_of<ROWS, Left>(place.rows, edge, COLUMNS, a, b, terms.count, false, nullptr, ahead);
    for (int64_t r = 0; r < place.rows; ++r)
      for (int64_t k = 0; k < place.columns; ++k)
        to[r * N + k] = edge[r * COLUMNS + k] + (adds ? to[r * N + k] : 0.0f);
  }
  if (!is_last) return;
  for (int64_t r = 0; r < place.rows; ++r) finish.row(to + r * N, place.at + r * N, place.column, place.columns);
}

// c (M×N) = left (M×K) · right (K×N), all at least 1; `finish` goes over its rows, tile by tile.
template <typename Left, typename Right, typename Finish>
void multiply(float* c, int64_t M, int64_t K, int64_t N, Left left, Right right, Finish finish, int64_t threads) {
  const int64_t left_panels = pieces(M, ROWS), right_panels = pieces(N, COLUMNS), height = pieces(M, left_panels);
  // Tasks are blocks of rows, as many as make equal work for all threads, or else parts of their columns.
  const int64_t blocks = std::min(left_panels, pieces(pieces(left_panels, PANELS), threads) * threads);
  const int64_t parts = std::min(right_panels, pieces(threads, blocks));
  const int64_t depth = depth_of(K), section = section_of(K, N);
#pragma omp parallel num_threads(threads)
  {
    const Memory packed_left = memory(PANELS * Left::PANEL);
    for (int64_t start = 0; start < K; start += section) {
      const int64_t stop = std::min(K, start + section);
      const float* packed_right = right.pack({start, stop - start}, depth);
#pragma omp for schedule(static)
      for (int64_t task = 0; task < blocks * parts; ++task) {
        const int64_t block = task / parts, part = task % parts;
        const int64_t row = block * left_panels / blocks * height;
        const int64_t rows = std::min((block + 1) * left_panels / blocks * height, M) - row;
        const int64_t panels = pieces(rows, height);
        const int64_t begin = part * right_panels / parts, end = (part + 1) * right_panels / parts;
        for (int64_t first = start; first < stop; first += depth) {
          const Range terms{first, std::min(depth, K - first)};
          const bool is_last = first + depth >= K, stays = first + depth < stop;
          left.pack(packed_left.get(), row, rows, height, terms, part == 0);
          for (int64_t j = begin; j < end; ++j) {
            const int64_t column = j * COLUMNS, columns = std::min<int64_t>(COLUMNS, N - column);
            const int64_t size = terms.count * COLUMNS;
            const float* b = packed_right + (first - start) * right_panels * COLUMNS + j * size;
            for (int64_t i = 0; i < panels; ++i) {
              // Soon to be read: the next panel of the right factor, after the last the next rows of the left.
              Ahead ahead{b + size + i * size / panels, pieces(size / panels, ROWS), LINE};
              if (j + 1 == end)
                ahead = left.ahead(i, stays ? row : row + rows, height, {stays ? first + depth : start, terms.count});
              const int64_t above = i * height;
              const Place place{(row + above) * N + column, column, std::min(height, rows - above), columns};
              tile_at<Left>(place, c, N, packed_left.get() + i * Left::PANEL, b, terms, is_last, finish, ahead);
            }
          }
        }
      }
    }
  }
}

}  // namespace

// W in the order in which `linear` takes it as `ordered`: O, rounded up to whole panels, times I numbers.
extern "C" void linear_order(const float* weight, float* ordered, int64_t inputs, int64_t outputs, int64_t threads) {
#pragma omp parallel num_threads(threads)
  ColumnsOfRight{weight, outputs, inputs, ordered}.pack({0, inputs}, depth_of(inputs));
}

// x·Wᵀ + b, or gelu(x)·Wᵀ + b; `ordered` may be null.
extern "C" void linear(const float* x, const float* weight, const float* ordered, const float* bias, float* result,
                       int64_t tokens, int64_t inputs, int64_t outputs, int64_t gelu, int64_t threads) {
  const RowsOfLeft left{x, inputs, gelu != 0};
  const AddBias finish{bias};
  if (ordered) {
    const OrderedRight right{ordered, pieces(outputs, COLUMNS)};
    return multiply(result, tokens, inputs, outputs, left, right, finish, threads);
  }
  const Memory packed = memory(packed_size(inputs, outputs));
  const ColumnsOfRight right{weight, outputs, inputs, packed.get()};
  multiply(result, tokens, inputs, outputs, left, right, finish, threads);
}

// g·W, times the derivative of GELU at x where x is given.
extern "C" void linear_input_gradient(const float* g, const float* weight, const float* x, float* result,
                                      int64_t tokens, int64_t inputs, int64_t outputs, int64_t threads) {
  const Memory packed = memory(packed_size(outputs, inputs));
  const RowsOfLeft left{g, outputs, false};
  const RowsOfRight right{weight, inputs, false, packed.get()};
  multiply(result, tokens, outputs, inputs, left, right, TimesGeluDerivative{x}, threads);
}

// gᵀ·x or gᵀ·gelu(x), and the sum of g over its rows.
extern "C" void linear_weight_gradient(const float* g, const float* x, float* weight, float* bias, int64_t tokens,
                                       int64_t inputs, int64_t outputs, int64_t gelu, int64_t threads) {
  const Memory packed = memory(packed_size(tokens, inputs));
  const ColumnsOfLeft left{g, outputs, bias};
  const RowsOfRight right{x, inputs, gelu != 0, packed.get()};
  multiply(weight, outputs, tokens, inputs, left, right, Nothing{}, threads);
}
