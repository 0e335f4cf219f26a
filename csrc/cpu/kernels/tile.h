// How the kernels over classes go through a ClassProblem: long rows of consecutive classes one by one, everything
// else in tiles of many positions, copied so that a vector holds one class of as many positions.
#pragma once

#include "elementary.h"
#include "softmax.h"

namespace torchbp {
namespace TORCHBP_ISA {

constexpr int64_t kTaskElements = 1 << 15;
constexpr int64_t kTileElements = 1 << 12;
constexpr int64_t kTileVectors = 16;  // the most positions of a tile, in vectors

template <typename T>
TORCHBP_INLINE bool in_rows(const ClassProblem& problem) {
  return problem.from.classes == 1 && problem.to.classes == 1 && problem.classes >= 2 * Lanes<T>::count;
}

// Positions of a tile, a whole number of vectors.
template <typename T>
TORCHBP_INLINE int64_t tile_width(const ClassProblem& problem) {
  const int64_t vectors = kTileElements / (problem.classes * Lanes<T>::count);
  return larger(1, smaller(smaller(vectors, kTileVectors), (problem.inner + Lanes<T>::count - 1) / Lanes<T>::count)) *
         Lanes<T>::count;
}

template <typename T>
TORCHBP_INLINE int64_t units_per_task(const ClassProblem& problem) {
  const int64_t elements = problem.classes * (in_rows<T>(problem) ? 1 : tile_width<T>(problem));
  return larger(1, kTaskElements / elements);
}

// A unit is a row or a tile.
template <typename T>
TORCHBP_INLINE int64_t units(const ClassProblem& problem) {
  if (in_rows<T>(problem)) return problem.outer * problem.inner;
  return problem.outer * ((problem.inner + tile_width<T>(problem) - 1) / tile_width<T>(problem));
}

template <typename T>
int64_t class_tasks(const ClassProblem& problem) {
  const int64_t each = units_per_task<T>(problem);
  return (units<T>(problem) + each - 1) / each;
}

// One unit: a row has one position.
struct Unit {
  int64_t outer;
  int64_t inner;
  int64_t count;     // positions
  int64_t position;  // of the first one
};

// Calls body(unit) for each unit of a task.
template <typename T, typename Body>
TORCHBP_INLINE void for_units(const ClassProblem& problem, int64_t task, const Body& body) {
  const int64_t each = units_per_task<T>(problem);
  const int64_t width = in_rows<T>(problem) ? 1 : tile_width<T>(problem);
  const int64_t across = (problem.inner + width - 1) / width;
  const int64_t last = smaller(units<T>(problem), (task + 1) * each);
  for (int64_t index = task * each; index < last; ++index) {
    const int64_t outer = index / across, inner = (index % across) * width;
    body(Unit{outer, inner, smaller(width, problem.inner - inner), outer * problem.inner + inner});
  }
}

TORCHBP_INLINE int64_t offset_of(const ClassStrides& strides, const Unit& unit) {
  return unit.outer * strides.outer + unit.inner * strides.inner;
}

template <typename T>
TORCHBP_INLINE Vector<T> greater(const Vector<T>& a, const Vector<T>& b) {
  return a > b ? a : b;
}

// tile[class][width] of the unit's positions, and the maximum over the classes; what the unit lacks of whole vectors
// is zero.
template <typename T>
TORCHBP_INLINE void load_tile(const T* from, const ClassStrides& strides, int64_t classes, const Unit& unit,
                              int64_t width, T* __restrict__ tile, T* __restrict__ maximum) {
  from += offset_of(strides, unit);
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t whole = strides.inner == 1 ? unit.count / lanes * lanes : 0;
  const int64_t padded = (unit.count + lanes - 1) / lanes * lanes;
  for (int64_t c = 0; c < classes; ++c) {
    const T* row = from + c * strides.classes;
    T* __restrict__ to = tile + c * width;
    for (int64_t p = 0; p < whole; p += lanes) {
      const Vector<T> v = load(row + p);
      store<T>(to + p, v);
      store<T>(maximum + p, c == 0 ? v : greater<T>(v, load(maximum + p)));
    }
    for (int64_t p = whole; p < unit.count; ++p) to[p] = row[p * strides.inner];
    for (int64_t p = unit.count; p < padded; ++p) to[p] = T(0);
    for (int64_t p = whole; p < padded; p += lanes)
      store<T>(maximum + p, c == 0 ? load(to + p) : greater<T>(load(to + p), load(maximum + p)));
  }
}

// The unit's positions from `first` on.
template <typename T>
TORCHBP_INLINE void store_tile(const T* __restrict__ tile, int64_t width, int64_t classes, int64_t first,
                               const Unit& unit, const ClassStrides& strides, T* to) {
  to += offset_of(strides, unit);
  if (strides.inner == 1) {
    const uint64_t bytes = static_cast<uint64_t>(unit.count - first) * sizeof(T);
    for (int64_t c = 0; c < classes; ++c)
      __builtin_memcpy(to + c * strides.classes + first, tile + c * width + first, bytes);
    return;
  }
  for (int64_t p = first; p < unit.count; ++p)
    for (int64_t c = 0; c < classes; ++c) to[p * strides.inner + c * strides.classes] = tile[c * width + p];
}

template <typename T>
TORCHBP_INLINE T sum_across(const Vector<T>& v) {
  T sum = v[0];
  for (int64_t lane = 1; lane < Lanes<T>::count; ++lane) sum += v[lane];
  return sum;
}

// Rows have at least two vectors; the last one overlaps its neighbour, and `last_lanes` masks what was seen before.
template <typename T>
TORCHBP_INLINE IntegerVector<T> last_lanes(int64_t count) {
  IntegerVector<T> lane;
  for (int64_t i = 0; i < Lanes<T>::count; ++i) lane[i] = static_cast<decltype(lane[0] + 0)>(i);
  const int64_t fresh = count % Lanes<T>::count == 0 ? Lanes<T>::count : count % Lanes<T>::count;
  return lane >= static_cast<decltype(lane[0] + 0)>(Lanes<T>::count - fresh);
}

template <typename T>
TORCHBP_INLINE T row_maximum(const T* x, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  Vector<T> a = load(x), b = load(x + count - lanes);
  int64_t i = lanes;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    a = greater<T>(load(x + i), a);
    b = greater<T>(load(x + i + lanes), b);
  }
  if (i + lanes <= count) a = greater<T>(load(x + i), a);
  a = greater<T>(a, b);
  T most = a[0];
  for (int64_t lane = 1; lane < lanes; ++lane) most = a[lane] > most ? a[lane] : most;
  return most;
}

// Calls body(i) for the vectors at i but the last, which may overlap.
template <typename T, typename Body>
TORCHBP_INLINE void for_vectors(int64_t count, const Body& body) {
  const int64_t last = count - Lanes<T>::count;
  for (int64_t i = 0; i < last; i += Lanes<T>::count) body(i);
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
