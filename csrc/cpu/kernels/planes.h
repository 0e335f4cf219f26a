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

}  // namespace TORCHBP_ISA
}  // namespace torchbp
