// Max pooling over windows at a stride, and its two linear maps once the winners are known.
//
// Forward, each row of the input is first reduced along its own windows, in vectors of neighbouring outputs;
// what is left of a window is then a few reduced rows, which overlapping windows share. Backward gathers:
// every element of the input reads the windows that cover it, in the order of the outputs.
#include "contest.h"
#include "planes.h"
#include "pooling.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Reduced rows that are combined at once.
constexpr int64_t kRows = 32;
// Elements of reduced rows held at a time: with their winners they fill most of a first-level cache.
constexpr int64_t kHeld = 3072;

// Taps of a window along one axis that lie inside the input.
TORCHBP_INLINE Range inside_taps(const PoolProblem& p, int axis, int64_t output) {
  const int64_t start = output * p.stride[axis] - p.padding[axis];
  return valid_range(p.kernel[axis], p.dilation[axis], start, p.input[axis]);
}

// Outputs along one axis whose windows lie inside the input.
TORCHBP_INLINE Range inside_windows(const PoolProblem& p, int axis) {
  const int64_t reach = p.dilation[axis] * (p.kernel[axis] - 1);
  const Range first = valid_range(p.output[axis], p.stride[axis], -p.padding[axis], p.input[axis]);
  const Range last = valid_range(p.output[axis], p.stride[axis], reach - p.padding[axis], p.input[axis]);
  return {first.first, larger(first.first, smaller(first.last, last.last))};
}

// ---------------------------------------------------------------------------------------------
// Forward

// The smallest power of two that is not below n.
TORCHBP_INLINE int64_t power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

// How rows of outputs are cut, and the reduced rows that are held: of every depth of a window `height` consecutive
// ones, a power of two, the row ih at place ih modulo height; or, for windows of many rows, `height` rows in the order
// they are met.
struct Plan {
  bool piled;
  int64_t planes;
  int64_t height;
  int64_t chunk;   // outputs of a row at a time
  int64_t length;  // elements of a held row
  Range inside;    // outputs along the width whose windows lie inside the input
};

template <typename T>
Plan plan_of(const PoolProblem& p) {
  Plan plan;
  const bool deep = p.dilation[1] > kRows || p.dilation[1] * (p.kernel[1] - 1) >= kRows;
  const int64_t extent = deep ? kRows + 1 : p.dilation[1] * (p.kernel[1] - 1) + 1;
  plan.piled = extent > kRows || p.kernel[0] * extent > kRows;
  plan.planes = plan.piled ? 1 : p.kernel[0];
  const int64_t most = larger(kHeld / (plan.planes * (plan.piled ? kRows : extent + p.stride[1])), 4 * kLanes<T>);
  plan.chunk = smaller(p.output[2], larger(1, most / p.inner));
  if (plan.chunk > kLanes<T> && plan.chunk < p.output[2]) plan.chunk -= plan.chunk % kLanes<T>;
  plan.length = plan.chunk * p.inner + kLanes<T>;
  // Where the stride leaves rows out between the windows, one window at a time is reduced.
  plan.height = plan.piled ? kRows
                : p.stride[1] > extent
                    ? power_of_two(extent)
                    : power_of_two(larger(extent, smaller(kHeld / (plan.planes * plan.length), p.input[1])));
  plan.inside = inside_windows(p, 2);
  return plan;
}

template <typename T>
int64_t band_workspace(const PoolProblem& p) {
  const Plan plan = plan_of<T>(p);
  return (plan.planes * plan.height + 1) * plan.length * static_cast<int64_t>(sizeof(T) + sizeof(Integer<T>));
}

// A vector of elements `kStep` apart (0: `step` apart).
template <typename S, int kStep, bool kChecked>
TORCHBP_INLINE Vector<Compute<S>> load_stepped(const S* from, int64_t step, const S* limit) {
  typedef Compute<S> T;
  if constexpr (kStep == 1) return load_before<S, kChecked>(from, limit);
  if constexpr (kStep == 2)
    return even_places(load_before<S, kChecked>(from, limit), load_before<S, kChecked>(from + kLanes<T>, limit));
  Vector<T> v = {};
  for (int64_t lane = 0; lane < kLanes<T>; ++lane)
    if (!kChecked || from + lane * step < limit) v[lane] = value_of(from[lane * step]);
  return v;
}

// `count` windows of `taps` elements `pitch` apart, the windows `step` apart. Writes up to the next whole vector.
template <typename S, bool kWinner, int kStep, bool kChecked>
TORCHBP_INLINE void reduce_run(const S* from, int64_t count, int64_t taps, int64_t pitch, int64_t step, const S* limit,
                               Compute<S>* best, Integer<Compute<S>>* tap) {
  typedef Compute<S> T;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const S* at = from + i * (kStep ? kStep : step);
    Champion<T, kWinner> champion = {load_stepped<S, kStep, kChecked>(at, step, limit), IntegerVector<T>{}};
    for (int64_t k = 1; k < taps; ++k)
      champion.meet(load_stepped<S, kStep, kChecked>(at + k * pitch, step, limit),
                    IntegerVector<T>{} + static_cast<Integer<T>>(k));
    store(best + i, champion.best);
    if constexpr (kWinner) __builtin_memcpy(tap + i, &champion.tap, sizeof(champion.tap));
  }
}

// Where the rows to be reduced lie, and where they go.
template <typename S>
struct Reduction {
  const S* row;
  int64_t row_stride;
  int64_t rows;
  const S* limit;  // the end of the input
  int64_t first;   // outputs [first, last) of a row
  int64_t last;
  Compute<S>* best;
  Integer<Compute<S>>* tap;
  int64_t length;  // from one reduced row to the next
};

// The outputs [from, to), whose windows reach beyond the row.
template <typename S, bool kWinner>
TORCHBP_INLINE void reduce_border(const PoolProblem& p, const S* row, const S* limit, int64_t from, int64_t to,
                                  Compute<S>* best, Integer<Compute<S>>* tap) {
  typedef Compute<S> T;
  const int64_t inner = p.inner, pitch = p.dilation[2] * inner;
  for (int64_t o = from; o < to; ++o, best += inner, tap += inner) {
    const Range taps = inside_taps(p, 2, o);
    const S* at = row + (o * p.stride[2] - p.padding[2] + taps.first * p.dilation[2]) * inner;
    if (taps.first >= taps.last) {
      for (int64_t c = 0; c < inner; ++c) best[c] = -static_cast<T>(__builtin_inf());
      for (int64_t c = 0; c < inner; ++c) tap[c] = kNone;
    } else if (inner == 1) {
      T value = value_of(*at);
      Integer<T> winner = static_cast<Integer<T>>(taps.first);
      for (int64_t k = taps.first + 1; k < taps.last; ++k) {
        at += pitch;
        meet_one(&value, &winner, value_of(*at), static_cast<Integer<T>>(k));
      }
      *best = value;
      if constexpr (kWinner) *tap = winner;
    } else {
      for (int64_t c = 0; c < inner; c += kLanes<T>) {
        Champion<T, kWinner> champion = {load_before<S, true>(at + c, limit),
                                         IntegerVector<T>{} + static_cast<Integer<T>>(taps.first)};
        for (int64_t k = taps.first + 1; k < taps.last; ++k)
          champion.meet(load_before<S, true>(at + (k - taps.first) * pitch + c, limit),
                        IntegerVector<T>{} + static_cast<Integer<T>>(k));
        store(best + c, champion.best);
        if constexpr (kWinner) __builtin_memcpy(tap + c, &champion.tap, sizeof(champion.tap));
      }
    }
  }
}

// Reduces rows along their windows.
template <typename S, bool kWinner, int kStep, bool kChecked>
void reduce_rows(const PoolProblem& p, const Range& inside, const Reduction<S>& r) {
  const int64_t inner = p.inner, pitch = p.dilation[2] * inner;
  const int64_t from = smaller(larger(inside.first, r.first), r.last);
  const int64_t to = smaller(larger(inside.last, from), r.last);
  const bool flat = inner == 1 || p.stride[2] == 1;  // a run of windows is one run of elements
  for (int64_t i = 0; i < r.rows; ++i) {
    const S* row = r.row + i * r.row_stride;
    Compute<S>* best = r.best + i * r.length - r.first * inner;
    Integer<Compute<S>>* tap = r.tap + i * r.length - r.first * inner;
    reduce_border<S, kWinner>(p, row, r.limit, r.first, from, best + r.first * inner, tap + r.first * inner);
    if (flat)
      reduce_run<S, kWinner, kStep, kChecked>(row + (from * p.stride[2] - p.padding[2]) * inner, (to - from) * inner,
                                              p.kernel[2], pitch, p.stride[2], r.limit, best + from * inner,
                                              tap + from * inner);
    else
      for (int64_t o = from; o < to; ++o)
        reduce_run<S, kWinner, 1, kChecked>(row + (o * p.stride[2] - p.padding[2]) * inner, inner, p.kernel[2], pitch,
                                            1, r.limit, best + o * inner, tap + o * inner);
    reduce_border<S, kWinner>(p, row, r.limit, to, r.last, best + to * inner, tap + to * inner);
  }
}

template <typename S, bool kWinner>
void reduce(const PoolProblem& p, const Range& inside, Reduction<S> r) {
  constexpr int64_t lanes = kLanes<Compute<S>>;
  const int64_t step = p.inner == 1 ? p.stride[2] : 1;
  // What the last vector of a row may read, from the start of the row; the rows that have as much go first.
  const int64_t read =
      (smaller(r.last, inside.last) * p.stride[2] + p.kernel[2] * p.dilation[2]) * p.inner + (step + 1) * lanes;
  const int64_t room = r.limit - r.row - read;
  const int64_t safe = room < 0 ? 0 : smaller(r.rows, room / larger(1, r.row_stride) + 1);
  Reduction<S> rest = r;
  r.rows = step <= 2 ? safe : 0;
  rest.row += r.rows * r.row_stride;
  rest.best += r.rows * r.length;
  rest.tap += r.rows * r.length;
  rest.rows -= r.rows;
  if (r.rows > 0 && step == 1)
    reduce_rows<S, kWinner, 1, false>(p, inside, r);
  else if (r.rows > 0)
    reduce_rows<S, kWinner, 2, false>(p, inside, r);
  if (rest.rows == 0) return;
  if (step == 1)
    reduce_rows<S, kWinner, 1, true>(p, inside, rest);
  else if (step == 2)
    reduce_rows<S, kWinner, 2, true>(p, inside, rest);
  else
    reduce_rows<S, kWinner, 0, true>(p, inside, rest);
}

// Reduced rows that wait to be combined.
template <typename T>
struct Pile {
  int64_t count = 0;
  const T* best[kRows];
  const Integer<T>* tap[kRows];
  Integer<T> base[kRows];

  TORCHBP_INLINE void add(const T* row, const Integer<T>* places, int64_t first_tap) {
    best[count] = row;
    tap[count] = places;
    base[count++] = static_cast<Integer<T>>(first_tap);
  }
};

template <typename S, typename W, bool kWinner, int kCount>
TORCHBP_INLINE void combine_rows(const Pile<Compute<S>>& pile, int64_t count, S* to, W* winner, int64_t room) {
  typedef Compute<S> T;
  const int64_t rows = kCount ? kCount : pile.count;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    Champion<T, kWinner> champion = {load(pile.best[0] + i), IntegerVector<T>{}};
    if constexpr (kWinner) champion.tap = widen<T>(pile.tap[0] + i) + pile.base[0];
    for (int64_t r = 1; r < rows; ++r) {
      IntegerVector<T> tap = {};
      if constexpr (kWinner) tap = widen<T>(pile.tap[r] + i) + pile.base[r];
      champion.meet(load(pile.best[r] + i), tap);
    }
    if (i + kLanes<T> <= room) {
      store_values(to + i, champion.best);
      if constexpr (kWinner) narrow<T>(champion.tap, winner + i);
    } else {
      for (int64_t lane = 0; lane < count - i; ++lane) {
        set_value(to + i + lane, champion.best[lane]);
        if constexpr (kWinner) winner[i + lane] = static_cast<W>(champion.tap[lane]);
      }
    }
  }
}

// Combines `count` windows and writes them; whole vectors up to `room` elements, which what follows overwrites.
template <typename S, typename W, bool kWinner>
void combine(const Pile<Compute<S>>& pile, int64_t count, S* to, W* winner, int64_t room) {
  switch (pile.count) {
    case 1:
      return combine_rows<S, W, kWinner, 1>(pile, count, to, winner, room);
    case 2:
      return combine_rows<S, W, kWinner, 2>(pile, count, to, winner, room);
    case 3:
      return combine_rows<S, W, kWinner, 3>(pile, count, to, winner, room);
    default:
      return combine_rows<S, W, kWinner, 0>(pile, count, to, winner, room);
  }
}

// Rows of few outputs over wide windows leave nothing to do side by side but the elements of a window.
template <typename T>
TORCHBP_INLINE bool few_and_wide(const PoolProblem& p) {
  return p.inner == 1 && p.dilation[2] == 1 && p.kernel[2] >= kLanes<T> && p.output[2] < kLanes<T>;
}

template <typename S, typename W, bool kWinner>
void pool_wide(const PoolProblem& p, const S* plane, int64_t od, int64_t oh, S* to, W* winner) {
  typedef Compute<S> T;
  const Range depths = inside_taps(p, 0, od), heights = inside_taps(p, 1, oh);
  for (int64_t ow = 0; ow < p.output[2]; ++ow) {
    const int64_t start = ow * p.stride[2] - p.padding[2];
    const int64_t from = larger(start, 0), count = smaller(start + p.kernel[2], p.input[2]) - from;
    WideContest<T> contest;
    for (int64_t kd = depths.first; kd < depths.last; ++kd)
      for (int64_t kh = heights.first; kh < heights.last; ++kh) {
        const int64_t id = od * p.stride[0] - p.padding[0] + kd * p.dilation[0];
        const int64_t ih = oh * p.stride[1] - p.padding[1] + kh * p.dilation[1];
        const int64_t tap = (kd * p.kernel[1] + kh) * p.kernel[2] + from - start;
        contest.row(plane + (id * p.input[1] + ih) * p.input[2] + from, count, static_cast<Integer<T>>(tap));
      }
    contest.finish();
    const bool none = contest.rest_place < 0;
    set_value(to + ow, none ? -static_cast<T>(__builtin_inf()) : contest.rest);
    if constexpr (kWinner) winner[ow] = static_cast<W>(contest.rest_place);
  }
}

// Windows that are too far apart to be taken apart in registers: the rows of a row of windows are reduced to one,
// column by column, and each column meets those that follow it, one, then two, then four further on, until it has met a
// window's.
template <typename T>
TORCHBP_INLINE bool columns_first(const PoolProblem& p) {
  return p.inner == 1 && p.dilation[2] == 1 && p.stride[2] > 2 && p.stride[2] <= 2 * p.kernel[2] &&
         p.kernel[2] < kLanes<T> && p.input[2] >= 2 * kLanes<T>;
}

// Columns from `begin` on, which may lie in the padding: their best elements, and the taps of these counted from the
// window that begins at the first.
template <typename T>
struct ColumnChampions {
  static constexpr int64_t kColumns = 512;
  T best[kColumns + 2 * kLanes<T>];
  Integer<T> tap[kColumns + 2 * kLanes<T>];

  TORCHBP_INLINE Champion<T, true> at(int64_t column) const {
    Champion<T, true> champion = {load(best + column), IntegerVector<T>{}};
    __builtin_memcpy(&champion.tap, tap + column, sizeof(champion.tap));
    return champion;
  }
  TORCHBP_INLINE void set(int64_t column, const Champion<T, true>& champion) {
    store(best + column, champion.best);
    __builtin_memcpy(tap + column, &champion.tap, sizeof(champion.tap));
  }
  // What is no element loses, to equals too.
  TORCHBP_INLINE void set_padding(int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      best[i] = -static_cast<T>(__builtin_inf());
      tap[i] = INT32_MAX;
    }
  }
  TORCHBP_INLINE void meet_following(int64_t count, int64_t kernel) {
    for (int64_t met = 1, shift = 1; met < kernel; met += shift) {
      shift = smaller(met, kernel - met);
      for (int64_t i = 0; i < count; i += kLanes<T>) {
        Champion<T, true> champion = at(i);
        const Champion<T, true> other = at(i + shift);
        champion.meet_any(other.best, other.tap);
        set(i, champion);
      }
    }
  }
};

template <typename S, typename W, bool kWinner>
void pool_columns(const PoolProblem& p, const S* plane, const S* limit, int64_t od, int64_t oh, S* to, W* winner) {
  typedef Compute<S> T;
  ColumnChampions<T> columns;
  const Range depths = inside_taps(p, 0, od), heights = inside_taps(p, 1, oh);
  const bool none = depths.first >= depths.last || heights.first >= heights.last;
  const int64_t first_tap = (depths.first * p.kernel[1] + heights.first) * p.kernel[2];
  for (int64_t o = 0; o < p.output[2];) {
    const int64_t last = smaller(p.output[2], o + (columns.kColumns - p.kernel[2]) / p.stride[2] + 1);
    const int64_t begin = o * p.stride[2] - p.padding[2], end = begin + (last - 1 - o) * p.stride[2] + p.kernel[2];
    const int64_t from = larger(0, begin), stop = smaller(p.input[2], end);
    for (int64_t i = from; i < stop; i += kLanes<T>) {
      const IntegerVector<T> column = lane_numbers<T>() + static_cast<Integer<T>>(i - begin);
      Champion<T, true> champion = {Vector<T>{} - static_cast<T>(__builtin_inf()),
                                    column + static_cast<Integer<T>>(first_tap)};
      for (int64_t kd = depths.first; kd < depths.last; ++kd)
        for (int64_t kh = heights.first; kh < heights.last; ++kh) {
          const int64_t id = od * p.stride[0] - p.padding[0] + kd * p.dilation[0];
          const int64_t ih = oh * p.stride[1] - p.padding[1] + kh * p.dilation[1];
          champion.meet(load_before<S, true>(plane + (id * p.input[1] + ih) * p.input[2] + i, limit),
                        column + static_cast<Integer<T>>((kd * p.kernel[1] + kh) * p.kernel[2]));
        }
      columns.set(i - begin, champion);
    }
    columns.set_padding(0, from - begin);
    columns.set_padding(stop - begin, end - begin + kLanes<T>);
    columns.meet_following(end - begin, p.kernel[2]);
    for (int64_t start = 0; o < last; ++o, start += p.stride[2]) {
      set_value(to + o, columns.best[start]);
      if constexpr (kWinner) winner[o] = static_cast<W>(none ? kNone : columns.tap[start] - start);
    }
  }
}

// Input rows [first, last) among which are those of an output row's windows; the first never decreases.
TORCHBP_INLINE Range spanned(const PoolProblem& p, int64_t oh) {
  const Range taps = inside_taps(p, 1, oh);
  const int64_t start = oh * p.stride[1] - p.padding[1], first = larger(start, 0);
  return {first, taps.first < taps.last ? start + (taps.last - 1) * p.dilation[1] + 1 : first};
}

// Windows of few elements meet in registers as they are read.
constexpr int64_t kFew = 9;

TORCHBP_INLINE bool few_taps(const PoolProblem& p) {
  return p.dilation[2] == 1 && (p.kernel[2] == 2 || p.kernel[2] == 3) && volume(p.kernel) <= kFew &&
         (p.inner > 1 || p.stride[2] <= 2);
}

// Rows of the input in the windows of a row of outputs, and the tap of the first column of each.
template <typename S>
struct WindowRows {
  int64_t count = 0;
  const S* at[kFew];
  Integer<Compute<S>> tap[kFew];
};

template <typename S>
WindowRows<S> window_rows(const PoolProblem& p, const S* plane, const Range& depths, int64_t od, int64_t oh) {
  WindowRows<S> rows;
  const Range heights = inside_taps(p, 1, oh);
  for (int64_t kd = depths.first; kd < depths.last; ++kd)
    for (int64_t kh = heights.first; kh < heights.last; ++kh) {
      const int64_t id = od * p.stride[0] - p.padding[0] + kd * p.dilation[0];
      const int64_t ih = oh * p.stride[1] - p.padding[1] + kh * p.dilation[1];
      rows.at[rows.count] = plane + (id * p.input[1] + ih) * p.input[2] * p.inner;
      rows.tap[rows.count++] = static_cast<Integer<Compute<S>>>((kd * p.kernel[1] + kh) * p.kernel[2]);
    }
  return rows;
}

// The champions of a vector of windows along the width, the first of which begins `from` elements into the rows. Every
// row has its own first, so that their comparisons need not wait for each other.
template <typename S, bool kWinner, int kTaps, int kStep, int kRows, Reading kReading>
TORCHBP_INLINE Champion<Compute<S>, kWinner> few_along_width(const WindowRows<S>& rows, int64_t from,
                                                             const Edge<S>& edge) {
  typedef Compute<S> T;
  const auto read = [&](const S* at) {
    if constexpr (kReading == kBeyondTensor) return load_inside(at, edge.begin, edge.end);
    if constexpr (kReading != kBeyondTensor) return load_values(at);
  };
  const Vector<T> none = Vector<T>{} - static_cast<T>(__builtin_inf());
  const Integer<T> low = static_cast<Integer<T>>(edge.low), high = static_cast<Integer<T>>(edge.high);
  IntegerVector<T> column = {};
  for (int64_t lane = 0; kReading != kPlain && lane < kLanes<T>; ++lane)
    column[lane] = static_cast<Integer<T>>(lane * kStep);
  Champion<T, kWinner> champion;
  const int64_t count = kRows ? kRows : rows.count;
  for (int64_t r = 0; r < count; ++r) {
    const S* at = rows.at[r] + from;
    Vector<T> value[3];
    if constexpr (kStep == 1) {
      value[0] = read(at);
      value[1] = read(at + 1);
      if constexpr (kTaps == 3) value[2] = read(at + 2);
    } else {
      const Vector<T> first = read(at), second = read(at + kLanes<T>);
      value[0] = even_places(first, second);
      value[1] = odd_places(first, second);
      if constexpr (kTaps == 3) value[2] = even_places(read(at + 2), read(at + 2 + kLanes<T>));
    }
    Champion<T, kWinner> row = {value[0], IntegerVector<T>{} + rows.tap[r]};
    if constexpr (kReading == kPlain) {
      row.meet(value[1], IntegerVector<T>{} + (rows.tap[r] + 1));
      if constexpr (kTaps == 3) row.meet(value[2], IntegerVector<T>{} + (rows.tap[r] + 2));
    } else {
      const auto inside = [&](int k) -> Vector<T> {
        const Vector<T> begun = column + k >= low ? value[k] : none;
        return column + k < high ? begun : none;
      };
      row = {inside(0), (column < low ? low - column : IntegerVector<T>{}) + rows.tap[r]};
      row.meet(inside(1), IntegerVector<T>{} + (rows.tap[r] + 1));
      if constexpr (kTaps == 3) row.meet(inside(2), IntegerVector<T>{} + (rows.tap[r] + 2));
    }
    if (r == 0)
      champion = row;
    else
      champion.meet(row.best, row.tap);
  }
  return champion;
}

// Rows of outputs that follow each other, as their windows do.
template <typename S, typename W>
struct FewRows {
  int64_t count;
  int64_t length;  // of a row of outputs
  int64_t pitch;   // from the windows of one to those of the next
  Range inside;    // outputs whose windows lie inside the row
  const S* begin;  // of the input
  const S* end;
  S* to;
  W* winner;
  int64_t room;  // elements that may be written

  // Calls write(windows, outputs, winners, room) for every row; winners are null if there are none.
  template <int kRows, typename Write>
  TORCHBP_INLINE void each(WindowRows<S> windows, const Write& write) const {
    for (int64_t i = 0; i < count; ++i) {
      write(windows, to + i * length, winner ? winner + i * length : nullptr, room - i * length);
      for (int64_t r = 0; r < (kRows ? kRows : windows.count); ++r) windows.at[r] += pitch;
    }
  }
};

template <typename S, typename W, bool kWinner, int kTaps, int kStep, int kRows>
__attribute__((noinline)) void pool_few_columns(const PoolProblem& p, const WindowRows<S>& first,
                                                const FewRows<S, W>& rows) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>, reach = kStep * lanes + kTaps;
  const int64_t outputs = p.output[2], padding = p.padding[2], width = p.input[2];
  const Range inside = rows.inside;
  rows.template each<kRows>(first, [&](const WindowRows<S>& windows, S* to, W* winner, int64_t room) {
    const int64_t before = windows.at[0] - rows.begin, readable = rows.end - windows.at[windows.count - 1];
    for (int64_t o = 0; o < outputs; o += lanes) {
      const int64_t from = o * kStep - padding;
      const Edge<S> edge = {rows.begin, rows.end, larger(0, -from), smaller(reach, width - from)};
      const bool plain = o >= inside.first && smaller(o + lanes, outputs) <= inside.last;
      Champion<T, kWinner> champion;
      if (from + reach > readable || before + from < 0)
        champion = few_along_width<S, kWinner, kTaps, kStep, 0, kBeyondTensor>(windows, from, edge);
      else if (plain)
        champion = few_along_width<S, kWinner, kTaps, kStep, kRows, kPlain>(windows, from, edge);
      else
        champion = few_along_width<S, kWinner, kTaps, kStep, kRows, kBeyondRow>(windows, from, edge);
      write_champion<S, W, kWinner>(champion, to + o, kWinner ? winner + o : nullptr, outputs - o, room - o);
    }
  });
}

// The champions of a vector of channels, of taps [first, last) or all kTaps of each row.
template <typename S, bool kWinner, int kTaps, int kRows, bool kChecked>
TORCHBP_INLINE Champion<Compute<S>, kWinner> few_of_pixel(const WindowRows<S>& rows, int64_t from, int64_t inner,
                                                          const Range& taps, const S* end) {
  typedef Compute<S> T;
  const int64_t count = kRows ? kRows : rows.count, first = kTaps ? 0 : taps.first, last = kTaps ? kTaps : taps.last;
  Champion<T, kWinner> champion;
  for (int64_t r = 0; r < count; ++r) {
    const S* at = rows.at[r] + from + first * inner;
    const Integer<T> tap = rows.tap[r] + static_cast<Integer<T>>(first);
    Champion<T, kWinner> row = {load_before<S, kChecked>(at, end), IntegerVector<T>{} + tap};
    for (int64_t k = 1; k < last - first; ++k)
      row.meet(load_before<S, kChecked>(at + k * inner, end), IntegerVector<T>{} + (tap + static_cast<Integer<T>>(k)));
    if (r == 0)
      champion = row;
    else
      champion.meet(row.best, row.tap);
  }
  return champion;
}

template <typename S, typename W, bool kWinner, int kTaps, int kRows>
__attribute__((noinline)) void pool_few_pixels(const PoolProblem& p, const WindowRows<S>& first,
                                               const FewRows<S, W>& rows) {
  typedef Compute<S> T;
  const int64_t inner = p.inner;
  rows.template each<kRows>(first, [&](const WindowRows<S>& windows, S* to, W* winner, int64_t room) {
    const bool plain =
        inner % kLanes<T> == 0 || rows.end - windows.at[windows.count - 1] >= p.input[2] * inner + kLanes<T>;
    for (int64_t o = 0; o < p.output[2]; ++o) {
      const Range taps = inside_taps(p, 2, o);
      const bool whole = plain && o >= rows.inside.first && o < rows.inside.last;
      const int64_t from = (o * p.stride[2] - p.padding[2]) * inner;
      for (int64_t c = 0; c < inner; c += kLanes<T>) {
        const int64_t at = o * inner + c;
        const Champion<T, kWinner> champion =
            whole ? few_of_pixel<S, kWinner, kTaps, kRows, false>(windows, from + c, inner, taps, rows.end)
                  : few_of_pixel<S, kWinner, 0, 0, true>(windows, from + c, inner, taps, rows.end);
        write_champion<S, W, kWinner>(champion, to + at, kWinner ? winner + at : nullptr, inner - c, room - at);
      }
    }
  });
}

template <typename S, typename W, bool kWinner, int kTaps, int kStep>
void pool_few(const PoolProblem& p, const Plan& plan, const Band& band, const S* input, S* output, W* winner,
              const S* room) {
  const S* limit = input + p.outer * volume(p.input) * p.inner;
  const S* plane = input + band.outer * volume(p.input) * p.inner;
  const int64_t first_row = (band.outer * p.output[0] + band.depth) * p.output[1], length = p.output[2] * p.inner;
  const Range depths = inside_taps(p, 0, band.depth), whole = inside_windows(p, 1);
  for (int64_t oh = band.first, count = 1; oh < band.last; oh += count) {
    const bool inside = oh >= whole.first && oh < whole.last;
    count = inside ? smaller(whole.last, band.last) - oh : 1;
    const WindowRows<S> first = window_rows(p, plane, depths, band.depth, oh);
    S* to = output + (first_row + oh) * length;
    W* places = kWinner ? winner + (to - output) : nullptr;
    if (first.count == 0) {  // dilated windows may miss the input altogether
      for (int64_t i = 0; i < count * length; ++i) {
        set_value(to + i, -static_cast<Compute<S>>(__builtin_inf()));
        if constexpr (kWinner) places[i] = static_cast<W>(kNone);
      }
      continue;
    }
    const FewRows<S, W> rows = {count,  length,   p.stride[1] * p.input[2] * p.inner, plan.inside, input, limit, to,
                                places, room - to};
    const bool square = first.count == kTaps;
    if constexpr (kStep == 0)
      square ? pool_few_pixels<S, W, kWinner, kTaps, kTaps>(p, first, rows)
             : pool_few_pixels<S, W, kWinner, kTaps, 0>(p, first, rows);
    else
      square ? pool_few_columns<S, W, kWinner, kTaps, kStep, kTaps>(p, first, rows)
             : pool_few_columns<S, W, kWinner, kTaps, kStep, 0>(p, first, rows);
  }
}

// The rows of outputs of one band, chunk by chunk along the width.
template <typename S, typename W, bool kWinner>
void pool_band(const PoolProblem& p, const Plan& plan, const Band& band, const S* input, S* output, W* winner,
               const S* end, void* workspace) {
  typedef Compute<S> T;
  if (few_taps(p)) {
    const int64_t step = p.inner > 1 ? 0 : p.stride[2];
    const auto pool = p.kernel[2] == 2 ? (step == 0   ? pool_few<S, W, kWinner, 2, 0>
                                          : step == 1 ? pool_few<S, W, kWinner, 2, 1>
                                                      : pool_few<S, W, kWinner, 2, 2>)
                                       : (step == 0   ? pool_few<S, W, kWinner, 3, 0>
                                          : step == 1 ? pool_few<S, W, kWinner, 3, 1>
                                                      : pool_few<S, W, kWinner, 3, 2>);
    return pool(p, plan, band, input, output, winner, end);
  }
  const S* limit = input + p.outer * volume(p.input) * p.inner;
  const S* plane = input + band.outer * volume(p.input) * p.inner;
  const int64_t slots = plan.planes * plan.height, row_stride = p.input[2] * p.inner;
  T* held = static_cast<T*>(workspace);
  Integer<T>* held_tap = reinterpret_cast<Integer<T>*>(held + (slots + 1) * plan.length);
  const int64_t row_length = p.output[2] * p.inner;
  const int64_t first_row = (band.outer * p.output[0] + band.depth) * p.output[1];
  const Range depths = inside_taps(p, 0, band.depth);
  const bool dense = p.stride[1] <= p.dilation[1] * (p.kernel[1] - 1) + 1;
  const bool wide = few_and_wide<T>(p);
  if (wide || columns_first<T>(p)) {
    for (int64_t oh = band.first; oh < band.last; ++oh) {
      const int64_t at = (first_row + oh) * row_length;
      W* places = kWinner ? winner + at : nullptr;
      if (wide)
        pool_wide<S, W, kWinner>(p, plane, band.depth, oh, output + at, places);
      else
        pool_columns<S, W, kWinner>(p, plane, limit, band.depth, oh, output + at, places);
    }
    return;
  }
  for (int64_t o = 0; o < p.output[2]; o += plan.chunk) {
    const int64_t last = smaller(o + plan.chunk, p.output[2]), count = (last - o) * p.inner;
    // Reduces input rows [from, to) at depth id to places that follow each other in the held rows.
    const auto reduce_some = [&](int64_t id, int64_t from, int64_t to, int64_t slot) {
      const Reduction<S> r = {plane + (id * p.input[1] + from) * row_stride,
                              row_stride,
                              to - from,
                              limit,
                              o,
                              last,
                              held + slot * plan.length,
                              held_tap + slot * plan.length,
                              plan.length};
      reduce<S, kWinner>(p, plan.inside, r);
    };
    int64_t reduced = 0;         // the rows before it are held, if they still are needed
    int64_t strip = band.first;  // the outputs before it have their rows
    for (int64_t oh = band.first; oh < band.last; ++oh) {
      if (!plan.piled && oh == strip) {
        const Range now = spanned(p, oh);
        int64_t from = larger(now.first, reduced), to = from;
        do {
          to = larger(to, spanned(p, strip).last);
          ++strip;
        } while (dense && strip < band.last && spanned(p, strip).last - now.first <= plan.height);
        reduced = to;
        while (from < to) {
          const int64_t place = (from & (plan.height - 1)), rows = smaller(to - from, plan.height - place);
          for (int64_t kd = depths.first; kd < depths.last; ++kd)
            reduce_some(band.depth * p.stride[0] - p.padding[0] + kd * p.dilation[0], from, from + rows,
                        kd * plan.height + place);
          from += rows;
        }
      }
      S* to = output + (first_row + oh) * row_length + o * p.inner;
      W* places = kWinner ? winner + (first_row + oh) * row_length + o * p.inner : nullptr;
      const int64_t room = plan.chunk == p.output[2] ? end - to : row_length - o * p.inner;
      const Range heights = inside_taps(p, 1, oh);
      Pile<T> pile;
      for (int64_t kd = depths.first; kd < depths.last; ++kd)
        for (int64_t kh = heights.first; kh < heights.last; ++kh) {
          const int64_t ih = oh * p.stride[1] - p.padding[1] + kh * p.dilation[1];
          if (pile.count == kRows) {  // what was met so far becomes the first row of the next pile
            T* sum = held + slots * plan.length;
            Integer<T>* sum_tap = held_tap + slots * plan.length;
            combine<T, Integer<T>, kWinner>(pile, count, sum, sum_tap, plan.length);
            pile.count = 0;
            pile.add(sum, sum_tap, 0);
          }
          const int64_t slot = plan.piled ? pile.count : kd * plan.height + (ih & (plan.height - 1));
          if (plan.piled) reduce_some(band.depth * p.stride[0] - p.padding[0] + kd * p.dilation[0], ih, ih + 1, slot);
          pile.add(held + slot * plan.length, held_tap + slot * plan.length, (kd * p.kernel[1] + kh) * p.kernel[2]);
        }
      if (pile.count > 0) combine<S, W, kWinner>(pile, count, to, places, room);
      // Dilated windows may miss the input altogether.
      for (int64_t w = o; w < last && (pile.count == 0 || p.dilation[2] > 1); ++w) {
        const Range taps = inside_taps(p, 2, w);
        if (pile.count > 0 && taps.first < taps.last) continue;
        for (int64_t c = 0; c < p.inner; ++c) {
          set_value(to + (w - o) * p.inner + c, -static_cast<T>(__builtin_inf()));
          if constexpr (kWinner) places[(w - o) * p.inner + c] = static_cast<W>(kNone);
        }
      }
    }
  }
}

// Whether planes are pooled side by side: comparing is dear enough that it pays up to the second-level cache.
template <typename T>
TORCHBP_INLINE bool side_by_side(const PoolProblem& p) {
  const bool narrow = few_taps(p) ? 2 * p.output[2] <= kLanes<T> : smaller(p.input[2], p.output[2] * 2) < 4 * kLanes<T>;
  return narrow && !columns_first<T>(p) && planes_fit<T>(p, 192 << 10);
}

// The image that a few planes make.
template <typename T>
TORCHBP_INLINE PoolProblem image_of(const PoolProblem& p) {
  PoolProblem image = p;
  image.outer = 1;
  image.inner = kLanes<T>;
  return image;
}

template <typename S>
int64_t forward_tasks(const PoolProblem& p) {
  typedef Compute<S> T;
  return side_by_side<T>(p) ? (p.outer + kLanes<T> - 1) / kLanes<T> : band_tasks(p.outer, p.output);
}

template <typename S>
int64_t forward_workspace(const PoolProblem& p) {
  typedef Compute<S> T;
  if (!side_by_side<T>(p)) return band_workspace<T>(p);
  const int64_t elements = image_size<T>(volume(p.input)) + 2 * image_size<T>(volume(p.output));
  return elements * static_cast<int64_t>(sizeof(T)) + band_workspace<T>(image_of<T>(p));
}

template <typename S, typename W, bool kWinner>
void pool_image(const PoolProblem& p, const S* input, S* output, W* winner, int64_t begin, int64_t end,
                void* workspace) {
  typedef Compute<S> T;
  const PoolProblem image = image_of<T>(p);
  const Plan plan = plan_of<T>(image);
  const int64_t from = volume(p.input), to = volume(p.output);
  T* source = static_cast<T*>(workspace);
  T* target = source + image_size<T>(from);
  Integer<T>* places = reinterpret_cast<Integer<T>*>(target + image_size<T>(to));
  T* rest = target + 2 * image_size<T>(to);
  const S* limit = input + p.outer * from;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kLanes<T>, planes = smaller(kLanes<T>, p.outer - first);
    planes_to_image(planes, from, input + first * from, limit, source);
    for (int64_t depth = 0; depth < p.output[0]; ++depth)
      pool_band<T, Integer<T>, kWinner>(image, plan, {0, depth, 0, p.output[1]}, source, target, places,
                                        target + to * kLanes<T>, rest);
    image_to_planes(planes, to, target, output + first * to);
    if constexpr (kWinner) image_to_places<T>(planes, to, places, winner + first * to);
  }
}

template <typename S, typename W, bool kWinner>
void pool_tasks_of(const PoolProblem& p, const S* input, S* output, W* winner, int64_t begin, int64_t end,
                   void* workspace) {
  if (side_by_side<Compute<S>>(p)) return pool_image<S, W, kWinner>(p, input, output, winner, begin, end, workspace);
  // Vectors may be stored beyond the end of a row where this thread writes next.
  const Band last = band_of(p.outer, p.output, end - 1);
  const S* room = output + ((last.outer * p.output[0] + last.depth) * p.output[1] + last.last) * p.output[2] * p.inner;
  const Plan plan = plan_of<Compute<S>>(p);
  for (int64_t task = begin; task < end; ++task)
    pool_band<S, W, kWinner>(p, plan, band_of(p.outer, p.output, task), input, output, winner, room, workspace);
}

template <typename S>
void forward(const PoolProblem& p, const S* input, S* output, void* winner, int winner_bytes, int64_t begin,
             int64_t end, void* workspace) {
  if (!winner)
    pool_tasks_of<S, uint8_t, false>(p, input, output, nullptr, begin, end, workspace);
  else if (winner_bytes == 1)
    pool_tasks_of<S, uint8_t, true>(p, input, output, static_cast<uint8_t*>(winner), begin, end, workspace);
  else
    pool_tasks_of<S, int32_t, true>(p, input, output, static_cast<int32_t*>(winner), begin, end, workspace);
}

// ---------------------------------------------------------------------------------------------
// Backward

// Outputs along one axis whose windows may cover an input.
TORCHBP_INLINE Range covering(const PoolProblem& p, int axis, int64_t input) {
  const int64_t at = input + p.padding[axis], reach = p.dilation[axis] * (p.kernel[axis] - 1);
  const int64_t first = larger(0, divide_up(at - reach, p.stride[axis]));
  return {first, larger(first, smaller(p.output[axis], divide_down(at, p.stride[axis]) + 1))};
}

// The tap at which the window of an output covers an input, or -1.
TORCHBP_INLINE int64_t covering_tap(const PoolProblem& p, int axis, int64_t input, int64_t output) {
  const int64_t distance = input + p.padding[axis] - output * p.stride[axis];
  if (p.dilation[axis] == 1) return distance;
  return distance % p.dilation[axis] == 0 ? distance / p.dilation[axis] : -1;
}

// Windows along one axis that can cover an input.
TORCHBP_INLINE int64_t most_covering(const PoolProblem& p, int axis) {
  int64_t a = p.stride[axis], b = p.dilation[axis];
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  const int64_t step = p.stride[axis] / a;
  return (p.kernel[axis] + step - 1) / step;
}

// Rows of outputs, or depths, from the first to the last that can cover a row of inputs.
TORCHBP_INLINE int64_t covering_span(const PoolProblem& p, int axis) {
  return p.dilation[axis] * (p.kernel[axis] - 1) / p.stride[axis] + 1;
}

template <typename T>
constexpr int64_t kCovers = 4 * kLanes<T>;

// Whether the gradient is gathered. Where an input lies in many windows, or few windows are wide, it is cheaper
// to clear the plane and scatter; both add in the order of the outputs.
template <typename T>
bool gathers(const PoolProblem& p) {
  if (p.inner == 1 && p.stride[2] > 2) return false;
  int64_t windows = 1, rows = 1;
  for (int axis = 0; axis < kSpatial; ++axis) {
    windows *= smaller(most_covering(p, axis), kCovers<T> + 1);
    if (axis < 2) rows *= smaller(covering_span(p, axis), kCovers<T> + 1);
  }
  return windows <= kCovers<T> && rows <= kCovers<T>;
}

// Rows of gradients and winners of a contiguous tensor that cover rows of inputs, with room around them: a winner of
// -1 belongs to no window. Of every depth that covers one, `height` consecutive rows,
// a power of two, the row oh at place oh modulo height.
struct Lines {
  int64_t planes;
  int64_t height;
  int64_t chunk;   // inputs of a row at a time
  int64_t length;  // elements of a line
};

template <typename T>
Lines lines_of(const PoolProblem& p) {
  Lines lines;
  const int64_t reach = p.dilation[2] * (p.kernel[2] - 1), span = covering_span(p, 1);
  lines.planes = covering_span(p, 0);
  const int64_t most = larger(kHeld / ((span + 1) * lines.planes), 4 * kLanes<T>) * p.stride[2];
  lines.chunk = p.input[2] <= most ? p.input[2] : most - most % (2 * kLanes<T>);
  lines.length = (lines.chunk + reach) / p.stride[2] + 2 + 3 * kLanes<T>;
  lines.height = power_of_two(larger(span, smaller(kHeld / (lines.planes * lines.length), p.output[1])));
  return lines;
}

template <typename T>
int64_t lines_workspace(const PoolProblem& p) {
  const Lines lines = lines_of<T>(p);
  return lines.height * lines.planes * lines.length * static_cast<int64_t>(sizeof(T) + sizeof(Integer<T>));
}

// Copies a row's places [from, to) to a line; those outside [0, size) have no winner.
template <typename S, typename W>
TORCHBP_INLINE void fill_line(const S* gradient, const W* winner, int64_t size, int64_t from, int64_t to,
                              int64_t readable, Compute<S>* line, Integer<Compute<S>>* line_winner) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const IntegerVector<T> none = IntegerVector<T>{} + static_cast<Integer<T>>(kNone);
  int64_t i = larger(from, 0);
  const int64_t end = smaller(to, size);
  for (int64_t pad = 0; pad < i - from; pad += lanes) __builtin_memcpy(line_winner + pad, &none, sizeof(none));
  for (; i < end; i += lanes) {
    if (i + lanes <= readable) {
      store(line + (i - from), load_values(gradient + i));
      const IntegerVector<T> winners = widen<T>(winner + i);
      __builtin_memcpy(line_winner + (i - from), &winners, sizeof(winners));
    } else {
      for (int64_t lane = 0; lane < end - i; ++lane) {
        line[i - from + lane] = value_of(gradient[i + lane]);
        line_winner[i - from + lane] = static_cast<Integer<T>>(winner[i + lane]);
      }
    }
  }
  for (i = larger(end, larger(from, 0)); i < to; i += lanes)
    __builtin_memcpy(line_winner + (i - from), &none, sizeof(none));
}

// A line that covers the row of inputs, and the tap of its first column.
template <typename T>
struct Cover {
  const T* line;
  const Integer<T>* winner;
  Integer<T> base;
};

// Sums over the covering windows for the inputs kStep * j + phase, j a vector of neighbours: place is the line's
// place of the window with j = 0 and tap 0 at phase 0.
template <typename T, int kStep>
TORCHBP_INLINE Vector<T> gather_phase(const PoolProblem& p, const Cover<T>* covers, int64_t count, int64_t place,
                                      int64_t phase) {
  Vector<T> sum = {};
  for (int64_t r = 0; r < count; ++r)
    for (int64_t k = p.kernel[2] - 1; k >= 0; --k) {
      const int64_t distance = phase + p.padding[2] - k * p.dilation[2];
      if (kStep == 2 && (distance & 1)) continue;
      const int64_t at = place + divide_down(distance, kStep);
      const IntegerVector<T> won = widen<T>(covers[r].winner + at) == covers[r].base + static_cast<Integer<T>>(k);
      sum += won ? load(covers[r].line + at) : Vector<T>{};
    }
  return sum;
}

template <typename S, int kStep>
void gather_row(const PoolProblem& p, const Cover<Compute<S>>* covers, int64_t count, int64_t first_place, int64_t from,
                int64_t to, S* row, int64_t room) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = from; i < to; i += kStep * lanes) {
    const int64_t place = i / kStep - first_place;
    if constexpr (kStep == 1) {
      store_before(row + i, gather_phase<T, 1>(p, covers, count, place, 0), to - i, room - i);
    } else {
      const Vector<T> even = gather_phase<T, 2>(p, covers, count, place, 0);
      const Vector<T> odd = gather_phase<T, 2>(p, covers, count, place, 1);
      store_before(row + i, first_of_pairs(even, odd), to - i, room - i);
      if (i + lanes < to) store_before(row + i + lanes, rest_of_pairs(even, odd), to - i - lanes, room - i - lanes);
    }
  }
}

// Rows of inputs of a contiguous tensor.
template <typename S, typename W>
void gather_lines(const PoolProblem& p, const Lines& lines, const Band& band, const S* gradient, const W* winner,
                  S* grad_input, const S* end, void* workspace) {
  typedef Compute<S> T;
  const int64_t reach = p.dilation[2] * (p.kernel[2] - 1);
  T* line = static_cast<T*>(workspace);
  Integer<T>* line_winner = reinterpret_cast<Integer<T>*>(line + lines.height * lines.planes * lines.length);
  const int64_t planes = band.outer * p.output[0], all = p.outer * volume(p.output);
  S* rows = grad_input + (band.outer * p.input[0] + band.depth) * p.input[1] * p.input[2];
  const Range depths = covering(p, 0, band.depth);
  Cover<T> covers[kCovers<T>];
  for (int64_t from = 0; from < p.input[2]; from += lines.chunk) {
    const int64_t to = smaller(from + lines.chunk, p.input[2]);
    const int64_t first_place = divide_down(from + p.padding[2] - reach, p.stride[2]);
    int64_t filled = 0;          // the rows of outputs before it are held, if they still are needed
    int64_t strip = band.first;  // the rows of inputs before it have their lines
    for (int64_t ih = band.first; ih < band.last; ++ih) {
      const Range heights = covering(p, 1, ih);
      if (ih == strip) {
        int64_t oh = larger(filled, heights.first);
        do {
          filled = larger(filled, covering(p, 1, strip).last);
          ++strip;
        } while (strip < band.last && covering(p, 1, strip).last - heights.first <= lines.height);
        for (; oh < filled; ++oh)
          for (int64_t od = depths.first; od < depths.last; ++od) {
            const int64_t at = ((planes + od) * p.output[1] + oh) * p.output[2];
            const int64_t slot = ((od - depths.first) * lines.height + (oh & (lines.height - 1))) * lines.length;
            fill_line(gradient + at, winner + at, p.output[2], first_place, first_place + lines.length - kLanes<T>,
                      all - at, line + slot, line_winner + slot);
          }
      }
      int64_t count = 0;
      for (int64_t od = depths.first; od < depths.last; ++od) {
        const int64_t kd = covering_tap(p, 0, band.depth, od);
        for (int64_t oh = heights.first; kd >= 0 && oh < heights.last; ++oh) {
          const int64_t kh = covering_tap(p, 1, ih, oh);
          if (kh < 0) continue;
          const int64_t slot = ((od - depths.first) * lines.height + (oh & (lines.height - 1))) * lines.length;
          covers[count++] = {line + slot, line_winner + slot,
                             static_cast<Integer<T>>((kd * p.kernel[1] + kh) * p.kernel[2])};
        }
      }
      S* row = rows + ih * p.input[2];
      const int64_t room = lines.chunk == p.input[2] ? end - row : p.input[2];
      if (p.stride[2] == 1)
        gather_row<S, 1>(p, covers, count, first_place, from, to, row, room);
      else
        gather_row<S, 2>(p, covers, count, first_place, from, to, row, room);
    }
  }
}

// A row of outputs that covers a row of inputs: its first element, and the tap of the first column.
template <typename T, typename W>
struct CoverRow {
  int64_t at;
  int64_t tap;
  Places<T, W> first;  // the tap, for each lane

  TORCHBP_INLINE Places<T, W> columns(const W* winner) const { return load_places<T>(winner) - first; }
};

template <typename T, typename W>
struct CoverRows {
  int64_t count = 0;
  CoverRow<T, W> row[kCovers<T>];

  TORCHBP_INLINE void add(const PoolProblem& p, int64_t output_row, int64_t kd, int64_t kh) {
    CoverRow<T, W>& next = row[count++];
    next.at = output_row * p.output[2] * p.inner;
    next.tap = (kd * p.kernel[1] + kh) * p.kernel[2];
    next.first = Places<T, W>{} + static_cast<typename PlacesOf<T, W>::Element>(next.tap);
  }

  TORCHBP_INLINE void find(const PoolProblem& p, const Band& band, const Range& depths, int64_t ih) {
    const Range heights = covering(p, 1, ih);
    count = 0;
    for (int64_t od = depths.first; od < depths.last; ++od) {
      const int64_t kd = covering_tap(p, 0, band.depth, od);
      for (int64_t oh = heights.first; kd >= 0 && oh < heights.last; ++oh) {
        const int64_t kh = covering_tap(p, 1, ih, oh);
        if (kh >= 0) add(p, (band.outer * p.output[0] + od) * p.output[1] + oh, kd, kh);
      }
    }
  }

  // The same for a row at a phase of the stride, counted from the row of outputs whose stride it is in; beyond the end
  // of a plane too.
  TORCHBP_INLINE void find_around(const PoolProblem& p, int64_t depth_phase, int64_t phase) {
    count = 0;
    for (int64_t kd = p.kernel[0] - 1; kd >= 0; --kd) {
      const int64_t depth = depth_phase + p.padding[0] - kd * p.dilation[0];
      for (int64_t kh = p.kernel[1] - 1; depth % p.stride[0] == 0 && kh >= 0; --kh) {
        const int64_t height = phase + p.padding[1] - kh * p.dilation[1];
        if (height % p.stride[1] == 0) add(p, depth / p.stride[0] * p.output[1] + height / p.stride[1], kd, kh);
      }
    }
  }
};

// Windows of two or three columns whose covers of an input are known when this is compiled: input kStep * m + phase,
// counted from the start of the padding, is column phase of window m, column phase + kStep of window m - 1, ...
template <int kTaps, int kStep>
struct Slide {
  static constexpr int kColumns = kTaps;
  static constexpr int kStride = kStep;
  // The last column at a phase: that of the first window.
  static constexpr int last(int phase) { return phase + (kTaps - 1 - phase) / kStep * kStep; }
};

// Calls body with the slide of the windows, Slide<0, 0> if they have none.
template <typename Body>
TORCHBP_INLINE auto with_slide(const PoolProblem& p, const Body& body) {
  if (p.dilation[2] == 1 && p.kernel[2] == 2 && p.stride[2] == 2) return body(Slide<2, 2>{});
  if (p.dilation[2] == 1 && p.kernel[2] == 3 && p.stride[2] == 2) return body(Slide<3, 2>{});
  if (p.dilation[2] == 1 && p.kernel[2] == 3 && p.stride[2] == 1) return body(Slide<3, 1>{});
  return body(Slide<0, 0>{});
}

// Outputs of the tensor, and those of one row.
template <typename S, typename W>
struct Outputs {
  const S* gradient;
  const W* winner;
  int64_t all;
  int64_t width;
  bool stream;  // how the inputs' gradient is written
};

// Sums for a vector of inputs at a phase, of which the first is covered by windows m, m - 1, ... of kRows rows, or
// `count`. In a row that windows cover to its end a place beyond the row is a window that this input would be
// padding of: it never won.
template <typename Slide, int kPhase, int kRows, Reading kReading, typename S, typename W>
TORCHBP_INLINE Vector<Compute<S>> slide_columns(const CoverRow<Compute<S>, W>* rows, int64_t count,
                                                const Outputs<S, W>& from, int64_t m) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> sum = {};
  for (int64_t r = 0; r < (kRows ? kRows : count); ++r)
    for (int k = Slide::last(kPhase); k >= 0; k -= Slide::kStride) {
      const int64_t place = m - k / Slide::kStride, at = rows[r].at + place;
      if constexpr (kReading == kPlain) {
        sum += values_at<T>(rows[r].columns(from.winner + at), k, load_values(from.gradient + at));
      } else {
        const int64_t first = kReading == kBeyondRow ? place : at;
        const int64_t end = kReading == kBeyondRow ? from.width : from.all;
        S gradient[lanes] = {};
        W winner[lanes];
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const bool inside = first + lane >= 0 && first + lane < end;
          winner[lane] = inside ? from.winner[at + lane] : static_cast<W>(kNone);
          if (inside) gradient[lane] = from.gradient[at + lane];
        }
        sum += values_at<T>(rows[r].columns(winner), k, load_values(gradient));
      }
    }
  return sum;
}

// A row of inputs of a contiguous tensor.
template <typename Slide, int kShift, int kRows, Reading kReading, typename S, typename W>
TORCHBP_INLINE void slide_vector(const CoverRow<Compute<S>, W>* rows, int64_t row_count, const Outputs<S, W>& from,
                                 int64_t m, S* to, int64_t count, int64_t room) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  if constexpr (Slide::kStride == 1) {
    store_result(to, slide_columns<Slide, 0, kRows, kReading>(rows, row_count, from, m), count, room, from.stream);
  } else {
    const Vector<T> even = slide_columns<Slide, kShift, kRows, kReading>(rows, row_count, from, m);
    const Vector<T> odd = slide_columns<Slide, 1 - kShift, kRows, kReading>(rows, row_count, from, m + kShift);
    store_result(to, first_of_pairs(even, odd), count, room, from.stream);
    if (count > lanes) store_result(to + lanes, rest_of_pairs(even, odd), count - lanes, room - lanes, from.stream);
  }
}

template <typename Slide, int kShift, typename S, typename W>
__attribute__((noinline)) void slide_row(const PoolProblem& p, const CoverRows<Compute<S>, W>& rows,
                                         const Outputs<S, W>& from, S* to, int64_t room) {
  constexpr int64_t step = Slide::kStride * kLanes<Compute<S>>, back = (Slide::kColumns - 1) / Slide::kStride;
  const bool covered = p.input[2] <= p.output[2] * Slide::kStride;
  const int64_t before = rows.count > 0 ? rows.row[0].at : 0;
  const int64_t after = rows.count > 0 ? from.all - rows.row[rows.count - 1].at : 0;
  for (int64_t i = 0; i < p.input[2]; i += step) {
    const int64_t m = (i + p.padding[2]) / Slide::kStride, count = p.input[2] - i;
    const int64_t last = (i + smaller(count, step) - 1 + p.padding[2]) / Slide::kStride;
    const bool plain = before + m >= back && m + kLanes<Compute<S>> + kShift <= after &&
                       (covered || (m >= back && last < p.output[2]));
    if (plain)
      slide_vector<Slide, kShift, 0, kPlain>(rows.row, rows.count, from, m, to + i, count, room - i);
    else
      slide_vector<Slide, kShift, 0, kBeyondRow>(rows.row, rows.count, from, m, to + i, count, room - i);
  }
}

// What kBlock vectors of channels of one input get from the windows `widths` of each row; or, at a phase, from the
// windows m, m - 1, ...
template <typename Slide, int kPhase, int kBlock, typename S, typename W>
TORCHBP_INLINE void slide_pixel(const CoverRows<Compute<S>, W>& rows, int64_t m, int64_t inner, const S* gradient,
                                const W* winner, Vector<Compute<S>>* sum) {
  typedef Compute<S> T;
  for (int64_t b = 0; b < kBlock; ++b) sum[b] = Vector<T>{};
  for (int64_t r = 0; r < rows.count; ++r)
    for (int k = Slide::last(kPhase); k >= 0; k -= Slide::kStride) {
      const int64_t at = rows.row[r].at + (m - k / Slide::kStride) * inner;
      for (int64_t b = 0; b < kBlock; ++b)
        sum[b] += values_at<T>(rows.row[r].columns(winner + at + b * kLanes<T>), k,
                               load_values(gradient + at + b * kLanes<T>));
    }
}

template <int kBlock, typename S, typename W>
TORCHBP_INLINE void gather_pixel(const PoolProblem& p, const CoverRows<Compute<S>, W>& rows, const Range& widths,
                                 int64_t iw, const S* gradient, const W* winner, Vector<Compute<S>>* sum) {
  typedef Compute<S> T;
  for (int64_t b = 0; b < kBlock; ++b) sum[b] = Vector<T>{};
  for (int64_t r = 0; r < rows.count; ++r)
    for (int64_t ow = widths.first; ow < widths.last; ++ow) {
      const int64_t kw = covering_tap(p, 2, iw, ow), at = rows.row[r].at + ow * p.inner;
      if (kw < 0) continue;
      for (int64_t b = 0; b < kBlock; ++b)
        sum[b] += values_at<T>(rows.row[r].columns(winner + at + b * kLanes<T>), static_cast<int>(kw),
                               load_values(gradient + at + b * kLanes<T>));
    }
}

// A number that is known when this is compiled.
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

// Calls sum_block with vectors of channels of a pixel, four or two or one at a time, and writes what it returns; the
// last one channel by channel, by sum_one, where a vector would reach beyond what may be read.
template <typename S, typename SumBlock, typename SumOne>
TORCHBP_INLINE void for_channels(int64_t inner, bool readable, S* pixel, const S* end, bool stream,
                                 const SumBlock& sum_block, const SumOne& sum_one) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> sum[4];
  int64_t c = 0;
  for (; c + 4 * lanes <= inner; c += 4 * lanes) {
    sum_block(Index<4>{}, c, sum);
    for (int64_t b = 0; b < 4; ++b) store_result(pixel + c + b * lanes, sum[b], lanes, lanes, stream);
  }
  for (; c < inner; c += lanes) {
    if (readable || c + lanes <= inner) {
      sum_block(Index<1>{}, c, sum);
    } else {
      sum[0] = Vector<T>{};
      for (int64_t lane = 0; lane < inner - c; ++lane) sum[0][lane] = sum_one(c + lane);
    }
    store_result(pixel + c, sum[0], inner - c, end - pixel - c, stream);
  }
}

// A row of inputs of a channels-last tensor.
template <typename Slide, typename S, typename W>
__attribute__((noinline)) void gather_pixels(const PoolProblem& p, const CoverRows<Compute<S>, W>& rows,
                                             const Outputs<S, W>& from, S* pixel, const S* end) {
  typedef Compute<S> T;
  const int64_t inner = p.inner, length = p.output[2] * inner;
  const bool readable = rows.count == 0 || rows.row[rows.count - 1].at + length + kLanes<T> <= from.all;
  for (int64_t iw = 0; iw < p.input[2]; ++iw, pixel += inner) {
    if constexpr (Slide::kStride > 0) {
      const uint64_t place = static_cast<uint64_t>(iw + p.padding[2]);
      const int64_t m = static_cast<int64_t>(place / Slide::kStride),
                    phase = static_cast<int64_t>(place % Slide::kStride);
      if (readable && m >= (Slide::kColumns - 1 - phase) / Slide::kStride && m < p.output[2]) {
        const auto whole = [&](auto block, int64_t c, Vector<T>* sum) {
          constexpr int kBlock = decltype(block)::value;
          if (Slide::kStride == 1 || phase == 0)
            slide_pixel<Slide, 0, kBlock>(rows, m, inner, from.gradient + c, from.winner + c, sum);
          else
            slide_pixel<Slide, Slide::kStride - 1, kBlock>(rows, m, inner, from.gradient + c, from.winner + c, sum);
        };
        for_channels(inner, true, pixel, end, from.stream, whole, [](int64_t) { return T(0); });
        continue;
      }
    }
    const Range widths = covering(p, 2, iw);
    const auto part = [&](auto block, int64_t c, Vector<T>* sum) {
      gather_pixel<decltype(block)::value>(p, rows, widths, iw, from.gradient + c, from.winner + c, sum);
    };
    for_channels(inner, readable, pixel, end, from.stream, part, [&](int64_t c) {
      T sum = T(0);
      for (int64_t r = 0; r < rows.count; ++r)
        for (int64_t ow = widths.first; ow < widths.last; ++ow) {
          const int64_t kw = covering_tap(p, 2, iw, ow), at = rows.row[r].at + ow * inner + c;
          if (kw >= 0 && static_cast<int64_t>(from.winner[at]) == rows.row[r].tap + kw)
            sum += value_of(from.gradient[at]);
        }
      return sum;
    });
  }
}

// Rows of inputs, each from the rows of outputs that cover it.
template <typename Slide, typename S, typename W>
void gather_rows(const PoolProblem& p, const Band& band, const S* gradient, const W* winner, S* grad_input,
                 const S* end, bool stream) {
  typedef Compute<S> T;
  const Outputs<S, W> from = {gradient, winner, p.outer * volume(p.output) * p.inner, p.output[2], stream};
  const Range depths = covering(p, 0, band.depth);
  const int64_t length = p.input[2] * p.inner;
  S* to = grad_input + ((band.outer * p.input[0] + band.depth) * p.input[1] + band.first) * length;
  CoverRows<T, W> rows;
  for (int64_t ih = band.first; ih < band.last; ++ih, to += length) {
    rows.find(p, band, depths, ih);
    if constexpr (Slide::kStride > 0) {
      if (p.inner == 1) {
        if (p.padding[2] % Slide::kStride == 0)
          slide_row<Slide, 0>(p, rows, from, to, end - to);
        else
          slide_row<Slide, Slide::kStride - 1>(p, rows, from, to, end - to);
        continue;
      }
    }
    gather_pixels<Slide>(p, rows, from, to, end);
  }
}

TORCHBP_INLINE bool slides(const PoolProblem& p) {
  return with_slide(p, [](auto slide) { return slide.kStride > 0; });
}

// Whether a contiguous tensor has a stride of inputs for every output, along every axis. Then what covers an input is
// found at the same distances everywhere, also across the ends of rows and planes: a window beyond an end is one that
// the input would be padding of, so that it never won.
constexpr int64_t kPhases = 4;

TORCHBP_INLINE bool regular(const PoolProblem& p) {
  bool exact = p.inner == 1 && p.stride[1] <= kPhases && slides(p);
  for (int axis = 0; axis < kSpatial; ++axis) exact = exact && p.input[axis] == p.output[axis] * p.stride[axis];
  return exact;
}

// Apart, to leave the registers to the others.
template <typename Slide, int kShift, typename S, typename W>
__attribute__((noinline)) void slide_end(const CoverRows<Compute<S>, W>& rows, const Outputs<S, W>& from, int64_t m,
                                         S* to, int64_t count, int64_t room) {
  slide_vector<Slide, kShift, 0, kBeyondTensor>(rows.row, rows.count, from, m, to, count, room);
}

// `count` inputs from a row's first one, in the stride of output `first`, on; of kRows rows, or rows.count.
template <typename Slide, int kShift, int kRows, typename S, typename W>
TORCHBP_INLINE void slide_run(const PoolProblem& p, const CoverRows<Compute<S>, W>& rows, const Outputs<S, W>& outputs,
                              int64_t first, S* to, int64_t count, int64_t room) {
  constexpr int64_t lanes = kLanes<Compute<S>>, back = (Slide::kColumns - 1) / Slide::kStride;
  const Outputs<S, W> from = outputs;  // what is not passed on stays in registers
  CoverRow<Compute<S>, W> few[kRows ? kRows : 1];
  for (int r = 0; r < kRows; ++r) few[r] = rows.row[r];
  const int64_t padding = p.padding[2], row_count = rows.count;
  const int64_t low = row_count > 0 ? rows.row[0].at : 0, high = row_count > 0 ? rows.row[row_count - 1].at : 0;
  for (int64_t i = 0; i < count; i += Slide::kStride * lanes) {
    const int64_t m = first + (i + padding) / Slide::kStride;
    if (m + low >= back && m + high + lanes + kShift <= from.all)
      slide_vector<Slide, kShift, kRows, kPlain>(kRows ? few : rows.row, row_count, from, m, to + i, count - i,
                                                 room - i);
    else
      slide_end<Slide, kShift>(rows, outputs, m, to + i, count - i, room - i);
  }
}

// The inputs in the strides of a band of outputs.
template <typename Slide, int kShift, typename S, typename W>
__attribute__((noinline)) void slide_band(const PoolProblem& p, const Band& band, const Band& last,
                                          const Outputs<S, W>& from, S* grad_input) {
  const int64_t height = p.stride[1], width = p.input[2], first = (band.outer * p.output[0] + band.depth) * p.output[1];
  for (int64_t depth = 0; depth < p.stride[0]; ++depth) {
    CoverRows<Compute<S>, W> around[kPhases];
    for (int64_t phase = 0; phase < height; ++phase) around[phase].find_around(p, depth, phase);
    S* plane = grad_input + (band.outer * p.input[0] + band.depth * p.stride[0] + depth) * p.input[1] * width;
    S* to = plane + band.first * height * width;
    // What follows at the next depth is written by this thread next, if no other depth of the stride is between.
    const int64_t ahead = p.stride[0] == 1 ? (last.outer - band.outer) * p.input[0] + last.depth - band.depth : 0;
    const S* end = plane + (ahead * p.input[1] + (p.stride[0] == 1 ? last.last : band.last) * height) * width;
    if (height == 1 && Slide::kStride == 1) {  // rows follow each other in both tensors
      slide_run<Slide, kShift, 0>(p, around[0], from, (first + band.first) * width, to,
                                  (band.last - band.first) * width, end - to);
      continue;
    }
    for (int64_t oh = band.first; oh < band.last; ++oh)
      for (int64_t phase = 0; phase < height; ++phase, to += width) {
        const int64_t at = (first + oh) * p.output[2];
        if (around[phase].count == 1)
          slide_run<Slide, kShift, 1>(p, around[phase], from, at, to, width, end - to);
        else if (around[phase].count == 2)
          slide_run<Slide, kShift, 2>(p, around[phase], from, at, to, width, end - to);
        else
          slide_run<Slide, kShift, 0>(p, around[phase], from, at, to, width, end - to);
      }
  }
}

template <typename T>
TORCHBP_INLINE bool gathers_side_by_side(const PoolProblem& p) {
  const bool narrow =
      slides(p) ? 2 * p.input[2] <= p.stride[2] * kLanes<T> : smaller(p.input[2], p.output[2] * 2) < 2 * kLanes<T>;
  return narrow && !regular(p) && planes_fit<T>(p, 112 << 10);
}

// Whether the gradient is scattered: also where windows are so far apart that outputs are few, if there are planes
// enough for the threads and sums need no other type.
template <typename S>
bool scatters(const PoolProblem& p) {
  constexpr int64_t kEnough = 16;
  if (!gathers<Compute<S>>(p)) return true;
  return sizeof(S) == sizeof(Compute<S>) && p.inner == 1 && volume(p.stride) >= 8 && p.outer >= kEnough && !regular(p);
}

template <typename S>
int64_t backward_workspace(const PoolProblem& p) {
  typedef Compute<S> T;
  if (scatters<S>(p)) return 0;
  if (!gathers_side_by_side<T>(p)) return p.inner > 1 || slides(p) ? 0 : lines_workspace<T>(p);
  const int64_t elements = image_size<T>(volume(p.input)) + 2 * image_size<T>(volume(p.output));
  return elements * static_cast<int64_t>(sizeof(T));
}

template <typename Slide, typename S, typename W>
void gather_image(const PoolProblem& p, const S* gradient, const W* winner, S* grad_input, int64_t begin, int64_t end,
                  void* workspace) {
  typedef Compute<S> T;
  const PoolProblem image = image_of<T>(p);
  const int64_t from = volume(p.output), to = volume(p.input), all = p.outer * from;
  T* source = static_cast<T*>(workspace);
  Integer<T>* places = reinterpret_cast<Integer<T>*>(source + image_size<T>(from));
  T* target = source + 2 * image_size<T>(from);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kLanes<T>, planes = smaller(kLanes<T>, p.outer - first);
    planes_to_image(planes, from, gradient + first * from, gradient + all, source);
    places_to_image<T>(planes, from, winner + first * from, winner + all, places);
    for (int64_t depth = 0; depth < p.input[0]; ++depth)
      gather_rows<Slide, T, Integer<T>>(image, {0, depth, 0, p.input[1]}, source, places, target,
                                        target + to * kLanes<T>, false);
    image_to_planes(planes, to, target, grad_input + first * to);
  }
}

template <typename Slide, typename S, typename W>
void gather_tasks(const PoolProblem& p, const S* gradient, const W* winner, S* grad_input, int64_t begin, int64_t end,
                  void* workspace) {
  if (gathers_side_by_side<Compute<S>>(p))
    return gather_image<Slide>(p, gradient, winner, grad_input, begin, end, workspace);
  const bool stream = streams(grad_input, p.outer * volume(p.input) * p.inner, p.inner > 1 ? p.inner : p.input[2]);
  if constexpr (Slide::kStride > 0) {
    if (regular(p)) {
      const Outputs<S, W> from = {gradient, winner, p.outer * volume(p.output), p.output[2], stream};
      constexpr int kOdd = Slide::kStride - 1;
      const auto slide =
          p.padding[2] % Slide::kStride == 0 ? slide_band<Slide, 0, S, W> : slide_band<Slide, kOdd, S, W>;
      const Band last = band_of(p.outer, p.output, end - 1);
      for (int64_t task = begin; task < end; ++task) slide(p, band_of(p.outer, p.output, task), last, from, grad_input);
      end_stream(stream);
      return;
    }
  }
  const Band last = band_of(p.outer, p.input, end - 1);
  const S* room = grad_input + ((last.outer * p.input[0] + last.depth) * p.input[1] + last.last) * p.input[2] * p.inner;
  const Lines lines = lines_of<Compute<S>>(p);
  for (int64_t task = begin; task < end; ++task) {
    const Band band = band_of(p.outer, p.input, task);
    if (p.inner > 1 || Slide::kStride > 0)
      gather_rows<Slide>(p, band, gradient, winner, grad_input, room, stream);
    else
      gather_lines(p, lines, band, gradient, winner, grad_input, room, workspace);
  }
  end_stream(stream);
}

TORCHBP_INLINE TapTable taps_of(const PoolProblem& p) {
  const int64_t row = p.input[2] * p.inner;
  return TapTable(p.kernel, {p.dilation[0] * p.input[1] * row, p.dilation[1] * row, p.dilation[2] * p.inner});
}

TORCHBP_INLINE bool holds(const Range& range, int64_t value) { return value >= range.first && value < range.last; }

// Calls visit(output offset, input offset) for every output and the input that won it; a winner that
// cannot belong to its window is passed over. Inside the input every tap can; at the border its coordinates are
// checked.
template <typename Winner, typename Visit>
TORCHBP_INLINE void visit_winners(const PoolProblem& p, const TapTable& table, const Winner* winner, int64_t task,
                                  Visit visit) {
  const Slice slice = slice_of(p, task);
  const int64_t inner = p.inner, step = p.stride[2] * inner;
  const Range inside = inside_windows(p, 2);
  int64_t out = slice.output;
  for (int64_t od = 0; od < p.output[0]; ++od) {
    const Range depths = inside_taps(p, 0, od);
    for (int64_t oh = 0; oh < p.output[1]; ++oh) {
      const Range heights = inside_taps(p, 1, oh);
      const bool row_inside = depths.last - depths.first == p.kernel[0] && heights.last - heights.first == p.kernel[1];
      const int64_t d = od * p.stride[0] - p.padding[0], h = oh * p.stride[1] - p.padding[1];
      int64_t start = slice.input + ((d * p.input[1] + h) * p.input[2] - p.padding[2]) * inner;
      for (int64_t ow = 0; ow < p.output[2];) {
        if (row_inside && ow == inside.first && inside.last > ow) {
          for (; ow < inside.last; ++ow, out += inner, start += step)
            for (int64_t c = 0; c < (inner == 1 ? 1 : slice.channels); ++c) {
              const int64_t tap = static_cast<int64_t>(winner[out + c]);
              if (table.has(tap)) visit(out + c, start + table.at(tap).offset + c);
            }
          continue;
        }
        const Range widths = inside_taps(p, 2, ow);
        for (int64_t c = 0; c < slice.channels; ++c) {
          const int64_t tap = static_cast<int64_t>(winner[out + c]);
          if (!table.has(tap)) continue;
          const TapPlace at = table.at(tap);
          if (holds(depths, at.depth) && holds(heights, at.height) && holds(widths, at.width))
            visit(out + c, start + at.offset + c);
        }
        ++ow;
        out += inner;
        start += step;
      }
    }
  }
}

template <typename S, typename W>
void max_scatter(const PoolProblem& p, const S* gradient, const W* winner, S* grad_input, int64_t begin, int64_t end) {
  const TapTable table = taps_of(p);
  for (int64_t task = begin; task < end; ++task) {
    const Slice slice = slice_of(p, task);
    clear(grad_input + slice.input, volume(p.input), p.inner, slice.channels);
    visit_winners(p, table, winner, task, [&](int64_t out, int64_t in) {
      set_value(grad_input + in, value_of(grad_input[in]) + value_of(gradient[out]));
    });
  }
}

template <typename S>
int64_t backward_tasks(const PoolProblem& p) {
  typedef Compute<S> T;
  if (scatters<S>(p)) return slice_tasks(p);
  if (gathers_side_by_side<T>(p)) return (p.outer + kLanes<T> - 1) / kLanes<T>;
  return band_tasks(p.outer, regular(p) ? p.output : p.input);
}

template <typename S>
void backward(const PoolProblem& p, const S* gradient, const void* winner, int winner_bytes, S* grad_input,
              int64_t begin, int64_t end, void* workspace) {
  with_winner(winner, winner_bytes, [&](const auto* places) {
    if (scatters<S>(p)) return max_scatter(p, gradient, places, grad_input, begin, end);
    with_slide(
        p, [&](auto slide) { gather_tasks<decltype(slide)>(p, gradient, places, grad_input, begin, end, workspace); });
  });
}

template <typename S>
void pick(const PoolProblem& p, const S* input, const void* winner, int winner_bytes, S* output, int64_t begin,
          int64_t end) {
  const TapTable table = taps_of(p);
  for (int64_t task = begin; task < end; ++task) {
    const Slice slice = slice_of(p, task);
    clear(output + slice.output, volume(p.output), p.inner, slice.channels);
    with_winner(winner, winner_bytes, [&](const auto* places) {
      visit_winners(p, table, places, task, [&](int64_t out, int64_t in) { output[out] = input[in]; });
    });
  }
}

template <typename S>
MaxPoolKernels<S> kernels_of() {
  return {
      forward_tasks<S>,    forward_workspace<S>,     forward<S>, backward_tasks<S>, backward_workspace<S>, backward<S>,
      gathers<Compute<S>>, slice_tasks<PoolProblem>, pick<S>,
  };
}

}  // namespace

MaxPoolKernels<float> max_pool_float() { return kernels_of<float>(); }
MaxPoolKernels<double> max_pool_double() { return kernels_of<double>(); }
MaxPoolKernels<BFloat16> max_pool_bfloat16() { return kernels_of<BFloat16>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
