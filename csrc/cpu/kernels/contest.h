// Finding the largest element of a window, and reading and writing who it was.
#pragma once

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {

// What stands for the winner of a window without elements.
constexpr int32_t kNone = -1;

// The best values of a vector of windows, and their taps.
template <typename T, bool kWinner>
struct Champion {
  Vector<T> best;
  IntegerVector<T> tap;

  // The first of equals stays; a NaN always wins, so the last one is kept.
  TORCHBP_INLINE void meet(const Vector<T>& value, const IntegerVector<T>& other) {
    const IntegerVector<T> take = (value > best) | (value != value);
    best = take ? value : best;
    if constexpr (kWinner) tap = take ? other : tap;
  }

  // The same in any order of the taps: the first of equals, and the last NaN.
  TORCHBP_INLINE void meet_any(const Vector<T>& value, const IntegerVector<T>& other) {
    const IntegerVector<T> ahead = (value > best) | ((value == best) & (other < tap));
    const IntegerVector<T> take = ahead | ((value != value) & ((best == best) | (other > tap)));
    best = take ? value : best;
    tap = take ? other : tap;
  }
};

// The same for one window. Masks in place of branches: which of a few random values is the largest cannot be
// predicted.
template <typename T>
TORCHBP_INLINE void meet_one(T* best, Integer<T>* winner, T value, Integer<T> tap) {
  const Integer<T> take = -static_cast<Integer<T>>((value > *best) | (value != value));
  Integer<T> old_bits, new_bits;
  __builtin_memcpy(&old_bits, best, sizeof(T));
  __builtin_memcpy(&new_bits, &value, sizeof(T));
  old_bits ^= (old_bits ^ new_bits) & take;
  __builtin_memcpy(best, &old_bits, sizeof(T));
  *winner ^= (*winner ^ tap) & take;
}

// One wide window of a contiguous tensor, row by row: elements meet lane by lane, and the lanes at the end.
template <typename T>
struct WideContest {
  Champion<T, true> lanes = {Vector<T>{}, IntegerVector<T>{}};
  bool any = false;  // whether the lanes hold elements
  T rest = 0;        // of the elements that fill no vector
  Integer<T> rest_place = kNone;

  // `count` elements of which the first has place `first`.
  template <typename S>
  TORCHBP_INLINE void row(const S* from, int64_t count, Integer<T> first) {
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) {
      const IntegerVector<T> place = IntegerVector<T>{} + static_cast<Integer<T>>(first + i);
      if (any)
        lanes.meet(load_values(from + i), place);
      else
        lanes = {load_values(from + i), place};
      any = true;
    }
    for (; i < count; ++i) {
      const T value = value_of(from[i]);
      if (rest_place < 0 || value > rest || value != value) {
        rest = value;
        rest_place = static_cast<Integer<T>>(first + i);
      }
    }
  }

  // Leaves the winner in rest and rest_place: the first of equals, and the last NaN.
  TORCHBP_INLINE void finish() {
    for (int64_t lane = 0; any && lane < kLanes<T>; ++lane) {
      const T value = lanes.best[lane];
      const Integer<T> place = lanes.tap[lane] + static_cast<Integer<T>>(lane);
      const bool nan = value != value, rest_nan = rest != rest, earlier = place < rest_place;
      const bool take =
          rest_place < 0 || (nan ? !rest_nan || !earlier : !rest_nan && (value > rest || (value == rest && earlier)));
      if (!take) continue;
      rest = value;
      rest_place = place;
    }
  }
};

// The winners of a vector of windows, in the type in which they are compared.
template <typename T, typename W>
struct PlacesOf {
  typedef Integer<T> Element;
  typedef IntegerVector<T> Type;
};
#if defined(__AVX512F__)
template <>
struct PlacesOf<float, uint8_t> {
  typedef uint8_t Element;
  typedef Words<float, 1> Type;  // bytes make masks as well
};
#endif
template <typename T, typename W>
using Places = typename PlacesOf<T, W>::Type;

template <typename T, typename W>
TORCHBP_INLINE Places<T, W> load_places(const W* from) {
  if constexpr (sizeof(Places<T, W>) == sizeof(IntegerVector<T>)) {
    return widen<T>(from);
  } else {
    Places<T, W> places;
    __builtin_memcpy(&places, from, sizeof(places));
    return places;
  }
}

// The values whose place is the one given, zeros for the others.
template <typename T, typename V>
TORCHBP_INLINE Vector<T> values_at(const V& places, int place, const Vector<T>& values) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 16) {
    const __mmask16 same =
        _mm_cmpeq_epi8_mask(reinterpret_cast<__m128i>(places), _mm_set1_epi8(static_cast<char>(place)));
    return _mm512_maskz_mov_ps(same, values);
  }
#endif
  if constexpr (sizeof(V) == sizeof(Vector<T>)) return places == static_cast<Integer<T>>(place) ? values : Vector<T>{};
}

// Writes a vector of maxima and winners, or the `count` that matter where there is no room for all.
template <typename S, typename W, bool kWinner>
TORCHBP_INLINE void write_champion(const Champion<Compute<S>, kWinner>& champion, S* to, W* winner, int64_t count,
                                   int64_t room) {
  typedef Compute<S> T;
  if (room >= kLanes<T>) {
    store_values(to, champion.best);
    if constexpr (kWinner) narrow<T>(champion.tap, winner);
    return;
  }
  for (int64_t lane = 0; lane < smaller(count, kLanes<T>); ++lane) {
    set_value(to + lane, champion.best[lane]);
    if constexpr (kWinner) winner[lane] = static_cast<W>(champion.tap[lane]);
  }
}

// Where a tap lies in its window: its coordinates, and its distance from the window's first element.
struct TapPlace {
  int64_t offset;
  int64_t depth;
  int64_t height;
  int64_t width;
};

// The places of the taps of a window, whose elements are `step` apart along each axis; of few taps in a table.
struct TapTable {
  struct Steps {
    int64_t axis[kSpatial];
  };
  static constexpr int64_t kMost = 256;
  int64_t kernel[kSpatial];
  Steps step;
  int64_t taps;
  TapPlace place[kMost];

  TapTable(const int64_t* size, const Steps& steps)
      : kernel{size[0], size[1], size[2]}, step(steps), taps(size[0] * size[1] * size[2]) {
    for (uint64_t tap = 0; few() && has(tap); ++tap) place[tap] = find(tap);
  }

  TORCHBP_INLINE bool few() const { return taps <= kMost; }
  TORCHBP_INLINE bool has(uint64_t tap) const { return tap < static_cast<uint64_t>(taps); }
  TORCHBP_INLINE TapPlace at(uint64_t tap) const { return few() ? place[tap] : find(tap); }

 private:
  TORCHBP_INLINE TapPlace find(uint64_t tap) const {
    // Taps are below 2^31, and narrow divisions are several times faster.
    const uint32_t t = static_cast<uint32_t>(tap), columns = static_cast<uint32_t>(kernel[2]);
    const uint32_t row = t / columns, rows = static_cast<uint32_t>(kernel[1]);
    const int64_t d = row / rows, h = row % rows, w = t % columns;
    return {d * step.axis[0] + h * step.axis[1] + w * step.axis[2], d, h, w};
  }
};

// Calls body with the winners as bytes or as 32-bit integers.
template <typename Body>
TORCHBP_INLINE void with_winner(const void* winner, int winner_bytes, Body body) {
  if (winner_bytes == 1)
    body(static_cast<const uint8_t*>(winner));
  else
    body(static_cast<const int32_t*>(winner));
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
