// Max pooling over windows that follow no stride, as adaptive and fractional pools have, and unpooling.
#include "contest.h"
#include "planes.h"
#include "pooling.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Windows are visited one by one: their starts and lengths
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
  const T* limit = input + problem.outer * volume(problem.input) * inner;
  visit_boxes(problem, task, [&](int64_t out, int64_t in, const Box& box) {
    const int64_t start = (box.start[0] * problem.input[1] + box.start[1]) * problem.input[2] + box.start[2];
    const T* from = input + in + start * inner;
    const int64_t height = problem.input[2] * inner, depth = problem.input[1] * height, width = box.length[2];
    if (inner > 1) {
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        Champion<T, true> champion = {load_before<T, true>(from + c, limit), IntegerVector<T>{}};
        Integer<T> place = 0;
        for (int64_t d = 0; d < box.length[0]; ++d)
          for (int64_t h = 0; h < box.length[1]; ++h)
            for (int64_t w = 0; w < width; ++w, ++place)
              champion.meet(load_before<T, true>(from + d * depth + h * height + w * inner + c, limit),
                            IntegerVector<T>{} + place);
        for (int64_t lane = 0; lane < smaller(kLanes<T>, channels - c); ++lane) {
          output[out + c + lane] = champion.best[lane];
          winner[out + c + lane] = static_cast<Winner>(champion.tap[lane]);
        }
      }
    } else if (width >= kLanes<T>) {
      WideContest<T> contest;
      for (int64_t d = 0; d < box.length[0]; ++d)
        for (int64_t h = 0; h < box.length[1]; ++h)
          contest.row(from + d * depth + h * height, width, static_cast<Integer<T>>((d * box.length[1] + h) * width));
      contest.finish();
      output[out] = contest.rest;
      winner[out] = static_cast<Winner>(contest.rest_place);
    } else {
      T best = *from;
      Integer<T> best_place = 0, place = 0;
      for (int64_t d = 0; d < box.length[0]; ++d)
        for (int64_t h = 0; h < box.length[1]; ++h) {
          const T* row = from + d * depth + h * height;
          for (int64_t w = 0; w < width; ++w, ++place) meet_one(&best, &best_place, row[w], place);
        }
      output[out] = best;
      winner[out] = static_cast<Winner>(best_place);
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
IrregularPoolKernels<T> kernels_of() {
  return {
      slice_tasks<IrregularProblem>,
      irregular_max_pool<T>,
      irregular_scatter<T>,
      irregular_gather<T>,
      unpool<T>,
      unpool_adjoint<T>,
  };
}

}  // namespace

IrregularPoolKernels<float> irregular_pool_float() { return kernels_of<float>(); }
IrregularPoolKernels<double> irregular_pool_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
