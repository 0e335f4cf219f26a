// How pools cut their planes into tasks that write disjoint outputs. The cuts depend on sizes only.
#pragma once

#include "parts.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace torchbp {
namespace TORCHBP_ISA {

TORCHBP_INLINE int64_t volume(const int64_t* size) { return size[0] * size[1] * size[2]; }

// Rows [first, last) at one depth of a plane, or of an image.
struct Band {
  int64_t outer;
  int64_t depth;
  int64_t first;
  int64_t last;
};

// Few planes are cut into bands, of at least this many rows where there are so many.
constexpr int64_t kBandRows = 4;
constexpr int64_t kEnoughBands = 64;

TORCHBP_INLINE int64_t bands_of(int64_t outer, const int64_t* size) {
  const int64_t planes = larger(1, outer * size[0]);
  return larger(1, smaller((kEnoughBands + planes - 1) / planes, size[1] / kBandRows));
}

TORCHBP_INLINE int64_t band_tasks(int64_t outer, const int64_t* size) {
  return outer * size[0] * bands_of(outer, size);
}

TORCHBP_INLINE Band band_of(int64_t outer, const int64_t* size, int64_t task) {
  const int64_t bands = bands_of(outer, size), band = task % bands, plane = task / bands;
  return {plane / size[0], plane % size[0], band * size[1] / bands, (band + 1) * size[1] / bands};
}

// Channels of one task of a channels-last tensor.
constexpr int64_t kChannels = 64;

template <typename Problem>
int64_t channel_blocks(const Problem& problem) {
  return larger(1, (problem.inner + kChannels - 1) / kChannels);
}

template <typename Problem>
int64_t slice_tasks(const Problem& problem) {
  return problem.outer * channel_blocks(problem);
}

// A plane, or a block of channels of an image.
struct Slice {
  int64_t input;  // offset of the first element
  int64_t output;
  int64_t channels;
};

template <typename Problem>
TORCHBP_INLINE Slice slice_of(const Problem& problem, int64_t task) {
  const int64_t blocks = channel_blocks(problem), first = task % blocks * kChannels, outer = task / blocks;
  return {outer * volume(problem.input) * problem.inner + first, outer * volume(problem.output) * problem.inner + first,
          smaller(kChannels, problem.inner - first)};
}

template <typename T>
void clear(T* __restrict__ to, int64_t pixels, int64_t inner, int64_t channels) {
  if (channels == inner) {
    for (int64_t i = 0; i < pixels * inner; ++i) to[i] = T{};
    return;
  }
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < channels; ++c) to[i * inner + c] = T{};
}

// Fetches what follows the next `elements` some rows further on: the processor does not follow the rows of a window.
template <typename S>
TORCHBP_INLINE void fetch_ahead(const S* from, int64_t elements) {
  constexpr int64_t kAhead = 4096, kLine = 64;  // bytes
  const char* at = reinterpret_cast<const char*>(from) + kAhead;
  for (const char* end = at + elements * static_cast<int64_t>(sizeof(S)); at < end; at += kLine)
    __builtin_prefetch(at, 0, 3);
}

// Results that no cache holds are written past it: a cache line is not read before it is overwritten.
constexpr int64_t kStreamed = 32 << 20;  // bytes from which on that pays

// Whether a tensor of so many elements in rows of `length` is so large, and every vector of a row aligned.
template <typename S>
TORCHBP_INLINE bool streams(const S* to, int64_t elements, int64_t length) {
#if defined(__SSE2__)
  constexpr int64_t size = static_cast<int64_t>(sizeof(S));
  return sizeof(S) >= 4 && elements * size >= kStreamed && length * size % TORCHBP_VECTOR_BYTES == 0 &&
         reinterpret_cast<uintptr_t>(to) % TORCHBP_VECTOR_BYTES == 0;
#else
  return false;
#endif
}

// store_before, past the cache if `stream`.
template <typename S>
TORCHBP_INLINE void store_result(S* to, const Vector<Compute<S>>& v, int64_t count, int64_t room, bool stream) {
#if defined(__AVX512F__)
  if (sizeof(S) >= 4 && stream) return _mm512_stream_ps(reinterpret_cast<float*>(to), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  if (sizeof(S) >= 4 && stream) return _mm256_stream_ps(reinterpret_cast<float*>(to), reinterpret_cast<__m256>(v));
#elif defined(__SSE2__)
  if (sizeof(S) >= 4 && stream) return _mm_stream_ps(reinterpret_cast<float*>(to), reinterpret_cast<__m128>(v));
#endif
  store_before(to, v, count, room);
}

// Orders what was streamed before what follows.
TORCHBP_INLINE void end_stream(bool stream) {
#if defined(__SSE2__)
  if (stream) _mm_sfence();
#endif
}

// A vector, or what of it lies in [begin, end).
template <typename S>
TORCHBP_INLINE Vector<Compute<S>> load_inside(const S* from, const S* begin, const S* end) {
  if (from >= begin && end - from >= kLanes<Compute<S>>) return load_values(from);
  Vector<Compute<S>> v = {};
  for (int64_t lane = 0; lane < kLanes<Compute<S>>; ++lane)
    if (from + lane >= begin && from + lane < end) v[lane] = value_of(from[lane]);
  return v;
}

// How a vector of windows is read: as it is; where some windows reach beyond the row; where vectors may reach beyond
// the tensor as well.
enum Reading { kPlain, kBeyondRow, kBeyondTensor };

// The tensor, and the columns [low, high) from the first window's on that are inside the row.
template <typename S>
struct Edge {
  const S* begin;
  const S* end;
  int64_t low;
  int64_t high;
};

// Small planes of a contiguous tensor leave vectors along the width half empty. As many planes as a vector has lanes
// are turned into one image with the planes as its channels instead.

// Whether a vector's lanes of planes fit into so many bytes.
template <typename T, typename Problem>
TORCHBP_INLINE bool planes_fit(const Problem& p, int64_t bytes) {
  const int64_t elements = volume(p.input) + 2 * volume(p.output);
  return p.inner == 1 && p.outer > 1 && elements * kLanes<T> * static_cast<int64_t>(sizeof(T)) <= bytes;
}

// Planes are turned in blocks: of as many elements as a piece holds, and of as many planes as a vector has lanes.

// Elements of an image made of planes of `elements`, with room for whole blocks of them.
template <typename T>
TORCHBP_INLINE int64_t image_size(int64_t elements) {
  return (elements + 4) * kLanes<T>;
}

TORCHBP_INLINE Piece<float> load_piece(const BFloat16* from) {
  return Piece<float>{value_of(from[0]), value_of(from[1]), value_of(from[2]), value_of(from[3])};
}

TORCHBP_INLINE void store_piece(float* to, const float* piece) { __builtin_memcpy(to, piece, 16); }
TORCHBP_INLINE void store_piece(double* to, const double* piece) { __builtin_memcpy(to, piece, 16); }
TORCHBP_INLINE void store_piece(BFloat16* to, const float* piece) {
  for (int64_t i = 0; i < kPiece<float>; ++i) set_value(to + i, piece[i]);
}

// A piece, or what of it lies before `limit`.
template <typename S>
TORCHBP_INLINE Piece<Compute<S>> load_piece_before(const S* from, const S* limit) {
  if (limit - from >= kPiece<Compute<S>>) return load_piece(from);
  Piece<Compute<S>> piece = {};
  for (int64_t i = 0; i < limit - from; ++i) piece[i] = value_of(from[i]);
  return piece;
}

// Keeps the compiler from making a pointer of its own, which it has no register for, of every multiple of a pitch.
TORCHBP_INLINE int64_t opaque(int64_t pitch) {
  __asm__("" : "+r"(pitch));
  return pitch;
}

// Turns planes that follow each other into an image: image[e][plane] = from[plane][e]. Missing planes repeat the last.
template <typename S>
TORCHBP_INLINE void planes_to_image(int64_t planes, int64_t elements, const S* from, const S* limit,
                                    Compute<S>* image) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>, piece = kPiece<T>;
  for (int64_t e = 0; e < elements; e += piece) {
    Vector<T> rows[piece];
    const int64_t pitch = opaque(elements);
    if (planes == lanes && limit - from >= (lanes - 1) * elements + e + piece) {
      for (int64_t row = 0; row < piece; ++row)
        rows[row] = join<T>([&](int64_t i) { return load_piece(from + e + row * pitch + i * piece * pitch); });
    } else {
      for (int64_t row = 0; row < piece; ++row)
        rows[row] = join<T>([&](int64_t i) {
          return load_piece_before(from + smaller(i * piece + row, planes - 1) * elements + e, limit);
        });
    }
    transpose_pieces<T>(rows);
    for (int64_t i = 0; i < piece; ++i) store(image + (e + i) * lanes, rows[i]);
  }
}

// Turns an image into planes that follow each other.
template <typename S>
TORCHBP_INLINE void image_to_planes(int64_t planes, int64_t elements, const Compute<S>* image, S* to) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>, piece = kPiece<T>;
  for (int64_t e = 0; e < elements; e += piece) {
    Vector<T> rows[piece];
    for (int64_t i = 0; i < piece; ++i) rows[i] = load(image + (e + i) * lanes);
    transpose_pieces<T>(rows);
    T values[piece * lanes];
    for (int64_t i = 0; i < piece; ++i) store(values + i * lanes, rows[i]);
    const int64_t pitch = opaque(elements);
    S* at = to + e;
    if (planes == lanes && e + piece <= elements)
      for (int64_t i = 0; i < lanes; i += piece)
        for (int64_t row = 0; row < piece; ++row, at += pitch) store_piece(at, values + row * lanes + i);
    else
      for (int64_t plane = 0; plane < planes; ++plane, at += pitch)
        for (int64_t k = 0; k < smaller(piece, elements - e); ++k)
          set_value(at + k, values[plane % piece * lanes + plane / piece * piece + k]);
  }
}

// The same for the places of winners. As bytes, four of a plane at a time are one integer of a vector.
constexpr int64_t kPlaces = 4;

template <typename T, typename W>
void places_to_image(int64_t planes, int64_t elements, const W* from, const W* limit, Integer<T>* image) {
  constexpr int64_t lanes = kLanes<T>;
  if constexpr (sizeof(W) > 1) {
    for (int64_t e = 0; e < elements; ++e)
      for (int64_t plane = 0; plane < lanes; ++plane)
        image[e * lanes + plane] = static_cast<Integer<T>>(from[smaller(plane, planes - 1) * elements + e]);
  } else {
    for (int64_t plane = 0; plane < lanes; ++plane) {
      const W* at = from + smaller(plane, planes - 1) * elements;
      for (int64_t e = 0; e < elements; e += kPlaces) {
        uint32_t places = 0;
        if (limit - at - e >= kPlaces)
          __builtin_memcpy(&places, at + e, kPlaces);
        else
          for (int64_t i = 0; i < limit - at - e; ++i) places |= static_cast<uint32_t>(at[e + i]) << (8 * i);
        image[e * lanes + plane] = static_cast<Integer<T>>(places);
      }
    }
    for (int64_t e = 0; e < elements; e += kPlaces) {
      IntegerVector<T> places;
      __builtin_memcpy(&places, image + e * lanes, sizeof(places));
      for (int64_t i = 0; i < kPlaces; ++i) {
        const IntegerVector<T> place = (places >> static_cast<Integer<T>>(8 * i)) & 255;
        __builtin_memcpy(image + (e + i) * lanes, &place, sizeof(place));
      }
    }
  }
}

template <typename T, typename W>
void image_to_places(int64_t planes, int64_t elements, const Integer<T>* image, W* to) {
  constexpr int64_t lanes = kLanes<T>;
  if constexpr (sizeof(W) > 1) {
    for (int64_t plane = 0; plane < planes; ++plane)
      for (int64_t e = 0; e < elements; ++e) to[plane * elements + e] = static_cast<W>(image[e * lanes + plane]);
  } else {
    for (int64_t e = 0; e < elements; e += kPlaces) {
      IntegerVector<T> packed = {};
      for (int64_t i = 0; i < kPlaces; ++i) {
        IntegerVector<T> place;
        __builtin_memcpy(&place, image + (e + i) * lanes, sizeof(place));
        packed |= (place & 255) << static_cast<Integer<T>>(8 * i);
      }
      Integer<T> places[lanes];
      __builtin_memcpy(places, &packed, sizeof(packed));
      const int64_t count = smaller(kPlaces, elements - e);
      for (int64_t plane = 0; plane < planes; ++plane) {
        const uint32_t bytes = static_cast<uint32_t>(places[plane]);
        if (count == kPlaces)
          __builtin_memcpy(to + plane * elements + e, &bytes, kPlaces);
        else
          for (int64_t i = 0; i < count; ++i) to[plane * elements + e + i] = static_cast<W>(bytes >> (8 * i));
      }
    }
  }
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
