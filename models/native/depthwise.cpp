// Depthwise convolution of channels-last maps whose groups of channels share their weights, and its
// gradients. Odd kernel, padded by half of it with zeros.

#include <algorithm>
#include <cstdint>

struct Depthwise {  // what depthwise.py hands over
  int64_t images, side, groups, channels, kernel, stride;
};

namespace {

// Calls visit(tap, input row, output row) for all places where a tap of the kernel meets the map.
template <typename Visit>
void each_tap(const Depthwise& d, Visit visit) {
  const int64_t out_side = (d.side + d.stride - 1) / d.stride, reach = d.kernel / 2;
  for (int64_t y = 0; y < out_side; ++y)
    for (int64_t x = 0; x < out_side; ++x)
      for (int64_t i = 0; i < d.kernel; ++i)
        for (int64_t j = 0; j < d.kernel; ++j) {
          const int64_t row = y * d.stride + i - reach, column = x * d.stride + j - reach;
          if (row < 0 || row >= d.side || column < 0 || column >= d.side) continue;
          visit(i * d.kernel + j, row * d.side + column, y * out_side + x);
        }
}

}  // namespace

// x: images×side²×groups×channels, weight: kernel²×channels, bias: channels,
// result: images×(side/stride)²×groups×channels, as is `gradient` below.
extern "C" void depthwise(const Depthwise* d, const float* x, const float* weight, const float* bias,
                          float* result, int64_t threads) {
  const int64_t c = d->channels, row = d->groups * c, out_side = (d->side + d->stride - 1) / d->stride;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t unit = 0; unit < d->images * d->groups; ++unit) {
    const int64_t image = unit / d->groups, offset = unit % d->groups * c;
    const float* from = x + image * d->side * d->side * row + offset;
    float* to = result + image * out_side * out_side * row + offset;
    for (int64_t n = 0; n < out_side * out_side; ++n) std::copy(bias, bias + c, to + n * row);
    each_tap(*d, [&](int64_t tap, int64_t input, int64_t output) {
      const float *w = weight + tap * c, *read = from + input * row;
      float* sum = to + output * row;
#pragma omp simd
      for (int64_t i = 0; i < c; ++i) sum[i] += w[i] * read[i];
    });
  }
}

// of_x starts as zeros. of_weight: (images·groups)×kernel²×channels zeros, parts of a sum.
extern "C" void depthwise_gradient(const Depthwise* d, const float* x, const float* weight,
                                   const float* gradient, float* of_x, float* of_weight,
                                   int64_t threads) {
  const int64_t c = d->channels, row = d->groups * c, out_side = (d->side + d->stride - 1) / d->stride;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t unit = 0; unit < d->images * d->groups; ++unit) {
    const int64_t image = unit / d->groups, offset = unit % d->groups * c;
    const int64_t start = image * d->side * d->side * row + offset;
    const float* from = gradient + image * out_side * out_side * row + offset;
    each_tap(*d, [&](int64_t tap, int64_t input, int64_t output) {
      const float *w = weight + tap * c, *read = x + start + input * row, *g = from + output * row;
      float *to_x = of_x + start + input * row, *to_w = of_weight + (unit * d->kernel * d->kernel + tap) * c;
#pragma omp simd
      for (int64_t i = 0; i < c; ++i) {
        to_x[i] += w[i] * g[i];
        to_w[i] += read[i] * g[i];
      }
    });
  }
}
