// How the kernels over classes go through a ClassProblem: long rows of classes one by one, everything else in tiles of
// many positions, in which a vector holds one class of as many positions.
#pragma once

#include "elementary.h"
#include "parts.h"
#include "softmax.h"

namespace torchbp {
namespace TORCHBP_ISA {

constexpr int64_t kTaskElements = 1 << 15;
constexpr int64_t kTileElements = 1 << 12;
constexpr int64_t kTileVectors = 16;        // the most positions of a tile, in vectors
constexpr int64_t kRowsElements = 1 << 16;  // the most elements of rows that are copied together

template <typename T>
TORCHBP_INLINE bool in_rows(const ClassProblem& problem) {
  return problem.to.classes == 1 && problem.classes >= 2 * Lanes<T>::count;
}

// Rows that do not lie in memory one by one are copied, as many as a vector has lanes.
template <typename T>
TORCHBP_INLINE bool copies_rows(const ClassProblem& problem) {
  return problem.from.classes != 1 || problem.other.classes != 1;
}

// Positions of a unit: rows, or those of a tile, a whole number of vectors.
template <typename T>
TORCHBP_INLINE int64_t unit_width(const ClassProblem& problem) {
  constexpr int64_t lanes = Lanes<T>::count;
  if (in_rows<T>(problem))
    return copies_rows<T>(problem) ? larger(1, smaller(smaller(lanes, problem.inner), kRowsElements / problem.classes))
                                   : 1;
  const int64_t vectors = kTileElements / (problem.classes * lanes);
  return larger(1, smaller(smaller(vectors, kTileVectors), (problem.inner + lanes - 1) / lanes)) * lanes;
}

// Elements of the copy of one tensor's unit.
template <typename T>
TORCHBP_INLINE int64_t unit_elements(const ClassProblem& problem) {
  return in_rows<T>(problem) && !copies_rows<T>(problem) ? 0 : problem.classes * unit_width<T>(problem);
}

template <typename T>
TORCHBP_INLINE int64_t units_per_task(const ClassProblem& problem) {
  return larger(1, kTaskElements / (problem.classes * unit_width<T>(problem)));
}

template <typename T>
TORCHBP_INLINE int64_t units(const ClassProblem& problem) {
  const int64_t width = unit_width<T>(problem);
  return problem.outer[0] * problem.outer[1] * ((problem.inner + width - 1) / width);
}

template <typename T>
int64_t class_tasks(const ClassProblem& problem) {
  const int64_t each = units_per_task<T>(problem);
  return (units<T>(problem) + each - 1) / each;
}

// Some positions along the inner axis.
struct Unit {
  int64_t outer[2];
  int64_t inner;
  int64_t count;     // positions
  int64_t position;  // of the first one
};

// Calls body(unit) for each unit of a task.
template <typename T, typename Body>
TORCHBP_INLINE void for_units(const ClassProblem& problem, int64_t task, const Body& body) {
  const int64_t each = units_per_task<T>(problem), width = unit_width<T>(problem);
  const int64_t across = (problem.inner + width - 1) / width;
  const int64_t last = smaller(units<T>(problem), (task + 1) * each);
  for (int64_t index = task * each; index < last; ++index) {
    const int64_t outer = index / across, inner = (index % across) * width;
    body(Unit{{outer / problem.outer[1], outer % problem.outer[1]},
              inner,
              smaller(width, problem.inner - inner),
              outer * problem.inner + inner});
  }
}

TORCHBP_INLINE int64_t offset_of(const ClassStrides& strides, const Unit& unit) {
  return unit.outer[0] * strides.outer[0] + unit.outer[1] * strides.outer[1] + unit.inner * strides.inner;
}

// The rows of a unit, a step apart: where they stand, or copied to the buffer.
template <typename T>
struct Rows {
  const T* first;
  int64_t step;
};

template <typename T>
TORCHBP_INLINE Rows<T> read_rows(const T* from, const ClassStrides& strides, int64_t classes, const Unit& unit,
                                 T* buffer) {
  from += offset_of(strides, unit);
  if (strides.classes == 1) return {from, strides.inner};
  if (strides.inner == 1)
    copy_transposed(from, strides.classes, classes, unit.count, buffer, classes);
  else
    for (int64_t p = 0; p < unit.count; ++p)
      for (int64_t c = 0; c < classes; ++c) buffer[p * classes + c] = from[p * strides.inner + c * strides.classes];
  return {buffer, classes};
}

// The classes of a unit's positions, a step apart.
template <typename T>
struct Columns {
  const T* first;
  int64_t step;
};

// tile[class][width] of the unit's positions; what the unit lacks of whole vectors is zero.
template <typename T>
TORCHBP_INLINE void load_tile(const T* from, const ClassStrides& strides, int64_t classes, const Unit& unit,
                              int64_t width, T* __restrict__ tile) {
  from += offset_of(strides, unit);
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t whole = unit.count / lanes * lanes, padded = (unit.count + lanes - 1) / lanes * lanes;
  if (strides.inner != 1 && strides.classes == 1)
    copy_transposed(from, strides.inner, unit.count, classes, tile, width);
  for (int64_t c = 0; c < classes; ++c) {
    const T* row = from + c * strides.classes;
    T* __restrict__ to = tile + c * width;
    if (strides.inner == 1) {
      for (int64_t p = 0; p < whole; p += lanes) store<T>(to + p, load(row + p));
      for (int64_t p = whole; p < unit.count; ++p) to[p] = row[p];
    } else if (strides.classes != 1) {
      for (int64_t p = 0; p < unit.count; ++p) to[p] = row[p * strides.inner];
    }
    for (int64_t p = unit.count; p < padded; ++p) to[p] = T(0);
  }
}

// The same in place, where whole vectors stand there.
template <typename T>
TORCHBP_INLINE Columns<T> read_tile(const T* from, const ClassStrides& strides, int64_t classes, const Unit& unit,
                                    int64_t width, T* tile) {
  if (strides.inner == 1 && unit.count % Lanes<T>::count == 0)
    return {from + offset_of(strides, unit), strides.classes};
  load_tile(from, strides, classes, unit, width, tile);
  return {tile, width};
}

// Writes value(class, position), a vector, to the positions of the unit: where it belongs at once, unless that is
// across the vector or beyond the unit; then through the tile.
template <typename T, typename Value>
TORCHBP_INLINE void write_tile(const ClassStrides& strides, int64_t classes, const Unit& unit, int64_t width, T* tile,
                               T* to, const Value& value) {
  constexpr int64_t lanes = Lanes<T>::count;
  to += offset_of(strides, unit);
  const int64_t direct = strides.inner == 1 ? unit.count / lanes * lanes : 0;
  for (int64_t c = 0; c < classes; ++c) {
    for (int64_t p = 0; p < direct; p += lanes) store<T>(to + c * strides.classes + p, value(c, p));
    for (int64_t p = direct; p < unit.count; p += lanes) store<T>(tile + c * width + p, value(c, p));
  }
  if (direct == unit.count) return;
  if (strides.inner == 1) {
    for (int64_t c = 0; c < classes; ++c)
      store_first<T>(to + c * strides.classes + direct, load(tile + c * width + direct), unit.count - direct);
  } else if (strides.classes == 1) {
    copy_transposed(tile, width, classes, unit.count, to, strides.inner);
  } else {
    for (int64_t p = 0; p < unit.count; ++p)
      for (int64_t c = 0; c < classes; ++c) to[p * strides.inner + c * strides.classes] = tile[c * width + p];
  }
}

template <typename T>
TORCHBP_INLINE Vector<T> greater(const Vector<T>& a, const Vector<T>& b) {
  return a > b ? a : b;
}

// Joins the lanes by halves.
template <typename T, typename Join>
TORCHBP_INLINE T reduce_lanes(const Vector<T>& v, const Join& join) {
  constexpr int64_t lanes = 16 / static_cast<int64_t>(sizeof(T)), parts = Lanes<T>::count / lanes;
  typedef T Part __attribute__((vector_size(16)));
  Part part[parts];
  __builtin_memcpy(part, &v, sizeof(v));
  for (int64_t half = parts / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) part[i] = join(part[i], part[i + half]);
  if constexpr (lanes == 2) return join(part[0], TORCHBP_SHUFFLED(part[0], part[0], 1, 0))[0];
  if constexpr (lanes == 4) {
    part[0] = join(part[0], TORCHBP_SHUFFLED(part[0], part[0], 2, 3, 0, 1));
    return join(part[0], TORCHBP_SHUFFLED(part[0], part[0], 1, 0, 3, 2))[0];
  }
}

template <typename T>
TORCHBP_INLINE T sum_across(const Vector<T>& v) {
  return reduce_lanes<T>(v, [](const auto& a, const auto& b) { return a + b; });
}

// Rows have at least two vectors; the last one overlaps its neighbour, and `last_lanes` masks what was seen before.
template <typename T>
TORCHBP_INLINE IntegerVector<T> last_lanes(int64_t count) {
  const int64_t fresh = count % Lanes<T>::count == 0 ? Lanes<T>::count : count % Lanes<T>::count;
  return lane_numbers<T>() >= static_cast<Integer<T>>(Lanes<T>::count - fresh);
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
  return reduce_lanes<T>(greater<T>(a, b), [](const auto& p, const auto& q) { return p > q ? p : q; });
}

// Calls body(i) for the vectors at i but the last, which may overlap.
template <typename T, typename Body>
TORCHBP_INLINE void for_vectors(int64_t count, const Body& body) {
  const int64_t last = count - Lanes<T>::count;
  for (int64_t i = 0; i < last; i += Lanes<T>::count) body(i);
}

// The maximum over the classes at each of a vector of positions.
template <typename T>
TORCHBP_INLINE Vector<T> column_maximum(const T* column, int64_t classes, int64_t step) {
  Vector<T> most = load(column);
  for (int64_t c = 1; c < classes; ++c) most = greater<T>(load(column + c * step), most);
  return most;
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
