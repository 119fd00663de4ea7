// Bilinear sampling of channels-last maps at points of each group of channels, and its gradients.
// Coordinates are (y, x) in [-1, 1], the centres of the first and last cells; outside is zero.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

struct Tap {  // one of the four cells around a point; outside of the map its weight is zero
  int64_t cell;
  float weight, by_y, by_x;  // its share, and the share's derivatives by the point's coordinates
};

void taps_of(const float* point, int64_t height, int64_t width, Tap* taps) {
  const float per_y = 0.5f * (height - 1), per_x = 0.5f * (width - 1);
  // What is far outside must not overflow an integer.
  const float y = std::min(std::max((point[0] + 1) * per_y, -2.0f), height + 1.0f);
  const float x = std::min(std::max((point[1] + 1) * per_x, -2.0f), width + 1.0f);
  const float top = std::floor(y), left = std::floor(x);
  for (int t = 0; t < 4; ++t) {
    const int down = t / 2, right = t % 2;
    const int64_t row = static_cast<int64_t>(top) + down, column = static_cast<int64_t>(left) + right;
    if (row < 0 || row >= height || column < 0 || column >= width) {
      taps[t] = {0, 0.0f, 0.0f, 0.0f};
      continue;
    }
    const float share_y = down ? y - top : 1 - (y - top), share_x = right ? x - left : 1 - (x - left);
    taps[t] = {row * width + column, share_y * share_x, (down ? share_x : -share_x) * per_y,
               (right ? share_y : -share_y) * per_x};
  }
}

}  // namespace

// maps: images×(height·width)×(groups·channels), points: images×groups×count×2,
// result: images×count×(groups·channels).
extern "C" void sample(const float* maps, const float* points, float* result, int64_t images, int64_t height,
                       int64_t width, int64_t groups, int64_t channels, int64_t count, int64_t threads) {
  const int64_t row = groups * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t unit = 0; unit < images * groups; ++unit) {
    const int64_t image = unit / groups, offset = unit % groups * channels;
    const float* map = maps + image * height * width * row + offset;
    for (int64_t n = 0; n < count; ++n) {
      Tap taps[4];
      taps_of(points + 2 * (unit * count + n), height, width, taps);
      float* to = result + (image * count + n) * row + offset;
      const float *a = map + taps[0].cell * row, *b = map + taps[1].cell * row;
      const float *c = map + taps[2].cell * row, *d = map + taps[3].cell * row;
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i)
        to[i] = taps[0].weight * a[i] + taps[1].weight * b[i] + taps[2].weight * c[i] + taps[3].weight * d[i];
    }
  }
}

// Adds to of_maps, which starts as zeros, and writes of_points.
extern "C" void sample_gradient(const float* maps, const float* points, const float* gradient, float* of_maps,
                                float* of_points, int64_t images, int64_t height, int64_t width, int64_t groups,
                                int64_t channels, int64_t count, int64_t threads) {
  const int64_t row = groups * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t unit = 0; unit < images * groups; ++unit) {
    const int64_t image = unit / groups, offset = unit % groups * channels;
    const int64_t start = image * height * width * row + offset;
    for (int64_t n = 0; n < count; ++n) {
      Tap taps[4];
      taps_of(points + 2 * (unit * count + n), height, width, taps);
      const float* from = gradient + (image * count + n) * row + offset;
      float by_y = 0, by_x = 0;
      for (const Tap& tap : taps) {
        if (tap.weight == 0 && tap.by_y == 0 && tap.by_x == 0) continue;
        const float* map = maps + start + tap.cell * row;
        float* to = of_maps + start + tap.cell * row;
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (int64_t i = 0; i < channels; ++i) {
          product += from[i] * map[i];
          to[i] += tap.weight * from[i];
        }
        by_y += tap.by_y * product;
        by_x += tap.by_x * product;
      }
      of_points[2 * (unit * count + n)] = by_y;
      of_points[2 * (unit * count + n) + 1] = by_x;
    }
  }
}
