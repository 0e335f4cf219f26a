// Pooling loops. Rows of outputs are reduced tap by tap into a small buffer, so that the inner loop
// always runs along the contiguous axis: width for contiguous tensors, channels for channels-last.
#include "pooling.h"

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Channels of one task of a channels-last tensor.
constexpr int64_t kChannels = 64;

template <typename Problem>
int64_t channel_block(const Problem& problem) {
  return smaller(problem.inner, kChannels);
}

template <typename Problem>
int64_t channel_blocks(const Problem& problem) {
  const int64_t block = larger(1, channel_block(problem));
  return (problem.inner + block - 1) / block;
}

template <typename Problem>
int64_t pool_tasks(const Problem& problem) {
  return problem.outer * channel_blocks(problem);
}

TORCHBP_INLINE int64_t volume(const int64_t* size) { return size[0] * size[1] * size[2]; }

// The part of a tensor that one task reads or writes: a plane, or a block of channels of an image.
struct Slice {
  int64_t input;  // offset of the first element
  int64_t output;
  int64_t channels;
};

template <typename Problem>
TORCHBP_INLINE Slice slice_of(const Problem& problem, int64_t task) {
  const int64_t blocks = channel_blocks(problem), block = channel_block(problem);
  const int64_t outer = task / blocks, first = (task % blocks) * block;
  return {outer * volume(problem.input) * problem.inner + first, outer * volume(problem.output) * problem.inner + first,
          smaller(block, problem.inner - first)};
}

template <typename T>
void clear(T* __restrict__ to, int64_t pixels, int64_t inner, int64_t channels) {
  if (channels == inner) {
    for (int64_t i = 0; i < pixels * inner; ++i) to[i] = T(0);
    return;
  }
  for (int64_t i = 0; i < pixels; ++i)
    for (int64_t c = 0; c < channels; ++c) to[i * inner + c] = T(0);
}

// ---------------------------------------------------------------------------------------------
// Max pooling

// The integer of the same size as T, so that value and winner fill vectors of equal length.
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

// Compares `count` candidates with the best so far. The first of equals stays, a NaN always wins (so
// the last NaN is kept), and a window without a winner yet (-1) takes what comes.
template <typename T>
TORCHBP_INLINE void challenge(T* __restrict__ best, Integer<T>* __restrict__ winner, const T* __restrict__ from,
                              int64_t stride, Integer<T> tap, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const T value = from[i * stride];
    const bool take = (value > best[i]) | (value != value) | (winner[i] < 0);
    best[i] = take ? value : best[i];
    winner[i] = take ? tap : winner[i];
  }
}

template <typename T>
void challenge_strided(T* best, Integer<T>* winner, const T* from, int64_t stride, Integer<T> tap, int64_t count) {
  switch (stride) {
    case 1:
      return challenge(best, winner, from, 1, tap, count);
    case 2:
      return challenge(best, winner, from, 2, tap, count);
    default:
      return challenge(best, winner, from, stride, tap, count);
  }
}

template <typename T>
TORCHBP_INLINE void start_contest(T* best, Integer<T>* winner, int64_t count) {
  for (int64_t i = 0; i < count; ++i) best[i] = -static_cast<T>(__builtin_inf());
  for (int64_t i = 0; i < count; ++i) winner[i] = -1;
}

// The same for a single value and a window that has a winner. Masks in place of branches: which of a few
// random values is the largest cannot be predicted.
template <typename T>
TORCHBP_INLINE void challenge_one(T* best, Integer<T>* winner, T value, Integer<T> tap) {
  const Integer<T> take = -static_cast<Integer<T>>((value > *best) | (value != value));
  Integer<T> old_bits, new_bits;
  __builtin_memcpy(&old_bits, best, sizeof(T));
  __builtin_memcpy(&new_bits, &value, sizeof(T));
  old_bits ^= (old_bits ^ new_bits) & take;
  __builtin_memcpy(best, &old_bits, sizeof(T));
  *winner ^= (*winner ^ tap) & take;
}

// One window of a contiguous tensor, row by row: elements meet lane by lane, and the lanes at the end.
template <typename T>
struct WideContest {
  static constexpr int64_t kLanes = Lanes<T>::count;
  T best[kLanes + 1];  // the last one is of the elements that fill no vector
  Integer<T> place[kLanes + 1];

  TORCHBP_INLINE WideContest() { start_contest(best, place, kLanes + 1); }

  // `count` elements of which the first has place `first`.
  TORCHBP_INLINE void row(const T* from, int64_t count, Integer<T> first) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      challenge(best, place, from + i, 1, static_cast<Integer<T>>(first + i), kLanes);
    for (; i < count; ++i) challenge(best + kLanes, place + kLanes, from + i, 1, static_cast<Integer<T>>(first + i), 1);
  }

  // Leaves the winner in best[0] and place[0]: the first of equals, and the last NaN.
  TORCHBP_INLINE void finish() {
    for (int64_t lane = 0; lane < kLanes; ++lane)
      if (place[lane] >= 0) place[lane] += static_cast<Integer<T>>(lane);
    for (int64_t lane = 1; lane <= kLanes; ++lane) {
      if (place[lane] < 0) continue;
      const bool nan = best[lane] != best[lane], champion_nan = best[0] != best[0];
      const bool earlier = place[lane] < place[0];
      const bool take =
          place[0] < 0 || (nan ? !champion_nan || !earlier
                               : !champion_nan && (best[lane] > best[0] || (best[lane] == best[0] && earlier)));
      if (!take) continue;
      best[0] = best[lane];
      place[0] = place[lane];
    }
  }
};

template <typename T>
TORCHBP_INLINE void write_winners(const Integer<T>* winner, void* out, int bytes, int64_t at, int64_t count) {
  if (bytes == 1) {
    uint8_t* to = static_cast<uint8_t*>(out) + at;
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(winner[i]);
  } else {
    int32_t* to = static_cast<int32_t*>(out) + at;
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int32_t>(winner[i]);
  }
}

int64_t max_workspace(const PoolProblem& problem) {
  return 2 * (problem.inner == 1 ? problem.output[2] : channel_block(problem));
}

// Calls visit(index of the tap (depth, height, 0), input depth, input height) for the rows of a window
// that lie inside the input.
template <typename Visit>
TORCHBP_INLINE void visit_window_rows(const PoolProblem& problem, int64_t od, int64_t oh, Visit visit) {
  for (int64_t kd = 0; kd < problem.kernel[0]; ++kd) {
    const int64_t id = od * problem.stride[0] - problem.padding[0] + kd * problem.dilation[0];
    if (id < 0 || id >= problem.input[0]) continue;
    for (int64_t kh = 0; kh < problem.kernel[1]; ++kh) {
      const int64_t ih = oh * problem.stride[1] - problem.padding[1] + kh * problem.dilation[1];
      if (ih < 0 || ih >= problem.input[1]) continue;
      visit((kd * problem.kernel[1] + kh) * problem.kernel[2], id, ih);
    }
  }
}

template <typename T>
void max_pool(const PoolProblem& problem, const T* input, T* output, void* winner, int winner_bytes, T* workspace,
              int64_t task) {
  const Slice slice = slice_of(problem, task);
  input += slice.input;
  const int64_t length = problem.inner == 1 ? problem.output[2] : slice.channels;
  T* best = workspace;
  Integer<T>* best_tap = reinterpret_cast<Integer<T>*>(workspace + length);
  // Rows of few outputs over wide windows leave nothing to do side by side but the elements of a window.
  const bool few_wide = problem.inner == 1 && problem.dilation[2] == 1 && problem.kernel[2] >= Lanes<T>::count &&
                        problem.output[2] < Lanes<T>::count;
  for (int64_t od = 0; od < problem.output[0]; ++od)
    for (int64_t oh = 0; oh < problem.output[1]; ++oh) {
      const int64_t out = slice.output + (od * problem.output[1] + oh) * problem.output[2] * problem.inner;
      if (few_wide) {
        for (int64_t ow = 0; ow < length; ++ow) {
          const int64_t start = ow * problem.stride[2] - problem.padding[2];
          const int64_t from = larger(start, 0), to = smaller(start + problem.kernel[2], problem.input[2]);
          WideContest<T> contest;
          visit_window_rows(problem, od, oh, [&](int64_t tap, int64_t id, int64_t ih) {
            const T* row = input + (id * problem.input[1] + ih) * problem.input[2];
            contest.row(row + from, to - from, static_cast<Integer<T>>(tap + from - start));
          });
          contest.finish();
          output[out + ow] = contest.best[0];
          write_winners<T>(contest.place, winner, winner_bytes, out + ow, 1);
        }
      } else if (problem.inner == 1) {
        start_contest(best, best_tap, length);
        visit_window_rows(problem, od, oh, [&](int64_t tap, int64_t id, int64_t ih) {
          const T* row = input + (id * problem.input[1] + ih) * problem.input[2];
          for (int64_t kw = 0; kw < problem.kernel[2]; ++kw) {
            const int64_t shift = kw * problem.dilation[2] - problem.padding[2];
            const Range valid = valid_range(length, problem.stride[2], shift, problem.input[2]);
            challenge_strided<T>(best + valid.first, best_tap + valid.first,
                                 row + valid.first * problem.stride[2] + shift, problem.stride[2],
                                 static_cast<Integer<T>>(tap + kw), valid.last - valid.first);
          }
        });
        for (int64_t i = 0; i < length; ++i) output[out + i] = best[i];
        write_winners<T>(best_tap, winner, winner_bytes, out, length);
      } else {
        for (int64_t ow = 0; ow < problem.output[2]; ++ow) {
          start_contest(best, best_tap, length);
          visit_window_rows(problem, od, oh, [&](int64_t tap, int64_t id, int64_t ih) {
            const T* row = input + (id * problem.input[1] + ih) * problem.input[2] * problem.inner;
            for (int64_t kw = 0; kw < problem.kernel[2]; ++kw) {
              const int64_t iw = ow * problem.stride[2] - problem.padding[2] + kw * problem.dilation[2];
              if (iw < 0 || iw >= problem.input[2]) continue;
              challenge(best, best_tap, row + iw * problem.inner, 1, static_cast<Integer<T>>(tap + kw), length);
            }
          });
          const int64_t at = out + ow * problem.inner;
          for (int64_t i = 0; i < length; ++i) output[at + i] = best[i];
          write_winners<T>(best_tap, winner, winner_bytes, at, length);
        }
      }
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

// Calls body with the winners as bytes or as 32-bit integers.
template <typename Body>
TORCHBP_INLINE void with_winner(const void* winner, int winner_bytes, Body body) {
  if (winner_bytes == 1)
    body(static_cast<const uint8_t*>(winner));
  else
    body(static_cast<const int32_t*>(winner));
}

template <typename T>
void max_scatter(const PoolProblem& problem, const T* grad_output, const void* winner, int winner_bytes, T* grad_input,
                 int64_t task) {
  const Slice slice = slice_of(problem, task);
  clear(grad_input + slice.input, volume(problem.input), problem.inner, slice.channels);
  with_winner(winner, winner_bytes, [&](const auto* places) {
    visit_winners(problem, places, task, [&](int64_t out, int64_t in) { grad_input[in] += grad_output[out]; });
  });
}

template <typename T>
void max_gather(const PoolProblem& problem, const T* input, const void* winner, int winner_bytes, T* output,
                int64_t task) {
  const Slice slice = slice_of(problem, task);
  clear(output + slice.output, volume(problem.output), problem.inner, slice.channels);
  with_winner(winner, winner_bytes, [&](const auto* places) {
    visit_winners(problem, places, task, [&](int64_t out, int64_t in) { output[out] = input[in]; });
  });
}

// ---------------------------------------------------------------------------------------------
// Max pooling over windows that follow no stride. Windows are visited one by one: their starts and lengths
// change from one output to the next, so only the channels of a channels-last tensor run in parallel.

// The window of one output: along each axis its first input and its length.
struct Box {
  int64_t start[kSpatial];
  int64_t length[kSpatial];
};

// Calls visit(output offset, input offset of the slice, box) for every output of a task.
template <typename Visit>
TORCHBP_INLINE void visit_boxes(const IrregularProblem& problem, int64_t task, Visit visit) {
  const Slice slice = slice_of(problem, task);
  const int64_t outer = task / channel_blocks(problem);
  const int64_t image = problem.inner == 1 ? outer / problem.channels : outer;
  const int64_t channel = problem.inner == 1 ? outer % problem.channels : 0;
  const int64_t* start = problem.windows + image * problem.batch_stride + channel * problem.channel_stride;
  const int64_t* end = start + problem.total;
  const int64_t* first = problem.first;
  int64_t out = slice.output;
  Box box;
  const auto set = [&](int axis, int64_t o) {
    box.start[axis] = start[first[axis] + o];
    box.length[axis] = end[first[axis] + o] - box.start[axis];
  };
  for (int64_t od = 0; od < problem.output[0]; ++od) {
    set(0, od);
    for (int64_t oh = 0; oh < problem.output[1]; ++oh) {
      set(1, oh);
      for (int64_t ow = 0; ow < problem.output[2]; ++ow, out += problem.inner) {
        set(2, ow);
        visit(out, slice.input, box);
      }
    }
  }
}

template <typename T, typename Winner>
void irregular_pool(const IrregularProblem& problem, const T* input, T* output, Winner* winner, int64_t task) {
  const int64_t channels = slice_of(problem, task).channels, inner = problem.inner;
  if (inner == 1) {
    visit_boxes(problem, task, [&](int64_t out, int64_t in, const Box& box) {
      const T* from = input + in + (box.start[0] * problem.input[1] + box.start[1]) * problem.input[2] + box.start[2];
      const int64_t plane = problem.input[1] * problem.input[2], width = box.length[2];
      if (width >= Lanes<T>::count) {
        WideContest<T> contest;
        for (int64_t d = 0; d < box.length[0]; ++d)
          for (int64_t h = 0; h < box.length[1]; ++h)
            contest.row(from + d * plane + h * problem.input[2], width,
                        static_cast<Integer<T>>((d * box.length[1] + h) * width));
        contest.finish();
        output[out] = contest.best[0];
        winner[out] = static_cast<Winner>(contest.place[0]);
        return;
      }
      T best = *from;
      Integer<T> best_place = 0, place = 0;
      for (int64_t d = 0; d < box.length[0]; ++d)
        for (int64_t h = 0; h < box.length[1]; ++h) {
          const T* row = from + d * plane + h * problem.input[2];
          for (int64_t w = 0; w < width; ++w, ++place) challenge_one(&best, &best_place, row[w], place);
        }
      output[out] = best;
      winner[out] = static_cast<Winner>(best_place);
    });
    return;
  }
  T best[kChannels];
  Integer<T> best_place[kChannels];
  visit_boxes(problem, task, [&](int64_t out, int64_t in, const Box& box) {
    start_contest(best, best_place, channels);
    Integer<T> place = 0;
    for (int64_t d = 0; d < box.length[0]; ++d)
      for (int64_t h = 0; h < box.length[1]; ++h) {
        const int64_t row = (box.start[0] + d) * problem.input[1] + box.start[1] + h;
        const T* from = input + in + (row * problem.input[2] + box.start[2]) * inner;
        for (int64_t w = 0; w < box.length[2]; ++w, from += inner, ++place)
          challenge(best, best_place, from, 1, place, channels);
      }
    for (int64_t c = 0; c < channels; ++c) {
      output[out + c] = best[c];
      winner[out + c] = static_cast<Winner>(best_place[c]);
    }
  });
}

// Calls visit(output offset, input offset) for every output and the input that won it; a place outside its
// window is passed over.
template <typename Winner, typename Visit>
TORCHBP_INLINE void visit_irregular_winners(const IrregularProblem& problem, const Winner* winner, int64_t task,
                                            Visit visit) {
  const int64_t channels = slice_of(problem, task).channels;
  visit_boxes(problem, task, [&](int64_t out, int64_t in, const Box& box) {
    // Places are below 2^31, and narrow divisions are several times faster.
    const uint32_t width = static_cast<uint32_t>(box.length[2]);
    const uint32_t plane = static_cast<uint32_t>(box.length[1]) * width;
    const int64_t places = box.length[0] * box.length[1] * box.length[2];
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t place = static_cast<int64_t>(winner[out + c]);
      if (place < 0 || place >= places) continue;
      const uint32_t p = static_cast<uint32_t>(place);
      const int64_t d = box.start[0] + p / plane, h = box.start[1] + p % plane / width, w = box.start[2] + p % width;
      visit(out + c, in + ((d * problem.input[1] + h) * problem.input[2] + w) * problem.inner + c);
    }
  });
}

template <typename T>
void irregular_max_pool(const IrregularProblem& problem, const T* input, T* output, void* winner, int winner_bytes,
                        int64_t task) {
  if (winner_bytes == 1)
    irregular_pool(problem, input, output, static_cast<uint8_t*>(winner), task);
  else
    irregular_pool(problem, input, output, static_cast<int32_t*>(winner), task);
}

template <typename T>
void irregular_scatter(const IrregularProblem& problem, const T* grad_output, const void* winner, int winner_bytes,
                       T* grad_input, int64_t task) {
  const Slice slice = slice_of(problem, task);
  clear(grad_input + slice.input, volume(problem.input), problem.inner, slice.channels);
  with_winner(winner, winner_bytes, [&](const auto* places) {
    visit_irregular_winners(problem, places, task,
                            [&](int64_t out, int64_t in) { grad_input[in] += grad_output[out]; });
  });
}

template <typename T>
void irregular_gather(const IrregularProblem& problem, const T* input, const void* winner, int winner_bytes, T* output,
                      int64_t task) {
  const Slice slice = slice_of(problem, task);
  clear(output + slice.output, volume(problem.output), problem.inner, slice.channels);
  with_winner(winner, winner_bytes, [&](const auto* places) {
    visit_irregular_winners(problem, places, task, [&](int64_t out, int64_t in) { output[out] = input[in]; });
  });
}

// ---------------------------------------------------------------------------------------------
// Unpooling

template <typename T>
const int64_t* unpool(const UnpoolProblem& problem, const T* input, const int64_t* index, T* output) {
  const int64_t step = problem.step;
  for (int64_t i = 0; i < problem.to; ++i) output[i * step] = T(0);
  for (int64_t i = 0; i < problem.from; ++i) {
    const int64_t place = index[i * step];
    if (place < 0 || place >= problem.to) return index + i * step;
    output[place * step] = input[i * step];
  }
  return nullptr;
}

// From the last writer to the first: whoever comes later to a place that is taken was overwritten.
template <typename T>
const int64_t* unpool_adjoint(const UnpoolProblem& problem, const T* grad_output, const int64_t* index, T* grad_input,
                              uint8_t* taken) {
  const int64_t step = problem.step;
  clear(taken, problem.to, 1, 1);
  for (int64_t i = problem.from - 1; i >= 0; --i) {
    const int64_t place = index[i * step];
    if (place < 0 || place >= problem.to) return index + i * step;
    grad_input[i * step] = taken[place] ? T(0) : grad_output[place * step];
    taken[place] = 1;
  }
  return nullptr;
}

// ---------------------------------------------------------------------------------------------
// Average pooling. The window is separable: rows are summed first (contiguous, vectorised), then the
// sums along the width.

template <typename T>
int64_t average_workspace(const AverageProblem<T>& problem) {
  return problem.inner == 1 ? problem.input[2] : channel_block(problem);
}

// The sum of consecutive elements in a fixed order: lane by lane where there are many.
template <typename T>
TORCHBP_INLINE T total(const T* from, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  T sum = T(0);
  int64_t i = 0;
  if (count >= 2 * lanes) {
    Vector<T> sums = {};
    for (; i + lanes <= count; i += lanes) sums += load(from + i);
    for (int64_t lane = 0; lane < lanes; ++lane) sum += sums[lane];
  }
  for (; i < count; ++i) sum += from[i];
  return sum;
}

template <typename T>
void average_pool(const AverageProblem<T>& problem, const T* input, T* output, T* workspace, int64_t task) {
  const Slice slice = slice_of(problem, task);
  const T* plane = input + slice.input;
  const int64_t inner = problem.inner, width = problem.input[2];
  T* sum = workspace;
  for (int64_t od = 0; od < problem.output[0]; ++od)
    for (int64_t oh = 0; oh < problem.output[1]; ++oh) {
      const int64_t d0 = problem.start[0][od], d1 = problem.end[0][od];
      const int64_t h0 = problem.start[1][oh], h1 = problem.end[1][oh];
      const T scale = problem.scale[0][od] * problem.scale[1][oh] * problem.factor;
      T* to = output + slice.output + (od * problem.output[1] + oh) * problem.output[2] * inner;
      if (inner == 1) {
        const T* sums = plane + (d0 * problem.input[1] + h0) * width;  // a single row stays where it is
        if (d1 - d0 != 1 || h1 - h0 != 1) {
          sums = sum;
          for (int64_t i = 0; i < width; ++i) sum[i] = T(0);
          for (int64_t d = d0; d < d1; ++d)
            for (int64_t h = h0; h < h1; ++h) {
              const T* row = plane + (d * problem.input[1] + h) * width;
              for (int64_t i = 0; i < width; ++i) sum[i] += row[i];
            }
        }
        for (int64_t ow = 0; ow < problem.output[2]; ++ow) {
          const int64_t first = problem.start[2][ow];
          to[ow] = total(sums + first, problem.end[2][ow] - first) * (scale * problem.scale[2][ow]);
        }
      } else {
        for (int64_t ow = 0; ow < problem.output[2]; ++ow, to += inner) {
          for (int64_t c = 0; c < slice.channels; ++c) sum[c] = T(0);
          for (int64_t d = d0; d < d1; ++d)
            for (int64_t h = h0; h < h1; ++h)
              for (int64_t w = problem.start[2][ow]; w < problem.end[2][ow]; ++w) {
                const T* pixel = plane + ((d * problem.input[1] + h) * width + w) * inner;
                for (int64_t c = 0; c < slice.channels; ++c) sum[c] += pixel[c];
              }
          const T weight = scale * problem.scale[2][ow];
          for (int64_t c = 0; c < slice.channels; ++c) to[c] = sum[c] * weight;
        }
      }
    }
}

template <typename T>
void average_spread(const AverageProblem<T>& problem, const T* grad_output, T* grad_input, T* workspace, int64_t task) {
  const Slice slice = slice_of(problem, task);
  T* plane = grad_input + slice.input;
  const int64_t inner = problem.inner, width = problem.input[2];
  T* share = workspace;
  clear(plane, volume(problem.input), inner, slice.channels);
  for (int64_t od = 0; od < problem.output[0]; ++od)
    for (int64_t oh = 0; oh < problem.output[1]; ++oh) {
      const int64_t d0 = problem.start[0][od], d1 = problem.end[0][od];
      const int64_t h0 = problem.start[1][oh], h1 = problem.end[1][oh];
      const T scale = problem.scale[0][od] * problem.scale[1][oh] * problem.factor;
      const T* from = grad_output + slice.output + (od * problem.output[1] + oh) * problem.output[2] * inner;
      if (inner == 1) {
        for (int64_t i = 0; i < width; ++i) share[i] = T(0);
        for (int64_t ow = 0; ow < problem.output[2]; ++ow) {
          const T value = from[ow] * (scale * problem.scale[2][ow]);
          for (int64_t i = problem.start[2][ow]; i < problem.end[2][ow]; ++i) share[i] += value;
        }
        for (int64_t d = d0; d < d1; ++d)
          for (int64_t h = h0; h < h1; ++h) {
            T* row = plane + (d * problem.input[1] + h) * width;
            for (int64_t i = 0; i < width; ++i) row[i] += share[i];
          }
      } else {
        for (int64_t ow = 0; ow < problem.output[2]; ++ow, from += inner) {
          const T weight = scale * problem.scale[2][ow];
          for (int64_t c = 0; c < slice.channels; ++c) share[c] = from[c] * weight;
          for (int64_t d = d0; d < d1; ++d)
            for (int64_t h = h0; h < h1; ++h)
              for (int64_t w = problem.start[2][ow]; w < problem.end[2][ow]; ++w) {
                T* pixel = plane + ((d * problem.input[1] + h) * width + w) * inner;
                for (int64_t c = 0; c < slice.channels; ++c) pixel[c] += share[c];
              }
        }
      }
    }
}

template <typename T>
PoolKernels<T> kernels_of() {
  return {
      pool_tasks<PoolProblem>,
      max_workspace,
      max_pool<T>,
      max_scatter<T>,
      max_gather<T>,
      pool_tasks<IrregularProblem>,
      irregular_max_pool<T>,
      irregular_scatter<T>,
      irregular_gather<T>,
      unpool<T>,
      unpool_adjoint<T>,
      pool_tasks<AverageProblem<T>>,
      average_workspace<T>,
      average_pool<T>,
      average_spread<T>,
  };
}

}  // namespace

PoolKernels<float> pool_float() { return kernels_of<float>(); }
PoolKernels<double> pool_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
