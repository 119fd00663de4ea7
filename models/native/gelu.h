// GELU, x·Φ(x) with the exact Φ of the normal distribution, and its derivative Φ(x) + x·φ(x).

#pragma once

#include "vectors.h"

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

inline vec gelu_of(vec x) { return x * cumulative(x); }

inline vec gelu_derivative(vec x) {
  const vec density = exponential(x * x * -0.5f) * 0.39894228040143268f;
  return cumulative(x) + x * density;
}
