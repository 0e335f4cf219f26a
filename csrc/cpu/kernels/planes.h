// How pools cut their planes into tasks that write disjoint outputs. The cuts depend on sizes only.
#pragma once

#include "vector.h"

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

// Small planes of a contiguous tensor leave vectors along the width half empty. As many planes as a vector has lanes
// are turned into one image with the planes as its channels instead.

// Whether planes are so small: their rows narrower than `vectors`, and a vector's lanes of them within `bytes`.
template <typename T, typename Problem>
TORCHBP_INLINE bool small_planes(const Problem& p, int64_t vectors, int64_t bytes) {
  const int64_t elements = volume(p.input) + 2 * volume(p.output);
  return p.inner == 1 && p.outer > 1 && smaller(p.input[2], p.output[2] * 2) < vectors * kLanes<T> &&
         elements * kLanes<T> * static_cast<int64_t>(sizeof(T)) <= bytes;
}

template <typename T>
TORCHBP_INLINE void transpose(Vector<T>* rows) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t half = 1; half < lanes; half *= 2) {
    Vector<T> mixed[lanes];
    for (int64_t i = 0; i < lanes / 2; ++i) {
      mixed[2 * i] = first_of_pairs(rows[i], rows[i + lanes / 2]);
      mixed[2 * i + 1] = rest_of_pairs(rows[i], rows[i + lanes / 2]);
    }
    for (int64_t i = 0; i < lanes; ++i) rows[i] = mixed[i];
  }
}

// Elements of an image made of planes of `elements`, with room for whole vectors of them.
template <typename T>
TORCHBP_INLINE int64_t image_size(int64_t elements) {
  return (elements + kLanes<T>)*kLanes<T>;
}

// image[e][plane] = read(plane, e), which returns a vector of consecutive elements; missing planes repeat the last.
template <typename T, typename Read>
TORCHBP_INLINE void planes_to_image(int64_t planes, int64_t elements, T* image, const Read& read) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t e = 0; e < elements; e += lanes) {
    Vector<T> rows[lanes];
    for (int64_t plane = 0; plane < lanes; ++plane) rows[plane] = read(smaller(plane, planes - 1), e);
    transpose<T>(rows);
    for (int64_t i = 0; i < lanes; ++i) store(image + (e + i) * lanes, rows[i]);
  }
}

// write(plane, e, vector of image[e ...][plane]), the ends of the planes first: what is written beyond one is
// overwritten by the next.
template <typename T, typename Write>
TORCHBP_INLINE void image_to_planes(int64_t planes, int64_t elements, const T* image, const Write& write) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t e = (elements - 1) / lanes * lanes; e >= 0; e -= lanes) {
    Vector<T> rows[lanes];
    for (int64_t i = 0; i < lanes; ++i) rows[i] = load(image + (e + i) * lanes);
    transpose<T>(rows);
    for (int64_t plane = 0; plane < planes; ++plane) write(plane, e, rows[plane]);
  }
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
