// Parts of vectors: some of the lanes, and pieces of 16 bytes.
#pragma once

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {

// ---------------------------------------------------------------------------------------------
// Some lanes: nothing is read or written of the others

template <typename T>
TORCHBP_INLINE IntegerVector<T> lane_numbers() {
  IntegerVector<T> lane;
  for (int64_t i = 0; i < Lanes<T>::count; ++i) lane[i] = static_cast<Integer<T>>(i);
  return lane;
}

#if TORCHBP_VECTOR_BYTES == 64
template <typename T>
using Mask = uint16_t;
#else
template <typename T>
using Mask = IntegerVector<T>;
#endif

// Lanes first .. last - 1.
template <typename T>
TORCHBP_INLINE Mask<T> mask_of(int64_t first, int64_t last) {
  first = smaller(kLanes<T>, larger(0, first));
  last = smaller(kLanes<T>, larger(first, last));
#if TORCHBP_VECTOR_BYTES == 64
  return static_cast<uint16_t>((uint32_t{1} << last) - (uint32_t{1} << first));
#else
  Mask<T> mask = {};
  for (int64_t lane = first; lane < last; ++lane) mask[lane] = -1;
  return mask;
#endif
}

template <typename T>
TORCHBP_INLINE Mask<T> first_lanes(int64_t count) {
#if TORCHBP_VECTOR_BYTES == 64
  return static_cast<uint16_t>((uint32_t{1} << count) - 1);
#else
  return lane_numbers<T>() < static_cast<Integer<T>>(count);
#endif
}

// The lanes of a mask; zeros elsewhere.
template <typename T>
TORCHBP_INLINE Vector<T> load_masked(const T* from, const Mask<T>& mask) {
#if TORCHBP_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm512_maskz_loadu_ps(mask, from));
  else
    return reinterpret_cast<Vector<T>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), from));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<Vector<T>>(_mm256_maskload_ps(from, reinterpret_cast<__m256i>(mask)));
  else
    return reinterpret_cast<Vector<T>>(_mm256_maskload_pd(from, reinterpret_cast<__m256i>(mask)));
#else
  Vector<T> v = {};
  for (int64_t lane = 0; lane < kLanes<T>; ++lane)
    if (mask[lane]) v[lane] = from[lane];
  return v;
#endif
}

template <typename T>
TORCHBP_INLINE void store_masked(T* to, const Vector<T>& v, const Mask<T>& mask) {
#if TORCHBP_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, mask, reinterpret_cast<__m512>(v));
  else
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    _mm256_maskstore_ps(to, reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256>(v));
  else
    _mm256_maskstore_pd(to, reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256d>(v));
#else
  for (int64_t lane = 0; lane < kLanes<T>; ++lane)
    if (mask[lane]) to[lane] = v[lane];
#endif
}

// The first `count` elements; zeros elsewhere.
template <typename T>
TORCHBP_INLINE Vector<T> load_first(const T* from, int64_t count) {
#if defined(__AVX2__)
  return load_masked<T>(from, first_lanes<T>(count));
#else
  Vector<T> v = {};
  __builtin_memcpy(&v, from, static_cast<uint64_t>(count) * sizeof(T));
  return v;
#endif
}

template <typename T>
TORCHBP_INLINE void store_first(T* to, const Vector<T>& v, int64_t count) {
#if defined(__AVX2__)
  store_masked<T>(to, v, first_lanes<T>(count));
#else
  __builtin_memcpy(to, &v, static_cast<uint64_t>(count) * sizeof(T));
#endif
}

// ---------------------------------------------------------------------------------------------
// Pieces

// Elements of a piece of 16 bytes.
template <typename T>
constexpr int64_t kPiece = 16 / static_cast<int64_t>(sizeof(T));

template <typename T>
struct PieceLanes {
  typedef T Vector __attribute__((vector_size(16)));
};
template <typename T>
using Piece = typename PieceLanes<T>::Vector;

TORCHBP_INLINE Piece<float> load_piece(const float* from) {
  Piece<float> piece;
  __builtin_memcpy(&piece, from, sizeof(piece));
  return piece;
}
TORCHBP_INLINE Piece<double> load_piece(const double* from) {
  Piece<double> piece;
  __builtin_memcpy(&piece, from, sizeof(piece));
  return piece;
}
// A vector of the pieces that read(0), read(1), ... return.
template <typename T, typename Read>
TORCHBP_INLINE Vector<T> join(const Read& read) {
#if defined(__AVX512F__)
  __m512 joined = _mm512_castps128_ps512(reinterpret_cast<__m128>(read(0)));
  joined = _mm512_insertf32x4(joined, reinterpret_cast<__m128>(read(1)), 1);
  joined = _mm512_insertf32x4(joined, reinterpret_cast<__m128>(read(2)), 2);
  return reinterpret_cast<Vector<T>>(_mm512_insertf32x4(joined, reinterpret_cast<__m128>(read(3)), 3));
#elif defined(__AVX2__)
  const __m256 first = _mm256_castps128_ps256(reinterpret_cast<__m128>(read(0)));
  return reinterpret_cast<Vector<T>>(_mm256_insertf128_ps(first, reinterpret_cast<__m128>(read(1)), 1));
#else
  return reinterpret_cast<Vector<T>>(read(0));
#endif
}

// Elements of each piece of a and b by turns: those of the first half, and those of the second.
#define TORCHBP_SHUFFLE_PIECES(name, two, four, eight, wide, wider, widest) \
  template <typename V>                                                     \
  TORCHBP_INLINE V name(const V& a, const V& b) {                           \
    constexpr int64_t lanes = sizeof(V) / sizeof(a[0]);                     \
    if constexpr (sizeof(a[0]) == 8) {                                      \
      if constexpr (lanes == 2) return TORCHBP_SHUFFLED two;                \
      if constexpr (lanes == 4) return TORCHBP_SHUFFLED four;               \
      if constexpr (lanes == 8) return TORCHBP_SHUFFLED eight;              \
    } else {                                                                \
      if constexpr (lanes == 4) return TORCHBP_SHUFFLED wide;               \
      if constexpr (lanes == 8) return TORCHBP_SHUFFLED wider;              \
      if constexpr (lanes == 16) return TORCHBP_SHUFFLED widest;            \
    }                                                                       \
  }
TORCHBP_SHUFFLE_PIECES(first_of_pieces, (a, b, 0, 2), (a, b, 0, 4, 2, 6), (a, b, 0, 8, 2, 10, 4, 12, 6, 14),
                       (a, b, 0, 4, 1, 5), (a, b, 0, 8, 1, 9, 4, 12, 5, 13),
                       (a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29))
TORCHBP_SHUFFLE_PIECES(rest_of_pieces, (a, b, 1, 3), (a, b, 1, 5, 3, 7), (a, b, 1, 9, 3, 11, 5, 13, 7, 15),
                       (a, b, 2, 6, 3, 7), (a, b, 2, 10, 3, 11, 6, 14, 7, 15),
                       (a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31))
#undef TORCHBP_SHUFFLE_PIECES

// Transposes the square that row after row's pieces make, for each piece by itself.
template <typename T>
TORCHBP_INLINE void transpose_pieces(Vector<T>* rows) {
  if constexpr (kPiece<T> == 2) {
    const Vector<T> first = first_of_pieces(rows[0], rows[1]);
    rows[1] = rest_of_pieces(rows[0], rows[1]);
    rows[0] = first;
  } else {
    typedef Vector<double> Wide;
    Wide mixed[4];
    for (int64_t i = 0; i < 4; i += 2) {
      mixed[i] = reinterpret_cast<Wide>(first_of_pieces(rows[i], rows[i + 1]));
      mixed[i + 1] = reinterpret_cast<Wide>(rest_of_pieces(rows[i], rows[i + 1]));
    }
    for (int64_t i = 0; i < 2; ++i) {
      rows[2 * i] = reinterpret_cast<Vector<T>>(first_of_pieces(mixed[i], mixed[i + 2]));
      rows[2 * i + 1] = reinterpret_cast<Vector<T>>(rest_of_pieces(mixed[i], mixed[i + 2]));
    }
  }
}

// to[column][row] = from[row][column], each with rows of consecutive elements a step apart.
template <typename T>
TORCHBP_INLINE void copy_transposed(const T* from, int64_t step, int64_t rows, int64_t columns, T* to,
                                    int64_t to_step) {
  constexpr int64_t lanes = Lanes<T>::count, square = kPiece<T>;
  if (columns < square) {
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t row = 0; row < rows; ++row) to[column * to_step + row] = from[row * step + column];
    return;
  }
  for (int64_t row = 0; row < rows; row += lanes) {
    const int64_t high = smaller(lanes, rows - row);
    int64_t offset[square][lanes / square];  // where there are no rows left, of the last one
    for (int64_t i = 0; i < lanes; ++i) offset[i % square][i / square] = (row + smaller(i, high - 1)) * step;
    for (int64_t next = 0; next < columns; next += square) {
      const int64_t column = smaller(next, columns - square);
      Vector<T> block[square];
      for (int64_t i = 0; i < square; ++i)
        block[i] = join<T>([&](int64_t k) { return load_piece(from + column + offset[i][k]); });
      transpose_pieces<T>(block);
      T* out = to + column * to_step + row;
      for (int64_t i = 0; i < square; ++i) {
        if (high == lanes)
          store<T>(out + i * to_step, block[i]);
        else
          store_first<T>(out + i * to_step, block[i], high);
      }
    }
  }
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
