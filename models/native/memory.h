// Memory for vectors, freed when it goes out of scope.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

using Memory = std::unique_ptr<float, decltype(&std::free)>;

inline Memory memory(int64_t floats) {
  return {static_cast<float*>(std::aligned_alloc(64, (4 * floats + 127) / 64 * 64)), std::free};
}
