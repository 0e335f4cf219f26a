// Max pooling over windows that follow no stride, as adaptive and fractional pools have, and unpooling.
#include "contest.h"
#include "planes.h"
#include "pooling.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// The windows of a plane along one axis: output o covers `length[o]` inputs from `start[o]` on.
struct Windows {
  const int64_t* start;
  const int64_t* length;
};

TORCHBP_INLINE Windows windows_of(const IrregularProblem& problem, int axis, int64_t task) {
  const int64_t outer = task / channel_blocks(problem);
  const int64_t* start = problem.windows + outer * problem.plane_stride + problem.first[axis];
  return {start, start + problem.total};
}

// A row of outputs: where it begins, where the first row of its windows begins, and how many rows they have.
struct WindowRow {
  int64_t output;
  int64_t input;
  int64_t depths;
  int64_t heights;
};

// Calls visit(row) for every row of outputs of a task.
template <typename Visit>
TORCHBP_INLINE void visit_rows(const IrregularProblem& problem, int64_t task, Visit visit) {
  const Slice slice = slice_of(problem, task);
  const Windows depths = windows_of(problem, 0, task), heights = windows_of(problem, 1, task);
  int64_t output = slice.output;
  for (int64_t od = 0; od < problem.output[0]; ++od)
    for (int64_t oh = 0; oh < problem.output[1]; ++oh, output += problem.output[2] * problem.inner) {
      const int64_t first = (depths.start[od] * problem.input[1] + heights.start[oh]) * problem.input[2];
      visit(WindowRow{output, slice.input + first * problem.inner, depths.length[od], heights.length[oh]});
    }
}

// Calls visit(offset from the first row, tap of the first column) for every row of the windows.
template <typename Visit>
TORCHBP_INLINE void visit_window(const IrregularProblem& problem, const WindowRow& row, Visit visit) {
  for (int64_t d = 0; d < row.depths; ++d)
    for (int64_t h = 0; h < row.heights; ++h)
      visit((d * problem.input[1] + h) * problem.input[2] * problem.inner,
            (d * problem.kernel[1] + h) * problem.kernel[2]);
}

// ---------------------------------------------------------------------------------------------
// Contiguous tensors: the lanes of a vector are neighbouring windows.

// from[place] of the lanes that are inside; -inf, which wins over nothing, elsewhere.
template <typename T>
TORCHBP_INLINE Vector<T> gather_inside(const T* from, const IntegerVector<T>& place, const IntegerVector<T>& inside) {
  Vector<T> v = Vector<T>{} - static_cast<T>(__builtin_inf());
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_mask_i32gather_ps(v, _mm512_movepi32_mask(reinterpret_cast<__m512i>(inside)),
                                    reinterpret_cast<__m512i>(place), from, 4);
  else
    return _mm512_mask_i64gather_pd(v, _mm512_movepi64_mask(reinterpret_cast<__m512i>(inside)),
                                    reinterpret_cast<__m512i>(place), from, 8);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_mask_i32gather_ps(v, from, reinterpret_cast<__m256i>(place), reinterpret_cast<__m256>(inside), 4);
  else
    return _mm256_mask_i64gather_pd(v, from, reinterpret_cast<__m256i>(place), reinterpret_cast<__m256d>(inside), 8);
#else
  for (int64_t lane = 0; lane < kLanes<T>; ++lane)
    if (inside[lane]) v[lane] = from[place[lane]];
  return v;
#endif
}

// The windows of a plane along the width; those beyond the last output have no length.
template <typename T>
struct Columns {
  IntegerVector<T>* start;
  IntegerVector<T>* length;
  int64_t longest = 0;

  Columns(const IrregularProblem& problem, void* workspace)
      : start(static_cast<IntegerVector<T>*>(workspace)), length(start + vectors(problem)) {}

  static int64_t vectors(const IrregularProblem& problem) { return (problem.output[2] + kLanes<T> - 1) / kLanes<T>; }

  void read(const IrregularProblem& problem, int64_t task) {
    const Windows windows = windows_of(problem, 2, task);
    longest = 0;
    for (int64_t v = 0; v < vectors(problem); ++v)
      for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
        const int64_t o = v * kLanes<T> + lane;
        const bool any = o < problem.output[2];
        start[v][lane] = any ? static_cast<Integer<T>>(windows.start[o]) : 0;
        length[v][lane] = any ? static_cast<Integer<T>>(windows.length[o]) : 0;
        if (any) longest = larger(longest, windows.length[o]);
      }
  }
};

template <typename T, typename W>
void pool_narrow(const IrregularProblem& problem, const WindowRow& row, const Columns<T>& columns, const T* input,
                 T* output, W* winner, int64_t room) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t o = 0; o < problem.output[2]; o += lanes) {
    const IntegerVector<T> start = columns.start[o / lanes], length = columns.length[o / lanes];
    Champion<T, true> champion = {Vector<T>{} - static_cast<T>(__builtin_inf()), IntegerVector<T>{}};
    visit_window(problem, row, [&](int64_t offset, int64_t tap) {
      const T* from = input + row.input + offset;
      for (int64_t w = 0; w < columns.longest; ++w)
        champion.meet(gather_inside<T>(from + w, start, length > static_cast<Integer<T>>(w)),
                      IntegerVector<T>{} + static_cast<Integer<T>>(tap + w));
    });
    write_champion<T, W, true>(champion, output + row.output + o, winner + row.output + o, problem.output[2] - o,
                               room - row.output - o);
  }
}

// Wide windows: the lanes are elements of one.
template <typename T, typename W>
void pool_wide(const IrregularProblem& problem, const WindowRow& row, const Windows& columns, const T* input, T* output,
               W* winner) {
  for (int64_t o = 0; o < problem.output[2]; ++o) {
    WideContest<T> contest;
    visit_window(problem, row, [&](int64_t offset, int64_t tap) {
      contest.row(input + row.input + offset + columns.start[o], columns.length[o], static_cast<Integer<T>>(tap));
    });
    contest.finish();
    output[row.output + o] = contest.rest;
    winner[row.output + o] = static_cast<W>(contest.rest_place);
  }
}

// ---------------------------------------------------------------------------------------------
// Channels-last tensors: the lanes are channels.

template <typename T, typename W>
void pool_pixels(const IrregularProblem& problem, const WindowRow& row, const Windows& columns, int64_t channels,
                 const T* input, const T* limit, T* output, W* winner) {
  const int64_t inner = problem.inner;
  for (int64_t o = 0; o < problem.output[2]; ++o)
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Champion<T, true> champion = {Vector<T>{} - static_cast<T>(__builtin_inf()), IntegerVector<T>{}};
      visit_window(problem, row, [&](int64_t offset, int64_t tap) {
        const T* from = input + row.input + offset + columns.start[o] * inner + c;
        for (int64_t w = 0; w < columns.length[o]; ++w)
          champion.meet(load_before<T, true>(from + w * inner, limit),
                        IntegerVector<T>{} + static_cast<Integer<T>>(tap + w));
      });
      const int64_t at = row.output + o * inner + c;
      write_champion<T, W, true>(champion, output + at, winner + at, channels - c, channels - c);
    }
}

// ---------------------------------------------------------------------------------------------

template <typename T>
int64_t forward_workspace(const IrregularProblem& problem) {
  return problem.inner == 1 ? 2 * Columns<T>::vectors(problem) * TORCHBP_VECTOR_BYTES : 0;
}

template <typename T, typename W>
void pool(const IrregularProblem& problem, const T* input, T* output, W* winner, int64_t begin, int64_t end,
          void* workspace) {
  const T* limit = input + problem.outer * volume(problem.input) * problem.inner;
  const int64_t room = slice_of(problem, end - 1).output + volume(problem.output);  // of contiguous tensors
  const bool narrow = problem.kernel[2] < kLanes<T> && problem.input[2] <= INT32_MAX;
  Columns<T> narrow_columns(problem, workspace);
  for (int64_t task = begin; task < end; ++task) {
    const Windows columns = windows_of(problem, 2, task);
    if (problem.inner == 1 && narrow && (task == begin || problem.plane_stride > 0)) narrow_columns.read(problem, task);
    visit_rows(problem, task, [&](const WindowRow& row) {
      if (problem.inner > 1)
        pool_pixels(problem, row, columns, slice_of(problem, task).channels, input, limit, output, winner);
      else if (narrow)
        pool_narrow(problem, row, narrow_columns, input, output, winner, room);
      else
        pool_wide(problem, row, columns, input, output, winner);
    });
  }
}

template <typename T>
void forward(const IrregularProblem& problem, const T* input, T* output, void* winner, int winner_bytes, int64_t begin,
             int64_t end, void* workspace) {
  if (winner_bytes == 1)
    pool(problem, input, output, static_cast<uint8_t*>(winner), begin, end, workspace);
  else
    pool(problem, input, output, static_cast<int32_t*>(winner), begin, end, workspace);
}

// Calls visit(output offset, input offset) for every output of a task and the input that won it; a place outside its
// window is passed over.
template <typename W, typename Visit>
TORCHBP_INLINE void visit_winners(const IrregularProblem& problem, const TapTable& table, const W* winner, int64_t task,
                                  Visit visit) {
  const int64_t inner = problem.inner, outputs = problem.output[2], channels = slice_of(problem, task).channels;
  const Windows columns = windows_of(problem, 2, task);
  bool even = table.few() && inner == 1;
  for (int64_t ow = 0; ow < outputs; ++ow) even = even && columns.length[ow] == problem.kernel[2];
  visit_rows(problem, task, [&](const WindowRow& row) {
    if (even && row.heights == problem.kernel[1]) {  // then places up to the last depth's are inside
      const uint64_t taps = static_cast<uint64_t>(row.depths * problem.kernel[1] * problem.kernel[2]);
      const W* taken = winner + row.output;
      const int64_t* start = columns.start;
      const TapPlace* place = table.place;
      for (int64_t ow = 0; ow < outputs; ++ow) {
        const uint64_t tap = static_cast<uint64_t>(taken[ow]);
        if (tap < taps) visit(row.output + ow, row.input + start[ow] + place[tap].offset);
      }
      return;
    }
    for (int64_t ow = 0; ow < outputs; ++ow)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t out = row.output + ow * inner + c, in = row.input + columns.start[ow] * inner + c;
        const uint64_t tap = static_cast<uint64_t>(winner[out]);
        if (!table.has(tap)) continue;
        const TapPlace at = table.at(tap);
        if (at.depth < row.depths && at.height < row.heights && at.width < columns.length[ow])
          visit(out, in + at.offset);
      }
  });
}

TORCHBP_INLINE TapTable taps_of(const IrregularProblem& problem) {
  const int64_t width = problem.inner, height = problem.input[2] * width;
  return TapTable(problem.kernel, {problem.input[1] * height, height, width});
}

template <typename T>
void scatter(const IrregularProblem& problem, const T* grad_output, const void* winner, int winner_bytes, T* grad_input,
             int64_t begin, int64_t end) {
  const TapTable table = taps_of(problem);
  for (int64_t task = begin; task < end; ++task) {
    const Slice slice = slice_of(problem, task);
    clear(grad_input + slice.input, volume(problem.input), problem.inner, slice.channels);
    with_winner(winner, winner_bytes, [&](const auto* places) {
      visit_winners(problem, table, places, task, [&](int64_t out, int64_t in) { grad_input[in] += grad_output[out]; });
    });
  }
}

template <typename T>
void gather(const IrregularProblem& problem, const T* input, const void* winner, int winner_bytes, T* output,
            int64_t begin, int64_t end) {
  const TapTable table = taps_of(problem);
  for (int64_t task = begin; task < end; ++task) {
    const Slice slice = slice_of(problem, task);
    clear(output + slice.output, volume(problem.output), problem.inner, slice.channels);
    with_winner(winner, winner_bytes, [&](const auto* places) {
      visit_winners(problem, table, places, task, [&](int64_t out, int64_t in) { output[out] = input[in]; });
    });
  }
}

// ---------------------------------------------------------------------------------------------
// Unpooling

// The block of channels of a task, or the plane: how many there are, and where they begin.
struct UnpoolSlice {
  int64_t channels;
  int64_t index;
  int64_t small;
  int64_t large;
};

int64_t unpool_tasks(const UnpoolProblem& problem) { return problem.outer * channel_blocks(problem); }

UnpoolSlice unpool_slice(const UnpoolProblem& problem, int64_t task) {
  const int64_t blocks = channel_blocks(problem), outer = task / blocks, first = task % blocks * kChannels;
  const auto begin = [&](const UnpoolSteps& step) { return outer * step.outer + first * step.channel; };
  return {smaller(kChannels, problem.inner - first), begin(problem.index), begin(problem.small), begin(problem.large)};
}

// Calls visit(offset in the small plane, offset in the large plane, number of the place) for every element of a slice;
// stops at an index outside the plane, and returns where it is, or null.
template <typename Visit>
TORCHBP_INLINE const int64_t* visit_places(const UnpoolProblem& problem, int64_t channels, const int64_t* index,
                                           Visit visit) {
  const UnpoolSteps step = problem.index, from = problem.small, to = problem.large;
  const int64_t elements = problem.from;
  const uint64_t places = static_cast<uint64_t>(problem.to);
  if (channels == 1 && step.pixel == 1 && from.pixel == 1 && to.pixel == 1) {
    for (int64_t i = 0; i < elements; ++i) {
      const int64_t place = index[i];
      if (static_cast<uint64_t>(place) >= places) return index + i;
      visit(i, place, place);
    }
    return nullptr;
  }
  for (int64_t i = 0; i < elements; ++i)
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t *at = index + i * step.pixel + c * step.channel, place = *at;
      if (static_cast<uint64_t>(place) >= places) return at;
      visit(i * from.pixel + c * from.channel, place * to.pixel + c * to.channel, place * channels + c);
    }
  return nullptr;
}

template <typename T>
const int64_t* unpool(const UnpoolProblem& problem, const T* input, const int64_t* index, T* output, int64_t task) {
  const UnpoolSlice slice = unpool_slice(problem, task);
  T* plane = output + slice.large;
  if (problem.large.channel == 1)
    clear(plane, problem.to, problem.large.pixel, slice.channels);
  else
    for (int64_t c = 0; c < slice.channels; ++c) clear(plane + c * problem.large.channel, problem.to, 1, 1);
  return visit_places(problem, slice.channels, index + slice.index,
                      [&](int64_t from, int64_t to, int64_t) { plane[to] = input[slice.small + from]; });
}

int64_t unpool_adjoint_workspace(const UnpoolProblem& problem) {
  return problem.to * smaller(kChannels, problem.inner);
}

template <typename T>
const int64_t* unpool_adjoint(const UnpoolProblem& problem, const T* grad_output, const int64_t* index, T* grad_input,
                              int64_t task, void* workspace) {
  const UnpoolSlice slice = unpool_slice(problem, task);
  const T* plane = grad_output + slice.large;
  T* gradient = grad_input + slice.small;
  uint8_t* taken = static_cast<uint8_t*>(workspace);
  index += slice.index;
  const int64_t places = problem.to * slice.channels;
  clear(taken, places, 1, 1);
  uint8_t twice = 0;
  const int64_t* outside = visit_places(problem, slice.channels, index, [&](int64_t from, int64_t to, int64_t place) {
    twice |= taken[place];
    taken[place] = 1;
    gradient[from] = plane[to];
  });
  if (outside != nullptr || twice == 0) return outside;
  // From the last writer to the first: whoever comes later to a place that is taken was overwritten.
  clear(taken, places, 1, 1);
  for (int64_t i = problem.from - 1; i >= 0; --i)
    for (int64_t c = 0; c < slice.channels; ++c) {
      const int64_t place = index[i * problem.index.pixel + c * problem.index.channel];
      uint8_t& mark = taken[place * slice.channels + c];
      gradient[i * problem.small.pixel + c * problem.small.channel] =
          mark ? T(0) : plane[place * problem.large.pixel + c * problem.large.channel];
      mark = 1;
    }
  return nullptr;
}

template <typename T>
IrregularPoolKernels<T> kernels_of() {
  return {
      slice_tasks<IrregularProblem>,
      forward_workspace<T>,
      forward<T>,
      scatter<T>,
      gather<T>,
      unpool_tasks,
      unpool_adjoint_workspace,
      unpool<T>,
      unpool_adjoint<T>,
  };
}

}  // namespace

IrregularPoolKernels<float> irregular_pool_float() { return kernels_of<float>(); }
IrregularPoolKernels<double> irregular_pool_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
