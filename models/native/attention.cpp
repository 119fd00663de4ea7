// softmax(q·k / √d + bias)·v of many small problems on a CPU, and its gradients, without ever holding
// the logits of more than a few queries. Called by fused_attention.py.
//
// The bias is dense (window attention), or read bilinearly from a table at half the way from each
// point to each query (delegate attention, eq. 4 and the released code's position bias).
// Everything is float32, and sums are made in an order that the number of threads does not change.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "memory.h"
#include "vectors.h"

namespace {

#ifdef __AVX512F__  // 32 registers: a tile of sums and a row beside it
constexpr int ROWS = 7, COLUMNS = 4;
#else
constexpr int ROWS = 4, COLUMNS = 2;
#endif
constexpr int BLOCK = 28;          // queries at a time
constexpr int TOGETHER = 4;        // heads of a group whose bias is read at a time
constexpr float OUTSIDE = -1e30f;  // bias of keys that only fill a vector

typedef float vec4 __attribute__((vector_size(16), may_alias));

inline vec& at(float* x) { return *reinterpret_cast<vec*>(x); }
inline const vec& at(const float* x) { return *reinterpret_cast<const vec*>(x); }
inline int64_t padded(int64_t n) { return (n + WIDTH - 1) / WIDTH * WIDTH; }

// ---- products of small matrices ----

struct Left {  // element (i, k) of the left factor: its rows or its columns may be contiguous
  const float* data;
  int64_t row, column;
};

template <int R, int V>
inline void tile(float* c, int64_t ldc, Left a, const float* b, int64_t ldb, int64_t inner, bool add) {
  vec sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = add ? at(c + r * ldc + v * WIDTH) : vec{};
  for (int64_t k = 0; k < inner; ++k) {
    vec right[V];
    for (int v = 0; v < V; ++v) right[v] = at(b + k * ldb + v * WIDTH);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sums[r][v] += a.data[r * a.row + k * a.column] * right[v];
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) at(c + r * ldc + v * WIDTH) = sums[r][v];
}

template <int R, int V>
void tile_of(int64_t rows, float* c, int64_t ldc, Left a, const float* b, int64_t ldb, int64_t inner, bool add) {
  if (rows == R) return tile<R, V>(c, ldc, a, b, ldb, inner, add);
  if constexpr (R > 1) tile_of<R - 1, V>(rows, c, ldc, a, b, ldb, inner, add);
}

template <int V>
void panel_of(int64_t vectors, int64_t rows, float* c, int64_t ldc, Left a, const float* b, int64_t ldb,
              int64_t inner, bool add) {
  if (vectors == V) {
    for (int64_t i = 0; i < rows; i += ROWS) {
      Left part{a.data + i * a.row, a.row, a.column};
      tile_of<ROWS, V>(std::min<int64_t>(ROWS, rows - i), c + i * ldc, ldc, part, b, ldb, inner, add);
    }
    return;
  }
  if constexpr (V > 1) panel_of<V - 1>(vectors, rows, c, ldc, a, b, ldb, inner, add);
}

// c = a·b or c += a·b: rows×inner times inner×columns; `columns` fills whole vectors.
void multiply(float* c, int64_t ldc, Left a, const float* b, int64_t ldb, int64_t rows, int64_t inner,
              int64_t columns, bool add = false) {
  for (int64_t j = 0; j < columns; j += COLUMNS * WIDTH) {
    int64_t vectors = std::min<int64_t>(COLUMNS, (columns - j) / WIDTH);
    panel_of<COLUMNS>(vectors, rows, c + j, ldc, a, b + j, ldb, inner, add);
  }
}

// ---- one head of one problem ----

struct Rows {  // where row n of head h of problem l begins: l·problem + h·head + n·row
  float* data;
  int64_t problem, head, row;
};

struct Attention {  // what fused_attention.py hands over
  int64_t problems, heads, queries, keys, width;
  float scale;
  Rows q, k, v, out;      // out: its gradient in the backward pass
  Rows dq, dk, dv;
  // Windows: row n of window w is row places[w·queries + n] of its image. None: rows as they are.
  const int32_t* places;
  int64_t windows;
  // Dense: slots×heads×queries×keys, problem l having slot l % slots; gradients are parts of a sum.
  const float* bias;
  float* dbias;
  int64_t slots, parts;
  // Sampled: heads×table_rows×table_columns, problems×groups×keys×(y, x), queries×(y, x).
  const float *table, *points, *grid;
  float *dtable, *dpoints;  // dtable: problems×heads×table_rows×table_columns, to be summed
  int64_t groups, table_rows, table_columns;
};

// Memory of one thread, handed out in pieces.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : memory_(memory(floats)), next_(memory_.get()) {}
  float* take(int64_t floats) {
    float* taken = next_;
    next_ += (floats + 15) / 16 * 16;
    return taken;
  }

 private:
  Memory memory_;
  float* next_;
};

// Keys and values of one head as the products want them, and sums of their gradients.
struct Head {
  float *k, *kt, *v;    // M'×d', d'×M', M'×d' (primes: filled up with zeros to whole vectors)
  float *vt, *dk, *dv;  // backward only: d'×M', M×d', M×d'
};

struct Sizes {
  int64_t d, dp, m, mp;
  bool backward;
  explicit Sizes(const Attention& a, bool backward)
      : d(a.width), dp(padded(a.width)), m(a.keys), mp(padded(a.keys)), backward(backward) {}
  int64_t head() const { return (backward ? 6 : 3) * mp * dp; }
  int64_t block() const { return BLOCK * (2 * dp + (backward ? 2 : 1) * mp) + 64; }
};

Head take_head(Scratch& scratch, const Sizes& s) {
  Head head{};
  for (float** part : {&head.k, &head.kt, &head.v}) *part = scratch.take(s.mp * s.dp);
  if (s.backward)
    for (float** part : {&head.vt, &head.dk, &head.dv}) *part = scratch.take(s.mp * s.dp);
  for (float* rows : {head.k, head.v}) std::fill(rows + s.m * s.dp, rows + s.mp * s.dp, 0.0f);  // `gather` writes M
  return head;
}

struct Block {  // buffers for BLOCK queries
  float *q, *out, *p, *ds;
};

Block take_block(Scratch& scratch, const Sizes& s) {
  Block block{};
  block.q = scratch.take(BLOCK * s.dp);
  block.out = scratch.take(BLOCK * s.dp);
  block.p = scratch.take(BLOCK * s.mp);
  block.ds = s.backward ? scratch.take(BLOCK * s.mp) : nullptr;
  return block;
}

struct Located {  // the rows of one head of one problem
  float* data;
  const int32_t* places;
  int64_t row;
  float* operator[](int64_t n) const { return data + (places ? places[n] : n) * row; }
};

Located locate(const Attention& a, const Rows& rows, int64_t problem, int64_t head) {
  const int64_t image = a.places ? problem / a.windows : problem;
  const int32_t* places = a.places ? a.places + problem % a.windows * a.queries : nullptr;
  return {rows.data + image * rows.problem + head * rows.head, places, rows.row};
}

void gather(float* to, const Sizes& s, const Located& rows, int64_t first, int64_t count, float factor = 1.0f) {
  for (int64_t n = 0; n < count; ++n, to += s.dp) {
    const float* row = rows[first + n];
    for (int64_t i = 0; i < s.d; ++i) to[i] = factor * row[i];
    for (int64_t i = s.d; i < s.dp; ++i) to[i] = 0.0f;
  }
}

void scatter(const float* from, const Sizes& s, const Located& rows, int64_t first, int64_t count,
             float factor = 1.0f) {
  for (int64_t n = 0; n < count; ++n, from += s.dp) {
    float* row = rows[first + n];
    for (int64_t i = 0; i < s.d; ++i) row[i] = factor * from[i];
  }
}

void transpose(float* to, const float* from, const Sizes& s) {  // M'×d' → d'×M'
  for (int64_t n = 0; n < s.mp; n += WIDTH)
    for (int64_t i = 0; i < s.dp; i += WIDTH) transpose_square(from + n * s.dp + i, s.dp, to + i * s.mp + n, s.mp);
}

void load(const Head& head, const Attention& a, const Sizes& s, int64_t problem, int64_t h) {
  gather(head.k, s, locate(a, a.k, problem, h), 0, s.m);
  gather(head.v, s, locate(a, a.v, problem, h), 0, s.m);
  transpose(head.kt, head.k, s);
  if (!s.backward) return;
  transpose(head.vt, head.v, s);
  std::fill(head.dk, head.dk + s.m * s.dp, 0.0f);
  std::fill(head.dv, head.dv + s.m * s.dp, 0.0f);
}

// p = e^(q·k/√d + bias − the row's largest), and in `factors` what makes its rows sum to one.
void shares(const Sizes& s, const Head& head, const Block& block, int64_t count, const float* bias,
            float* factors) {
  multiply(block.p, s.mp, {block.q, s.dp, 1}, head.kt, s.mp, count, s.d, s.mp);
  for (int64_t n = 0; n < count; ++n) {
    float* p = block.p + n * s.mp;
    vec most = all(OUTSIDE), total{};
    for (int64_t j = 0; j < s.mp; j += WIDTH) {
      vec logits = at(p + j) += at(bias + n * s.mp + j);
      most = logits > most ? logits : most;
    }
    const vec shift = largest(most);
    for (int64_t j = 0; j < s.mp; j += WIDTH) total += at(p + j) = exponential(at(p + j) - shift);
    factors[n] = 1.0f / sum(total)[0];
  }
}

void forward_block(const Attention& a, const Sizes& s, const Head& head, const Block& block,
                   int64_t problem, int64_t h, int64_t first, int64_t count, const float* bias) {
  float factors[BLOCK];
  gather(block.q, s, locate(a, a.q, problem, h), first, count, a.scale);
  shares(s, head, block, count, bias, factors);
  multiply(block.out, s.dp, {block.p, s.mp, 1}, head.v, s.dp, count, s.m, s.dp);
  const Located out = locate(a, a.out, problem, h);
  for (int64_t n = 0; n < count; ++n) scatter(block.out + n * s.dp, s, out, first + n, 1, factors[n]);
}

// Adds to the head's dk and dv, writes dq, and leaves the gradient of the logits, which is that of the
// bias, in block.ds.
void backward_block(const Attention& a, const Sizes& s, const Head& head, const Block& block,
                    int64_t problem, int64_t h, int64_t first, int64_t count, const float* bias) {
  float factors[BLOCK];
  gather(block.q, s, locate(a, a.q, problem, h), first, count, a.scale);
  gather(block.out, s, locate(a, a.out, problem, h), first, count);
  shares(s, head, block, count, bias, factors);
  multiply(block.ds, s.mp, {block.out, s.dp, 1}, head.vt, s.mp, count, s.d, s.mp);
  for (int64_t n = 0; n < count; ++n) {
    float *p = block.p + n * s.mp, *ds = block.ds + n * s.mp;
    vec total{};
    for (int64_t j = 0; j < s.mp; j += WIDTH) {
      at(p + j) *= factors[n];
      total += at(p + j) * at(ds + j);
    }
    const vec mean = sum(total);
    for (int64_t j = 0; j < s.mp; j += WIDTH) at(ds + j) = at(p + j) * (at(ds + j) - mean);
  }
  multiply(head.dv, s.dp, {block.p, 1, s.mp}, block.out, s.dp, s.m, count, s.dp, true);
  multiply(head.dk, s.dp, {block.ds, 1, s.mp}, block.q, s.dp, s.m, count, s.dp, true);
  multiply(block.out, s.dp, {block.ds, s.mp, 1}, head.k, s.dp, count, s.m, s.dp);
  scatter(block.out, s, locate(a, a.dq, problem, h), first, count, a.scale);
}

void store(const Head& head, const Attention& a, const Sizes& s, int64_t problem, int64_t h) {
  scatter(head.dk, s, locate(a, a.dk, problem, h), 0, s.m);
  scatter(head.dv, s, locate(a, a.dv, problem, h), 0, s.m);
}

// ---- dense bias: one head of the problems of a slot, or of a part of them ----

void dense(const Attention& a, bool backward, int64_t threads) {
  const Sizes s(a, backward);
  const int64_t of_slot = a.problems / a.slots, units = a.heads * a.slots * a.parts;
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(s.head() + s.block() + 2 * a.queries * s.mp + 64);
    Head head = take_head(scratch, s);
    Block block = take_block(scratch, s);
    float* bias = scratch.take(a.queries * s.mp);
    float* dbias = backward ? scratch.take(a.queries * s.mp) : nullptr;
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t h = unit % a.heads, slot = unit / a.heads % a.slots, part = unit / a.heads / a.slots;
      const int64_t matrix = (slot * a.heads + h) * a.queries * s.m;
      for (int64_t n = 0; n < a.queries; ++n) {
        std::memcpy(bias + n * s.mp, a.bias + matrix + n * s.m, 4 * s.m);
        std::fill(bias + n * s.mp + s.m, bias + (n + 1) * s.mp, OUTSIDE);
      }
      if (backward) std::fill(dbias, dbias + a.queries * s.mp, 0.0f);
      for (int64_t i = part * of_slot / a.parts; i < (part + 1) * of_slot / a.parts; ++i) {
        const int64_t problem = i * a.slots + slot;
        load(head, a, s, problem, h);
        for (int64_t first = 0; first < a.queries; first += BLOCK) {
          const int64_t count = std::min<int64_t>(BLOCK, a.queries - first), place = first * s.mp;
          if (!backward) {
            forward_block(a, s, head, block, problem, h, first, count, bias + place);
            continue;
          }
          backward_block(a, s, head, block, problem, h, first, count, bias + place);
          for (int64_t j = 0; j < count * s.mp; j += WIDTH) at(dbias + place + j) += at(block.ds + j);
        }
        if (backward) store(head, a, s, problem, h);
      }
      if (!backward) continue;
      float* to = a.dbias + part * a.slots * a.heads * a.queries * s.m + matrix;
      for (int64_t n = 0; n < a.queries; ++n) std::memcpy(to + n * s.m, dbias + n * s.mp, 4 * s.m);
    }
  }
}

// ---- sampled bias: up to TOGETHER heads of one group of one problem ----

// Where a vector of points is read from the table for one query: the first of its four cells, how
// far it is from there, and 1 or 0 where it has or has no gradient, being outside.
struct Reading {
  ivec cell;
  vec right, down, inside_x, inside_y;
};

struct Table {  // cells×TOGETHER, with a margin of zeros: one cell before the table, two behind it
  float *values, *gradients;
  int64_t columns, cells;
  explicit Table(const Attention& a)
      : columns(a.table_columns + 3), cells((a.table_rows + 3) * (a.table_columns + 3)) {}
};

inline vec within(vec x, float last) {  // NaN, too, ends up inside
  x = x >= -1.0f ? x : all(-1.0f);
  return x > last ? all(last) : x;
}

// A query at (y, x) and points: half the way, in cells of the table, is last/2 + (query − point)·last/4.
inline Reading reading_of(const Attention& a, const Table& table, const float* query, const float* y,
                        const float* x) {
  const float last_y = a.table_rows - 1, last_x = a.table_columns - 1;
  const vec at_y = (query[0] - at(y)) * (0.25f * last_y) + 0.5f * last_y;
  const vec at_x = (query[1] - at(x)) * (0.25f * last_x) + 0.5f * last_x;
  const vec in_y = within(at_y, last_y + 1) + 1.0f, in_x = within(at_x, last_x + 1) + 1.0f;
  const ivec row = __builtin_convertvector(in_y, ivec), column = __builtin_convertvector(in_x, ivec);
  const vec none{}, one = all(1.0f);
  return {row * static_cast<int32_t>(table.columns) + column,
          in_x - __builtin_convertvector(column, vec),
          in_y - __builtin_convertvector(row, vec),
          (at_x < -1.0f) | (at_x > last_x + 1) ? none : one,
          (at_y < -1.0f) | (at_y > last_y + 1) ? none : one};
}

inline vec4& cell(float* values, int64_t index) {
  return *reinterpret_cast<vec4*>(values + TOGETHER * index);
}

// bias: TOGETHER×BLOCK×M'.
void read_bias(const Attention& a, const Sizes& s, const Table& table, const float* y, const float* x,
               int64_t first, int64_t count, float* bias) {
  for (int64_t n = 0; n < count; ++n)
    for (int64_t j = 0; j < s.mp; j += WIDTH) {
      const Reading r = reading_of(a, table, a.grid + 2 * (first + n), y + j, x + j);
      float* to = bias + n * s.mp + j;
      for (int i = 0; i < WIDTH; ++i) {
        const int64_t c = r.cell[i], below = c + table.columns;
        const vec4 left = cell(table.values, c), right = cell(table.values, c + 1);
        const vec4 low_left = cell(table.values, below), low_right = cell(table.values, below + 1);
        const vec4 upper = left + r.right[i] * (right - left);
        const vec4 lower = low_left + r.right[i] * (low_right - low_left);
        const vec4 value = upper + r.down[i] * (lower - upper);
        for (int t = 0; t < TOGETHER; ++t) to[t * BLOCK * s.mp + i] = value[t];
      }
      if (j + WIDTH > s.m)
        for (int t = 0; t < TOGETHER; ++t)
          std::fill(to + t * BLOCK * s.mp + (s.m - j), to + t * BLOCK * s.mp + WIDTH, OUTSIDE);
    }
}

// Adds the gradients of table and points; dbias as `bias` above, dy and dx M each.
void read_bias_backward(const Attention& a, const Sizes& s, const Table& table, const float* y,
                        const float* x, int64_t first, int64_t count, const float* dbias, float* dy,
                        float* dx) {
  const float per_y = -0.25f * (a.table_rows - 1), per_x = -0.25f * (a.table_columns - 1);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t j = 0; j < s.m; j += WIDTH) {
      const Reading r = reading_of(a, table, a.grid + 2 * (first + n), y + j, x + j);
      const float* from = dbias + n * s.mp + j;
      vec to_y{}, to_x{};
      for (int i = 0; i < std::min<int64_t>(WIDTH, s.m - j); ++i) {
        vec4 g;
        for (int t = 0; t < TOGETHER; ++t) g[t] = from[t * BLOCK * s.mp + i];
        const float fx = r.right[i], fy = r.down[i];
        const int64_t c = r.cell[i], below = c + table.columns;
        const vec4 left = cell(table.values, c), right = cell(table.values, c + 1);
        const vec4 low_left = cell(table.values, below), low_right = cell(table.values, below + 1);
        const vec4 by_x = g * ((right - left) * (1 - fy) + (low_right - low_left) * fy);
        const vec4 by_y = g * ((low_left - left) * (1 - fx) + (low_right - right) * fx);
        to_x[i] = (by_x[0] + by_x[1]) + (by_x[2] + by_x[3]);
        to_y[i] = (by_y[0] + by_y[1]) + (by_y[2] + by_y[3]);
        const vec4 upper = g * (1 - fy), lower = g * fy;
        cell(table.gradients, c) += upper * (1 - fx);
        cell(table.gradients, c + 1) += upper * fx;
        cell(table.gradients, below) += lower * (1 - fx);
        cell(table.gradients, below + 1) += lower * fx;
      }
      at(dy + j) += to_y * r.inside_y * per_y;
      at(dx + j) += to_x * r.inside_x * per_x;
    }
}

void sampled(const Attention& a, bool backward, int64_t threads) {
  const Sizes s(a, backward);
  const int64_t in_group = a.heads / a.groups, chunks = (in_group + TOGETHER - 1) / TOGETHER;
  const int64_t units = a.problems * a.groups;
  const int64_t area = a.table_rows * a.table_columns;
#pragma omp parallel num_threads(threads)
  {
    Table table(a);
    Scratch scratch(TOGETHER * (s.head() + table.cells * 2 + BLOCK * s.mp) + s.block() + 4 * s.mp +
                    256);
    Head heads[TOGETHER];
    for (Head& head : heads) head = take_head(scratch, s);
    Block block = take_block(scratch, s);
    table.values = scratch.take(TOGETHER * table.cells);
    table.gradients = backward ? scratch.take(TOGETHER * table.cells) : nullptr;
    float* bias = scratch.take(TOGETHER * BLOCK * s.mp);
    float *y = scratch.take(s.mp), *x = scratch.take(s.mp);
    float *dy = scratch.take(s.mp), *dx = scratch.take(s.mp);
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t problem = unit / a.groups, group = unit % a.groups;
      const float* points = a.points + unit * s.m * 2;
      for (int64_t m = 0; m < s.mp; ++m) {
        y[m] = m < s.m ? points[2 * m] : 0.0f;
        x[m] = m < s.m ? points[2 * m + 1] : 0.0f;
        dy[m] = dx[m] = 0.0f;
      }
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t h = group * in_group + chunk * TOGETHER;
        const int64_t together = std::min<int64_t>(TOGETHER, in_group - chunk * TOGETHER);
        std::fill(table.values, table.values + TOGETHER * table.cells, 0.0f);
        for (int64_t t = 0; t < together; ++t)
          for (int64_t row = 0; row < a.table_rows; ++row)
            for (int64_t column = 0; column < a.table_columns; ++column)
              table.values[TOGETHER * ((row + 1) * table.columns + column + 1) + t] =
                  a.table[(h + t) * area + row * a.table_columns + column];
        if (backward) std::fill(table.gradients, table.gradients + TOGETHER * table.cells, 0.0f);
        for (int64_t t = 0; t < together; ++t)
          load(heads[t], a, s, problem, h + t);
        for (int64_t first = 0; first < a.queries; first += BLOCK) {
          const int64_t count = std::min<int64_t>(BLOCK, a.queries - first);
          read_bias(a, s, table, y, x, first, count, bias);
          for (int64_t t = 0; t < together; ++t) {
            float* of_head = bias + t * BLOCK * s.mp;
            if (!backward) {
              forward_block(a, s, heads[t], block, problem, h + t, first, count, of_head);
              continue;
            }
            backward_block(a, s, heads[t], block, problem, h + t, first, count, of_head);
            std::memcpy(of_head, block.ds, 4 * count * s.mp);
          }
          if (!backward) continue;
          std::fill(bias + together * BLOCK * s.mp, bias + TOGETHER * BLOCK * s.mp, 0.0f);
          read_bias_backward(a, s, table, y, x, first, count, bias, dy, dx);
        }
        if (!backward) continue;
        for (int64_t t = 0; t < together; ++t) {
          store(heads[t], a, s, problem, h + t);
          float* to = a.dtable + (problem * a.heads + h + t) * area;
          for (int64_t row = 0; row < a.table_rows; ++row)
            for (int64_t column = 0; column < a.table_columns; ++column)
              to[row * a.table_columns + column] =
                  table.gradients[TOGETHER * ((row + 1) * table.columns + column + 1) + t];
        }
      }
      if (!backward) continue;
      float* to = a.dpoints + unit * s.m * 2;
      for (int64_t m = 0; m < s.m; ++m) to[2 * m] = dy[m], to[2 * m + 1] = dx[m];
    }
  }
}

}  // namespace

extern "C" void attention(const Attention* a, int64_t backward, int64_t threads) {
  if (a->table)
    sampled(*a, backward, threads);
  else
    dense(*a, backward, threads);
}
