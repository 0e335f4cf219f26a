// Products of matrices whose vectors are channels: pixels are turned into vectors of channels and back, and multiplied
// in register tiles.
#pragma once

#include "parts.h"

namespace torchbp {
namespace TORCHBP_ISA {

constexpr int64_t kRows = TORCHBP_TILE_ROWS;  // pixels of a register tile
constexpr int kVectors = 2;                   // vectors of target channels of a register tile
constexpr int64_t kCacheLine = 64;
constexpr int64_t kChain = 64;  // products that are summed at once: sums that go on for longer lose accuracy

template <typename T>
constexpr int64_t kPanel = kVectors * kLanes<T>;  // target channels of a panel

inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// to[pixel][lane] of `count` consecutive pixels; lanes without a channel are zero. Where more channels
// follow, what they read is fetched meanwhile: the processor does not follow so many streams by itself.
template <typename T>
void to_lanes(const T* from, int64_t channel_stride, int64_t channels, int64_t count, T* __restrict__ to,
              bool more = false) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t many = smaller(lanes, count - i);
    Vector<T> rows[lanes];
    if (more)
      for (int64_t c = 0; c < lanes; ++c) __builtin_prefetch(from + (c + lanes) * channel_stride + i, 0, 2);
    if (channels == lanes && many == lanes)
      for (int64_t c = 0; c < lanes; ++c) rows[c] = load(from + c * channel_stride + i);
    else
      for (int64_t c = 0; c < lanes; ++c)
        rows[c] = c < channels ? load_first(from + c * channel_stride + i, many) : Vector<T>{};
    transpose<T>(rows);
    if (many == lanes)
      for (int64_t p = 0; p < lanes; ++p) store(to + (i + p) * lanes, rows[p]);
    else
      for (int64_t p = 0; p < many; ++p) store(to + (i + p) * lanes, rows[p]);
  }
}

// The inverse, for pixels `step` apart.
template <typename T>
void from_lanes(const T* __restrict__ from, int64_t step, int64_t count, T* to, int64_t channel_stride,
                int64_t channels) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t many = smaller(lanes, count - i);
    Vector<T> rows[lanes];
    if (many == lanes)
      for (int64_t p = 0; p < lanes; ++p) rows[p] = load(from + (i + p) * step);
    else
      for (int64_t p = 0; p < lanes; ++p) rows[p] = p < many ? load(from + (i + p) * step) : Vector<T>{};
    transpose<T>(rows);
    if (channels == lanes && many == lanes)
      for (int64_t c = 0; c < lanes; ++c) store(to + c * channel_stride + i, rows[c]);
    else
      for (int64_t c = 0; c < channels; ++c) store_first<T>(to + c * channel_stride + i, rows[c], many);
  }
}

// Gradient channels of a register tile, a divisor of the lanes.
template <typename T>
constexpr int64_t kSumRows = kLanes<T> < 8                ? kLanes<T>
                             : TORCHBP_VECTOR_BYTES == 64 ? 8
                                                          : 4;

constexpr int kSumVectors = 3;  // vectors of source channels of a register tile

// sum[row][v] (+)= sum over lines and pixels of gradient[pixel][row] * source[v][pixel], `pitch` between rows of the
// sum. Lines are `step` and `source_step` apart.
template <typename T, int kTileRows, int kWide>
void accumulate(const T* __restrict__ gradient, const T* __restrict__ source, int64_t gradient_step,
                int64_t source_step, int64_t vector_stride, int64_t lines, int64_t pixels, bool add,
                T* __restrict__ sum, int64_t pitch) {
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> total[kTileRows][kWide];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) total[r][v] = Vector<T>{};
  for (int64_t line = 0; line < lines; ++line, gradient += gradient_step, source += source_step)
    for (int64_t at = 0; at < pixels * lanes; at += lanes) {
      Vector<T> column[kWide];
#pragma GCC unroll 3
      for (int v = 0; v < kWide; ++v) column[v] = load(source + at + v * vector_stride);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        const T scalar = gradient[at + r];
#pragma GCC unroll 3
        for (int v = 0; v < kWide; ++v) total[r][v] += column[v] * scalar;
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) {
      T* to = sum + r * pitch + v * lanes;
      store<T>(to, add ? load(to) + total[r][v] : total[r][v]);
    }
}

// sum[row][v] (+)= sum over lines and pixels of source[row][pixel] * gradient[v][pixel], where every row of the source
// is a plane of its own.
template <typename T, int kTileRows, int kWide>
void accumulate_planes(const T* const* source, int64_t source_step, const T* __restrict__ gradient,
                       int64_t vector_stride, int64_t lines, int64_t pixels, bool add, T* const* sum) {
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> total[kTileRows][kWide];
#pragma GCC unroll 9
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) total[r][v] = Vector<T>{};
  for (int64_t line = 0; line < lines; ++line) {
    const T* row[kTileRows];
#pragma GCC unroll 9
    for (int r = 0; r < kTileRows; ++r) row[r] = source[r] + line * source_step;
    for (int64_t at = 0; at < pixels; ++at, gradient += lanes) {
      Vector<T> column[kWide];
#pragma GCC unroll 3
      for (int v = 0; v < kWide; ++v) column[v] = load(gradient + v * vector_stride);
#pragma GCC unroll 9
      for (int r = 0; r < kTileRows; ++r) {
        const T scalar = row[r][at];
#pragma GCC unroll 3
        for (int v = 0; v < kWide; ++v) total[r][v] += column[v] * scalar;
      }
    }
  }
#pragma GCC unroll 9
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 3
    for (int v = 0; v < kWide; ++v) {
      T* to = sum[r] + v * lanes;
      store<T>(to, add ? load(to) + total[r][v] : total[r][v]);
    }
}

// The same for a block of gradient channels times a block of source channels, both whole vectors `vector_stride` apart.
template <typename T>
void accumulate_block(const T* gradient, const T* source, int64_t gradient_step, int64_t source_step,
                      int64_t gradient_vectors, int64_t source_vectors, int64_t lines, int64_t pixels, int64_t rows,
                      int64_t columns, bool add, T* sum, int64_t pitch) {
  constexpr int64_t lanes = kLanes<T>;
  constexpr int kTileRows = static_cast<int>(kSumRows<T>);
  for (int64_t c = 0; c < columns;) {
    const int64_t left = (columns - c) / lanes;
    const int64_t wide = left == 4 ? 2 : smaller(kSumVectors, left);
    const T* b = source + c / lanes * source_vectors;
    for (int64_t m = 0; m < rows; m += kTileRows) {
      const T* a = gradient + m / lanes * gradient_vectors + m % lanes;
      T* to = sum + m * pitch + c;
      if (wide == 3)
        accumulate<T, kTileRows, 3>(a, b, gradient_step, source_step, source_vectors, lines, pixels, add, to, pitch);
      else if (wide == 2)
        accumulate<T, kTileRows, 2>(a, b, gradient_step, source_step, source_vectors, lines, pixels, add, to, pitch);
      else
        accumulate<T, kTileRows, 1>(a, b, gradient_step, source_step, source_vectors, lines, pixels, add, to, pitch);
    }
    c += wide * lanes;
  }
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
