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

// Outputs along the width whose windows lie inside the input.
TORCHBP_INLINE Range inside_windows(const PoolProblem& p) {
  const int64_t reach = p.dilation[2] * (p.kernel[2] - 1);
  const Range first = valid_range(p.output[2], p.stride[2], -p.padding[2], p.input[2]);
  const Range last = valid_range(p.output[2], p.stride[2], reach - p.padding[2], p.input[2]);
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
  plan.inside = inside_windows(p);
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
template <typename S, bool kWinner, int kTaps, int kStep, bool kChecked>
TORCHBP_INLINE void reduce_run(const S* from, int64_t count, int64_t taps, int64_t pitch, int64_t step, const S* limit,
                               Compute<S>* best, Integer<Compute<S>>* tap) {
  typedef Compute<S> T;
  if (kTaps) taps = kTaps;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    Champion<T, kWinner> champion = {Vector<T>{}, IntegerVector<T>{}};
    const S* at = from + i * (kStep ? kStep : step);
    if constexpr (kStep == 2 && kTaps >= 2) {  // pitch 1: neighbours come out of the same two vectors
      Vector<T> low = {}, high = {};
      for (int k = 0; k < kTaps; ++k) {
        if (k % 2 == 0) {
          low = load_before<S, kChecked>(at + k, limit);
          high = load_before<S, kChecked>(at + k + kLanes<T>, limit);
        }
        const Vector<T> value = k % 2 == 0 ? even_places(low, high) : odd_places(low, high);
        if (k == 0)
          champion = {value, IntegerVector<T>{}};
        else
          champion.meet(value, IntegerVector<T>{} + static_cast<Integer<T>>(k));
      }
    } else {
      champion = {load_stepped<S, kStep, kChecked>(at, step, limit), IntegerVector<T>{}};
      for (int64_t k = 1; k < taps; ++k)
        champion.meet(load_stepped<S, kStep, kChecked>(at + k * pitch, step, limit),
                      IntegerVector<T>{} + static_cast<Integer<T>>(k));
    }
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
template <typename S, bool kWinner, int kTaps, int kStep, bool kChecked>
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
      reduce_run<S, kWinner, kTaps, kStep, kChecked>(row + (from * p.stride[2] - p.padding[2]) * inner,
                                                     (to - from) * inner, p.kernel[2], pitch, p.stride[2], r.limit,
                                                     best + from * inner, tap + from * inner);
    else
      for (int64_t o = from; o < to; ++o)
        reduce_run<S, kWinner, kTaps, 1, kChecked>(row + (o * p.stride[2] - p.padding[2]) * inner, inner, p.kernel[2],
                                                   pitch, 1, r.limit, best + o * inner, tap + o * inner);
    reduce_border<S, kWinner>(p, row, r.limit, to, r.last, best + to * inner, tap + to * inner);
  }
}

template <typename S, bool kWinner>
void reduce(const PoolProblem& p, const Range& inside, Reduction<S> r) {
  constexpr int64_t lanes = kLanes<Compute<S>>;
  const int64_t step = p.inner == 1 ? p.stride[2] : 1, taps = p.inner > 1 || p.dilation[2] == 1 ? p.kernel[2] : 0;
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
  if (r.rows > 0) {
    if (step == 1 && taps == 2)
      reduce_rows<S, kWinner, 2, 1, false>(p, inside, r);
    else if (step == 1 && taps == 3)
      reduce_rows<S, kWinner, 3, 1, false>(p, inside, r);
    else if (step == 1)
      reduce_rows<S, kWinner, 0, 1, false>(p, inside, r);
    else if (taps == 2)
      reduce_rows<S, kWinner, 2, 2, false>(p, inside, r);
    else if (taps == 3)
      reduce_rows<S, kWinner, 3, 2, false>(p, inside, r);
    else
      reduce_rows<S, kWinner, 0, 2, false>(p, inside, r);
  }
  if (rest.rows == 0) return;
  if (step == 1)
    reduce_rows<S, kWinner, 0, 1, true>(p, inside, rest);
  else if (step == 2)
    reduce_rows<S, kWinner, 0, 2, true>(p, inside, rest);
  else
    reduce_rows<S, kWinner, 0, 0, true>(p, inside, rest);
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

// Input rows [first, last) among which are those of an output row's windows; the first never decreases.
TORCHBP_INLINE Range spanned(const PoolProblem& p, int64_t oh) {
  const Range taps = inside_taps(p, 1, oh);
  const int64_t start = oh * p.stride[1] - p.padding[1], first = larger(start, 0);
  return {first, taps.first < taps.last ? start + (taps.last - 1) * p.dilation[1] + 1 : first};
}

// The rows of outputs of one band, chunk by chunk along the width.
template <typename S, typename W, bool kWinner>
void pool_band(const PoolProblem& p, const Plan& plan, const Band& band, const S* input, S* output, W* winner,
               const S* end, void* workspace) {
  typedef Compute<S> T;
  const S* limit = input + p.outer * volume(p.input) * p.inner;
  const S* plane = input + band.outer * volume(p.input) * p.inner;
  const int64_t slots = plan.planes * plan.height, row_stride = p.input[2] * p.inner;
  T* held = static_cast<T*>(workspace);
  Integer<T>* held_tap = reinterpret_cast<Integer<T>*>(held + (slots + 1) * plan.length);
  const int64_t row_length = p.output[2] * p.inner;
  const int64_t first_row = (band.outer * p.output[0] + band.depth) * p.output[1];
  const Range depths = inside_taps(p, 0, band.depth);
  const bool dense = p.stride[1] <= p.dilation[1] * (p.kernel[1] - 1) + 1;
  if (few_and_wide<T>(p)) {
    for (int64_t oh = band.first; oh < band.last; ++oh) {
      const int64_t at = (first_row + oh) * row_length;
      pool_wide<S, W, kWinner>(p, plane, band.depth, oh, output + at, kWinner ? winner + at : nullptr);
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
  return small_planes<T>(p, 4, 192 << 10);
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
  const int64_t room = smaller(p.outer, end * kLanes<T>) * to;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kLanes<T>, planes = smaller(kLanes<T>, p.outer - first);
    planes_to_image<T>(planes, from, source, [&](int64_t plane, int64_t e) {
      return load_before<S, true>(input + (first + plane) * from + e, limit);
    });
    for (int64_t depth = 0; depth < p.output[0]; ++depth)
      pool_band<T, Integer<T>, kWinner>(image, plan, {0, depth, 0, p.output[1]}, source, target, places,
                                        target + to * kLanes<T>, rest);
    image_to_planes<T>(planes, to, target, [&](int64_t plane, int64_t e, const Vector<T>& values) {
      const int64_t at = (first + plane) * to + e;
      store_before(output + at, values, to - e, room - at);
    });
    if constexpr (kWinner)
      image_to_planes<T>(planes, to, reinterpret_cast<const T*>(places),
                         [&](int64_t plane, int64_t e, const Vector<T>& values) {
                           const int64_t at = (first + plane) * to + e;
                           const IntegerVector<T> taps = reinterpret_cast<IntegerVector<T>>(values);
                           if (room - at >= kLanes<T>)
                             narrow<T>(taps, winner + at);
                           else
                             for (int64_t i = 0; i < smaller(to - e, kLanes<T>); ++i)
                               winner[at + i] = static_cast<W>(taps[i]);
                         });
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
template <typename T, int kTaps, int kStep>
TORCHBP_INLINE Vector<T> gather_phase(const PoolProblem& p, const Cover<T>* covers, int64_t count, int64_t place,
                                      int64_t phase) {
  const int64_t taps = kTaps ? kTaps : p.kernel[2], pitch = kTaps ? 1 : p.dilation[2];
  Vector<T> sum = {};
  for (int64_t r = 0; r < count; ++r)
    for (int64_t k = taps - 1; k >= 0; --k) {
      const int64_t distance = phase + p.padding[2] - k * pitch;
      if (kStep == 2 && (distance & 1)) continue;
      const int64_t at = place + divide_down(distance, kStep);
      const IntegerVector<T> won = widen<T>(covers[r].winner + at) == covers[r].base + static_cast<Integer<T>>(k);
      sum += won ? load(covers[r].line + at) : Vector<T>{};
    }
  return sum;
}

template <typename S, int kTaps, int kStep>
void gather_row(const PoolProblem& p, const Cover<Compute<S>>* covers, int64_t count, int64_t first_place, int64_t from,
                int64_t to, S* row, int64_t room) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t i = from; i < to; i += kStep * lanes) {
    const int64_t place = i / kStep - first_place;
    if constexpr (kStep == 1) {
      store_before(row + i, gather_phase<T, kTaps, 1>(p, covers, count, place, 0), to - i, room - i);
    } else {
      const Vector<T> even = gather_phase<T, kTaps, 2>(p, covers, count, place, 0);
      const Vector<T> odd = gather_phase<T, kTaps, 2>(p, covers, count, place, 1);
      store_before(row + i, first_of_pairs(even, odd), to - i, room - i);
      if (i + lanes < to) store_before(row + i + lanes, rest_of_pairs(even, odd), to - i - lanes, room - i - lanes);
    }
  }
}

template <typename S>
using GatherRow = void (*)(const PoolProblem&, const Cover<Compute<S>>*, int64_t, int64_t, int64_t, int64_t, S*,
                           int64_t);

template <typename S>
GatherRow<S> gather_row_of(const PoolProblem& p) {
  const int64_t taps = p.dilation[2] == 1 ? p.kernel[2] : 0;
  if (p.stride[2] == 1) return taps == 3 ? gather_row<S, 3, 1> : gather_row<S, 0, 1>;
  return taps == 2 ? gather_row<S, 2, 2> : taps == 3 ? gather_row<S, 3, 2> : gather_row<S, 0, 2>;
}

// Rows of inputs of a contiguous tensor.
template <typename S, typename W>
void gather_lines(const PoolProblem& p, const Lines& lines, GatherRow<S> gather, const Band& band, const S* gradient,
                  const W* winner, S* grad_input, const S* end, void* workspace) {
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
      gather(p, covers, count, first_place, from, to, row, lines.chunk == p.input[2] ? end - row : p.input[2]);
    }
  }
}

// A row of outputs of a channels-last tensor that covers a row of inputs.
template <typename T>
struct PixelRow {
  int64_t at;  // of the first output's first channel
  Integer<T> tap;
};

// What kBlock vectors of channels of one input get from the outputs `widths` of each row.
template <typename S, typename W, int kBlock>
TORCHBP_INLINE void gather_block(const PoolProblem& p, const PixelRow<Compute<S>>* rows, int64_t count,
                                 const Range& widths, int64_t iw, const S* gradient, const W* winner,
                                 Vector<Compute<S>>* sum) {
  typedef Compute<S> T;
  for (int64_t b = 0; b < kBlock; ++b) sum[b] = Vector<T>{};
  for (int64_t r = 0; r < count; ++r)
    for (int64_t ow = widths.first; ow < widths.last; ++ow) {
      const int64_t kw = covering_tap(p, 2, iw, ow);
      if (kw < 0) continue;
      const int64_t at = rows[r].at + ow * p.inner;
      const IntegerVector<T> tap = IntegerVector<T>{} + (rows[r].tap + static_cast<Integer<T>>(kw));
      for (int64_t b = 0; b < kBlock; ++b)
        sum[b] +=
            widen<T>(winner + at + b * kLanes<T>) == tap ? load_values(gradient + at + b * kLanes<T>) : Vector<T>{};
    }
}

// Rows of inputs of a channels-last tensor.
template <typename S, typename W>
void gather_pixels(const PoolProblem& p, const Band& band, const S* gradient, const W* winner, S* grad_input,
                   const S* end) {
  typedef Compute<S> T;
  constexpr int64_t lanes = kLanes<T>;
  const int64_t inner = p.inner, planes = band.outer * p.output[0], all = p.outer * volume(p.output) * inner;
  S* pixel = grad_input + ((band.outer * p.input[0] + band.depth) * p.input[1] + band.first) * p.input[2] * inner;
  const Range depths = covering(p, 0, band.depth);
  PixelRow<T> rows[kCovers<T>];
  for (int64_t ih = band.first; ih < band.last; ++ih) {
    const Range heights = covering(p, 1, ih);
    int64_t count = 0;
    for (int64_t od = depths.first; od < depths.last; ++od) {
      const int64_t kd = covering_tap(p, 0, band.depth, od);
      for (int64_t oh = heights.first; kd >= 0 && oh < heights.last; ++oh) {
        const int64_t kh = covering_tap(p, 1, ih, oh);
        if (kh >= 0)
          rows[count++] = {((planes + od) * p.output[1] + oh) * p.output[2] * inner,
                           static_cast<Integer<T>>((kd * p.kernel[1] + kh) * p.kernel[2])};
      }
    }
    const int64_t last_row = count > 0 ? rows[count - 1].at + p.output[2] * inner : 0;
    for (int64_t iw = 0; iw < p.input[2]; ++iw, pixel += inner) {
      const Range widths = covering(p, 2, iw);
      Vector<T> sum[4];
      int64_t c = 0;
      for (; c + 4 * lanes <= inner; c += 4 * lanes) {
        gather_block<S, W, 4>(p, rows, count, widths, iw, gradient + c, winner + c, sum);
        for (int64_t b = 0; b < 4; ++b) store_values(pixel + c + b * lanes, sum[b]);
      }
      for (; c + 2 * lanes <= inner; c += 2 * lanes) {
        gather_block<S, W, 2>(p, rows, count, widths, iw, gradient + c, winner + c, sum);
        for (int64_t b = 0; b < 2; ++b) store_values(pixel + c + b * lanes, sum[b]);
      }
      for (; c < inner; c += lanes) {
        if (c + lanes <= inner || last_row + lanes <= all) {
          gather_block<S, W, 1>(p, rows, count, widths, iw, gradient + c, winner + c, sum);
        } else {
          sum[0] = Vector<T>{};
          for (int64_t r = 0; r < count; ++r)
            for (int64_t ow = widths.first; ow < widths.last; ++ow)
              for (int64_t lane = 0; lane < inner - c; ++lane) {
                const int64_t at = rows[r].at + ow * inner + c + lane, kw = covering_tap(p, 2, iw, ow);
                if (kw >= 0 && static_cast<int64_t>(winner[at]) == rows[r].tap + kw)
                  sum[0][lane] += value_of(gradient[at]);
              }
        }
        store_before(pixel + c, sum[0], inner - c, end - pixel - c);
      }
    }
  }
}

template <typename T>
TORCHBP_INLINE bool gathers_side_by_side(const PoolProblem& p) {
  return small_planes<T>(p, 2, 112 << 10);
}

template <typename S>
int64_t backward_workspace(const PoolProblem& p) {
  typedef Compute<S> T;
  if (!gathers<T>(p)) return 0;
  if (!gathers_side_by_side<T>(p)) return p.inner > 1 ? 0 : lines_workspace<T>(p);
  const int64_t elements = image_size<T>(volume(p.input)) + 2 * image_size<T>(volume(p.output));
  return elements * static_cast<int64_t>(sizeof(T));
}

template <typename S, typename W>
void gather_image(const PoolProblem& p, const S* gradient, const W* winner, S* grad_input, int64_t begin, int64_t end,
                  void* workspace) {
  typedef Compute<S> T;
  const PoolProblem image = image_of<T>(p);
  const int64_t from = volume(p.output), to = volume(p.input);
  T* source = static_cast<T*>(workspace);
  Integer<T>* places = reinterpret_cast<Integer<T>*>(source + image_size<T>(from));
  T* target = source + 2 * image_size<T>(from);
  const int64_t all = p.outer * from, room = smaller(p.outer, end * kLanes<T>) * to;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kLanes<T>, planes = smaller(kLanes<T>, p.outer - first);
    planes_to_image<T>(planes, from, source, [&](int64_t plane, int64_t e) {
      return load_before<S, true>(gradient + (first + plane) * from + e, gradient + all);
    });
    planes_to_image<T>(planes, from, reinterpret_cast<T*>(places), [&](int64_t plane, int64_t e) {
      const int64_t at = (first + plane) * from + e;
      IntegerVector<T> taps = {};
      if (at + kLanes<T> <= all)
        taps = widen<T>(winner + at);
      else
        for (int64_t i = 0; i < all - at; ++i) taps[i] = static_cast<Integer<T>>(winner[at + i]);
      return reinterpret_cast<Vector<T>>(taps);
    });
    for (int64_t depth = 0; depth < p.input[0]; ++depth)
      gather_pixels<T, Integer<T>>(image, {0, depth, 0, p.input[1]}, source, places, target, target + to * kLanes<T>);
    image_to_planes<T>(planes, to, target, [&](int64_t plane, int64_t e, const Vector<T>& values) {
      const int64_t at = (first + plane) * to + e;
      store_before(grad_input + at, values, to - e, room - at);
    });
  }
}

template <typename S, typename W>
void gather_tasks(const PoolProblem& p, const S* gradient, const W* winner, S* grad_input, int64_t begin, int64_t end,
                  void* workspace) {
  if (gathers_side_by_side<Compute<S>>(p)) return gather_image(p, gradient, winner, grad_input, begin, end, workspace);
  const Band last = band_of(p.outer, p.input, end - 1);
  const S* room = grad_input + ((last.outer * p.input[0] + last.depth) * p.input[1] + last.last) * p.input[2] * p.inner;
  const Lines lines = lines_of<Compute<S>>(p);
  const GatherRow<S> gather = gather_row_of<S>(p);
  for (int64_t task = begin; task < end; ++task) {
    const Band band = band_of(p.outer, p.input, task);
    if (p.inner == 1)
      gather_lines(p, lines, gather, band, gradient, winner, grad_input, room, workspace);
    else
      gather_pixels(p, band, gradient, winner, grad_input, room);
  }
}

// Calls visit(output offset, input offset) for every output and the input that won it; a winner that
// cannot belong to its window is passed over. Inside the input a tap is one offset from the window's
// start; at the border its coordinates are checked.
template <typename Winner, typename Visit>
TORCHBP_INLINE void visit_winners(const PoolProblem& problem, const Winner* winner, int64_t task, Visit visit) {
  const Slice slice = slice_of(problem, task);
  const int64_t inner = problem.inner, taps = volume(problem.kernel);
  const int64_t plane = problem.kernel[1] * problem.kernel[2], width = problem.input[2];
  int64_t offset[256];
  const bool tabled = taps <= 256;
  for (int64_t tap = 0; tabled && tap < taps; ++tap)
    offset[tap] = ((tap / plane * problem.dilation[0] * problem.input[1] +
                    tap % plane / problem.kernel[2] * problem.dilation[1]) *
                       width +
                   tap % problem.kernel[2] * problem.dilation[2]) *
                  inner;
  // Windows along the width that lie inside the input.
  const int64_t reach = problem.dilation[2] * (problem.kernel[2] - 1);
  const Range first = valid_range(problem.output[2], problem.stride[2], -problem.padding[2], width);
  const Range last = valid_range(problem.output[2], problem.stride[2], reach - problem.padding[2], width);
  const int64_t inside_from = first.first, inside_to = larger(inside_from, smaller(first.last, last.last));

  int64_t out = slice.output;
  for (int64_t od = 0; od < problem.output[0]; ++od)
    for (int64_t oh = 0; oh < problem.output[1]; ++oh) {
      const int64_t d = od * problem.stride[0] - problem.padding[0], h = oh * problem.stride[1] - problem.padding[1];
      const bool row_inside = tabled && d >= 0 && h >= 0 &&
                              d + problem.dilation[0] * (problem.kernel[0] - 1) < problem.input[0] &&
                              h + problem.dilation[1] * (problem.kernel[1] - 1) < problem.input[1];
      for (int64_t ow = 0; ow < problem.output[2]; ++ow, out += inner) {
        const int64_t w = ow * problem.stride[2] - problem.padding[2];
        if (row_inside && ow >= inside_from && ow < inside_to) {
          const int64_t start = slice.input + ((d * problem.input[1] + h) * width + w) * inner;
          for (int64_t c = 0; c < slice.channels; ++c) {
            const int64_t tap = static_cast<int64_t>(winner[out + c]);
            if (tap < taps) visit(out + c, start + offset[tap & 255] + c);
          }
          continue;
        }
        for (int64_t c = 0; c < slice.channels; ++c) {
          const int64_t tap = static_cast<int64_t>(winner[out + c]);
          if (tap < 0 || tap >= taps) continue;
          const int64_t id = d + tap / plane * problem.dilation[0];
          const int64_t ih = h + tap % plane / problem.kernel[2] * problem.dilation[1];
          const int64_t iw = w + tap % problem.kernel[2] * problem.dilation[2];
          if (id < 0 || id >= problem.input[0] || ih < 0 || ih >= problem.input[1] || iw < 0 || iw >= width) continue;
          visit(out + c, slice.input + ((id * problem.input[1] + ih) * width + iw) * inner + c);
        }
      }
    }
}

template <typename S>
void max_scatter(const PoolProblem& problem, const S* grad_output, const void* winner, int winner_bytes, S* grad_input,
                 int64_t task) {
  const Slice slice = slice_of(problem, task);
  clear(grad_input + slice.input, volume(problem.input), problem.inner, slice.channels);
  with_winner(winner, winner_bytes, [&](const auto* places) {
    visit_winners(problem, places, task, [&](int64_t out, int64_t in) {
      set_value(grad_input + in, value_of(grad_input[in]) + value_of(grad_output[out]));
    });
  });
}

template <typename S>
int64_t backward_tasks(const PoolProblem& p) {
  typedef Compute<S> T;
  if (!gathers<T>(p)) return slice_tasks(p);
  return gathers_side_by_side<T>(p) ? (p.outer + kLanes<T> - 1) / kLanes<T> : band_tasks(p.outer, p.input);
}

template <typename S>
void backward(const PoolProblem& p, const S* gradient, const void* winner, int winner_bytes, S* grad_input,
              int64_t begin, int64_t end, void* workspace) {
  if (gathers<Compute<S>>(p))
    with_winner(winner, winner_bytes,
                [&](const auto* places) { gather_tasks(p, gradient, places, grad_input, begin, end, workspace); });
  else
    for (int64_t task = begin; task < end; ++task) max_scatter(p, gradient, winner, winner_bytes, grad_input, task);
}

template <typename S>
void pick(const PoolProblem& problem, const S* input, const void* winner, int winner_bytes, S* output, int64_t begin,
          int64_t end) {
  for (int64_t task = begin; task < end; ++task) {
    const Slice slice = slice_of(problem, task);
    clear(output + slice.output, volume(problem.output), problem.inner, slice.channels);
    with_winner(winner, winner_bytes, [&](const auto* places) {
      visit_winners(problem, places, task, [&](int64_t out, int64_t in) { output[out] = input[in]; });
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
