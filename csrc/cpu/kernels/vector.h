// Vectors of the widest register of the instruction set being compiled, as compiler extensions of
// GCC and Clang: arithmetic is written once and is SSE2, NEON, AVX2 or AVX-512 by compiler flag.
#pragma once

#include "problem.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

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

template <typename T>
constexpr int64_t kLanes = Lanes<T>::count;

// The integer of the same size as T, so that vectors of both have equally many lanes.
template <typename T>
struct Same;
template <>
struct Same<float> {
  typedef int32_t Integer;
};
template <>
struct Same<double> {
  typedef int64_t Integer;
};
template <typename T>
using Integer = typename Same<T>::Integer;

template <uint64_t kBytes>
struct Word;
template <>
struct Word<1> {
  typedef uint8_t Type;
};
template <>
struct Word<2> {
  typedef uint16_t Type;
};
template <>
struct Word<4> {
  typedef int32_t Type;
};
template <>
struct Word<8> {
  typedef int64_t Type;
};
// As many integers of a size as T has lanes.
template <typename T, uint64_t kBytes>
struct WordLanes {
  typedef typename Word<kBytes>::Type Vector __attribute__((vector_size(Lanes<T>::count * kBytes)));
};
template <typename T, uint64_t kBytes>
using Words = typename WordLanes<T, kBytes>::Vector;

template <typename T>
struct IntegerLanes {
  typedef Integer<T> Vector __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
};
template <typename T>
using IntegerVector = typename IntegerLanes<T>::Vector;

// Reads or writes small non-negative integers, one for each lane of T, narrowed modulo their size. Compilers break the
// general conversion into single elements where the sizes differ by more than a factor of two.
template <typename T, typename N>
TORCHBP_INLINE IntegerVector<T> widen(const N* from) {
  Words<T, sizeof(N)> narrow;
  __builtin_memcpy(&narrow, from, sizeof(narrow));
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && sizeof(N) == 1)
    return reinterpret_cast<IntegerVector<T>>(_mm512_cvtepu8_epi32(reinterpret_cast<__m128i>(narrow)));
  if constexpr (sizeof(T) == 4 && sizeof(N) == 2)
    return reinterpret_cast<IntegerVector<T>>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(narrow)));
  if constexpr (sizeof(T) == 8 && sizeof(N) == 1)
    return reinterpret_cast<IntegerVector<T>>(
        _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4 && sizeof(N) == 1)
    return reinterpret_cast<IntegerVector<T>>(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  if constexpr (sizeof(T) == 4 && sizeof(N) == 2)
    return reinterpret_cast<IntegerVector<T>>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(narrow)));
  if constexpr (sizeof(T) == 8 && sizeof(N) == 1) {
    int32_t bits;
    __builtin_memcpy(&bits, from, sizeof(bits));
    return reinterpret_cast<IntegerVector<T>>(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bits)));
  }
#endif
  if constexpr (sizeof(N) == 1 && sizeof(T) == 4)
    return __builtin_convertvector(__builtin_convertvector(narrow, Words<T, 2>), IntegerVector<T>);
  return __builtin_convertvector(narrow, IntegerVector<T>);
}

template <typename T, typename N>
TORCHBP_INLINE void narrow(const IntegerVector<T>& v, N* to) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && sizeof(N) == 1)
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(v)));
  if constexpr (sizeof(T) == 4 && sizeof(N) == 2)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(v)));
  if constexpr (sizeof(T) == 8 && sizeof(N) == 1)
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm512_cvtepi64_epi8(reinterpret_cast<__m512i>(v)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4 && sizeof(N) <= 2) {
    const IntegerVector<T> low = v & (sizeof(N) == 1 ? 0xff : 0xffff);
    const __m256i whole = reinterpret_cast<__m256i>(low);
    const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    if constexpr (sizeof(N) == 2) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(half, half));
  }
#endif
  if constexpr (sizeof(N) == sizeof(Integer<T>)) {
    __builtin_memcpy(to, &v, sizeof(v));
  } else if constexpr (sizeof(N) == 1 && sizeof(T) == 4) {
    const Words<T, 1> words = __builtin_convertvector(__builtin_convertvector(v, Words<T, 2>), Words<T, 1>);
    __builtin_memcpy(to, &words, sizeof(words));
  } else {
    const Words<T, sizeof(N)> words = __builtin_convertvector(v, Words<T, sizeof(N)>);
    __builtin_memcpy(to, &words, sizeof(words));
  }
}

TORCHBP_INLINE float value_of(float v) { return v; }
TORCHBP_INLINE double value_of(double v) { return v; }
TORCHBP_INLINE float value_of(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

TORCHBP_INLINE void set_value(float* to, float v) { *to = v; }
TORCHBP_INLINE void set_value(double* to, double v) { *to = v; }
TORCHBP_INLINE void set_value(BFloat16* to, float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof(bits));
  to->bits = v != v ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

TORCHBP_INLINE Vector<float> load_values(const float* from) { return load(from); }
TORCHBP_INLINE Vector<double> load_values(const double* from) { return load(from); }
TORCHBP_INLINE Vector<float> load_values(const BFloat16* from) {
  typedef uint32_t Wide __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
  return reinterpret_cast<Vector<float>>(reinterpret_cast<Wide>(widen<float>(&from->bits)) << 16);
}

TORCHBP_INLINE void store_values(float* to, const Vector<float>& v) { store(to, v); }
TORCHBP_INLINE void store_values(double* to, const Vector<double>& v) { store(to, v); }
// Rounded to nearest, ties to even; a NaN becomes the quiet NaN.
TORCHBP_INLINE void store_values(BFloat16* to, const Vector<float>& v) {
  typedef uint32_t Wide __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
  const Wide bits = reinterpret_cast<Wide>(v);
  const Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Wide quiet = rounded * 0 + 0x7fc0;
  narrow<float>(reinterpret_cast<IntegerVector<float>>(v != v ? quiet : rounded), &to->bits);
}

// The elements at these places of two vectors, one after the other.
#if defined(__clang__) || __GNUC__ >= 12
#define TORCHBP_SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define TORCHBP_SHUFFLED(a, b, ...) __builtin_shuffle(a, b, decltype(a < b){__VA_ARGS__})
#endif

// Of 2 n consecutive elements a and b: those at even places, those at odd places; and the inverse.
#define TORCHBP_SHUFFLE(name, two, four, eight, sixteen)        \
  template <typename V>                                         \
  TORCHBP_INLINE V name(const V& a, const V& b) {               \
    constexpr int64_t lanes = sizeof(V) / sizeof(a[0]);         \
    if constexpr (lanes == 2) return TORCHBP_SHUFFLED two;      \
    if constexpr (lanes == 4) return TORCHBP_SHUFFLED four;     \
    if constexpr (lanes == 8) return TORCHBP_SHUFFLED eight;    \
    if constexpr (lanes == 16) return TORCHBP_SHUFFLED sixteen; \
  }
TORCHBP_SHUFFLE(even_places, (a, b, 0, 2), (a, b, 0, 2, 4, 6), (a, b, 0, 2, 4, 6, 8, 10, 12, 14),
                (a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30))
TORCHBP_SHUFFLE(odd_places, (a, b, 1, 3), (a, b, 1, 3, 5, 7), (a, b, 1, 3, 5, 7, 9, 11, 13, 15),
                (a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31))
TORCHBP_SHUFFLE(first_of_pairs, (a, b, 0, 2), (a, b, 0, 4, 1, 5), (a, b, 0, 8, 1, 9, 2, 10, 3, 11),
                (a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23))
TORCHBP_SHUFFLE(rest_of_pairs, (a, b, 1, 3), (a, b, 2, 6, 3, 7), (a, b, 4, 12, 5, 13, 6, 14, 7, 15),
                (a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))
#undef TORCHBP_SHUFFLE

// rows[i][j] becomes rows[j][i]. Interleaving the two halves of the rows rotates the bits of (i, j) by one.
template <typename T>
TORCHBP_INLINE void transpose(Vector<T>* rows) {
  constexpr int lanes = Lanes<T>::count, half = lanes / 2;
#pragma GCC unroll 4
  for (int round = 1; round < lanes; round *= 2) {
    Vector<T> turned[lanes];
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      turned[2 * i] = first_of_pairs(rows[i], rows[i + half]);
      turned[2 * i + 1] = rest_of_pairs(rows[i], rows[i + half]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = turned[i];
  }
}

// Reads a vector, or what of it lies before `limit`.
template <typename S, bool kChecked>
TORCHBP_INLINE Vector<Compute<S>> load_before(const S* from, const S* limit) {
  if constexpr (!kChecked) return load_values(from);
  if (limit - from >= kLanes<Compute<S>>) return load_values(from);
  Vector<Compute<S>> v = {};
  for (int64_t lane = 0; lane < limit - from; ++lane) v[lane] = value_of(from[lane]);
  return v;
}

// Writes a vector, or the `count` elements that matter where there is no room for all of it.
template <typename S>
TORCHBP_INLINE void store_before(S* to, const Vector<Compute<S>>& v, int64_t count, int64_t room) {
  if (room >= kLanes<Compute<S>>)
    store_values(to, v);
  else
    for (int64_t lane = 0; lane < smaller(count, kLanes<Compute<S>>); ++lane) set_value(to + lane, v[lane]);
}

// Division rounded up and down; the divisor is positive, the dividend may be negative. Dividing by one,
// or two, the usual steps, costs no division.
TORCHBP_INLINE int64_t divide_down(int64_t a, int64_t b) {
  if (b == 1) return a;
  if (b == 2) return a >> 1;
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
