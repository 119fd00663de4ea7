// GELU, x·Φ(x) with the exact Φ of the normal distribution, and its derivative Φ(x) + x·φ(x).

#pragma once

#include "vectors.h"

// erf(x) to 3e-7, by the rational function of Eigen (generic_fast_erf_float), which is odd.
inline vec error_function(vec x) {
  x = clamped(x, 4.0f);
  const vec p = polynomial(x * x, -2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f,
                           -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                           -1.60960333262415e-02f);
  const vec q = polynomial(x * x, -1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                           -7.37332916720468e-03f, -1.42647390514189e-02f);
  return x * p / q;
}

inline vec cumulative(vec x) { return error_function(x * 0.70710678118654752f) * 0.5f + 0.5f; }

inline vec gelu_of(vec x) { return x * cumulative(x); }

// Less ½ it is odd: an own rational function of x² on [−6, 6], 5e-9 off (least squares, reweighted until
// the largest error was smallest), 3e-7 as floats; farther out it is what it is there.
inline vec gelu_derivative(vec x) {
  x = clamped(x, 6.0f);
  const vec p = polynomial(x * x, -2.8880158292377833e-11f, 1.3002976216170307e-08f, 1.1219258464730617e-06f,
                           3.202717762528988e-05f, 2.85221029102308e-04f, 1.356901730230603e-02f,
                           -1.8038178324363267e-02f, 7.978845224561257e-01f);
  const vec q = polynomial(x * x, 3.6363372814517595e-07f, 1.0812203569398579e-05f, 2.5860539443840855e-04f,
                           4.150211543616644e-03f, 4.5582759411807505e-02f, 3.107253463830806e-01f, 1.0f);
  return x * p / q + 0.5f;
}
