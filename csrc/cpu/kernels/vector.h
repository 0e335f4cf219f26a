// Vectors of the widest register of the instruction set being compiled, as compiler extensions of
// GCC and Clang: arithmetic is written once and is SSE2, NEON, AVX2 or AVX-512 by compiler flag.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#define TORCHBP_VECTOR_BYTES 64
#define TORCHBP_TILE_ROWS 12
#elif defined(__AVX2__)
#define TORCHBP_VECTOR_BYTES 32
#define TORCHBP_TILE_ROWS 6
#else
#define TORCHBP_VECTOR_BYTES 16
#define TORCHBP_TILE_ROWS 6
#endif

#define TORCHBP_INLINE inline __attribute__((always_inline))

namespace torchbp {
namespace TORCHBP_ISA {

template <typename T>
struct Lanes {
  static constexpr int64_t count = TORCHBP_VECTOR_BYTES / static_cast<int64_t>(sizeof(T));
  typedef T Vector __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
};

template <typename T>
using Vector = typename Lanes<T>::Vector;

template <typename T>
TORCHBP_INLINE Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
TORCHBP_INLINE void store(T* to, const Vector<T>& v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

TORCHBP_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
TORCHBP_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Division rounded up and down; the divisor is positive, the dividend may be negative. Dividing by one,
// the usual step, costs no division.
TORCHBP_INLINE int64_t divide_down(int64_t a, int64_t b) {
  if (b == 1) return a;
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}
TORCHBP_INLINE int64_t divide_up(int64_t a, int64_t b) { return -divide_down(-a, b); }

// Positions q in [first, last) along an axis whose source coordinate step * q + offset lies inside
// [0, size).
struct Range {
  int64_t first;
  int64_t last;
};

TORCHBP_INLINE Range valid_range(int64_t grid, int64_t step, int64_t offset, int64_t size) {
  const int64_t first = larger(0, divide_up(-offset, step));
  const int64_t last = smaller(grid, divide_down(size - 1 - offset, step) + 1);
  return {first, larger(first, last)};
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
