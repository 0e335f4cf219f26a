// Separable linear maps. For each row of outputs the weighted source rows are summed over the outer axes
// into a buffer, along consecutive elements; one row of weight one is read where it is. Then the last
// axis' taps are applied, run by run. Where planes get more rows it is the other way round: the last axis'
// taps are applied to some source rows first, which expands them, and then all rows that are sums of those are summed.
#include "separable.h"

#include "parts.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

constexpr int64_t kChannels = 128;       // of one task of a channels-last tensor
constexpr int64_t kTaskElements = 8192;  // that a task writes, about
constexpr int kTogether = 4;             // rows or taps that are added in one pass

// Channels that a task takes at a time: 1 of planes.
template <typename T>
TORCHBP_INLINE int64_t channel_block(const SeparableProblem<T>& problem) {
  if (!problem.channels_last) return 1;
  return problem.channels <= 2 * kChannels ? larger(1, problem.channels) : kChannels;
}

template <typename T>
TORCHBP_INLINE int64_t channel_blocks(const SeparableProblem<T>& problem) {
  const int64_t block = channel_block(problem);
  return (problem.channels + block - 1) / block;
}

template <typename T>
TORCHBP_INLINE int64_t rows(const SeparableProblem<T>& problem) {
  return problem.batch * channel_blocks(problem) * problem.axis[0].outputs * problem.axis[1].outputs;
}

template <typename T>
TORCHBP_INLINE int64_t rows_per_task(const SeparableProblem<T>& problem) {
  return larger(1, kTaskElements / larger(1, problem.axis[2].outputs * channel_block(problem)));
}

template <typename T>
int64_t separable_tasks(const SeparableProblem<T>& problem) {
  const int64_t block = rows_per_task(problem);
  return (rows(problem) + block - 1) / block;
}

template <typename T>
int64_t separable_workspace(const SeparableProblem<T>& problem) {
  if (problem.expanded > 0) return problem.expanded * problem.axis[2].outputs;
  return problem.row * channel_block(problem) * (problem.turned ? 2 : 1);
}

// ---------------------------------------------------------------------------------------------
// Sums of N sources: to[i] (+)= sum over k of weight(k, i) * source(k, i)

template <int N, typename T, typename Term>
TORCHBP_INLINE void sum(T* __restrict__ to, int64_t count, bool onto, Term term) {
  if (onto) {
    for (int64_t i = 0; i < count; ++i) {
      T total = to[i];
      for (int k = 0; k < N; ++k) total += term(k, i);
      to[i] = total;
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      T total = term(0, i);
      for (int k = 1; k < N; ++k) total += term(k, i);
      to[i] = total;
    }
  }
}

// Adds `n` terms, at most kTogether in one pass over `to`; term(k) makes the function of i.
template <typename T, typename Make>
TORCHBP_INLINE void sum_of(T* to, int64_t count, int64_t n, Make make) {
  for (int64_t k = 0; k < n; k += kTogether) {
    const auto term = make(k);
    switch (n - k) {
      case 1:
        sum<1>(to, count, k > 0, term);
        break;
      case 2:
        sum<2>(to, count, k > 0, term);
        break;
      case 3:
        sum<3>(to, count, k > 0, term);
        break;
      default:
        sum<4>(to, count, k > 0, term);
    }
  }
}

template <typename T>
TORCHBP_INLINE void copy(T* __restrict__ to, const T* __restrict__ from, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count;
  if (count >= lanes && count <= 16 * lanes) {  // short enough for a call to take longer than the copy
    for (int64_t i = 0; i + lanes <= count; i += lanes) {
      store(to + i, load(from + i));
      asm volatile("");  // keeps the loop from being turned into that call
    }
    return store(to + count - lanes, load(from + count - lanes));
  }
#if defined(__AVX2__)
  if (count < lanes) return store_first<T>(to, load_first<T>(from, count), count);
#endif
  __builtin_memcpy(to, from, static_cast<decltype(sizeof(T))>(count) * sizeof(T));
}

template <typename T>
TORCHBP_INLINE void clear(T* to, int64_t count) {
  __builtin_memset(to, 0, static_cast<decltype(sizeof(T))>(count) * sizeof(T));
}

// A few constant sources of equal length: rows, or the pixels of a channels-last tensor.
template <typename T>
struct Together {
  const T* source[kTogether];
  T weight[kTogether];
  int count;
};

template <int N, typename V, typename T>
TORCHBP_INLINE V weighted(const V* value, const T* weight) {
  if constexpr (N == 1) return weight[0] * value[0];
  if constexpr (N == 2) return weight[0] * value[0] + weight[1] * value[1];
  if constexpr (N == 3) return weight[0] * value[0] + weight[1] * value[1] + weight[2] * value[2];
  if constexpr (N == 4)
    return (weight[0] * value[0] + weight[1] * value[1]) + (weight[2] * value[2] + weight[3] * value[3]);
}

// Keeps the compiler from reading neighbouring pointers as a vector, which has to wait until those that were written
// one by one are in the cache.
template <typename T>
TORCHBP_INLINE const T* alone(const T* pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

template <int N, typename T>
TORCHBP_INLINE void add_weighted(const T* const* source, const T* weight, T* to, int64_t count, bool onto) {
  constexpr int64_t lanes = Lanes<T>::count;
  const auto add = [&](int64_t i) {
    Vector<T> value[N];
    for (int k = 0; k < N; ++k) value[k] = load(source[k] + i);
    const Vector<T> total = weighted<N>(value, weight);
    store<T>(to + i, onto ? load(to + i) + total : total);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) add(i);
  if (i < count && i > 0 && !onto) return add(count - lanes);  // overlaps the vector before
  for (; i < count; ++i) {
    T value[N];
    for (int k = 0; k < N; ++k) value[k] = source[k][i];
    to[i] = (onto ? to[i] : T(0)) + weighted<N>(value, weight);
  }
}

template <int N, typename T>
TORCHBP_INLINE void add_together(const Together<T>& rows, int64_t offset, T* to, int64_t count, bool onto) {
  const T* source[N];
  T weight[N];
  for (int k = 0; k < N; ++k) source[k] = alone(rows.source[k]) + offset;
  for (int k = 0; k < N; ++k) weight[k] = rows.weight[k];
  add_weighted<N>(source, weight, to, count, onto);
}

// Adds what stands `offset` further than the sources say.
template <typename T>
void add_together(const Together<T>& rows, int64_t offset, T* to, int64_t count, bool onto) {
  switch (rows.count) {
    case 1:
      if (rows.weight[0] == T(1) && !onto) return copy(to, rows.source[0] + offset, count);
      return add_together<1>(rows, offset, to, count, onto);
    case 2:
      return add_together<2>(rows, offset, to, count, onto);
    case 3:
      return add_together<3>(rows, offset, to, count, onto);
    default:
      return add_together<4>(rows, offset, to, count, onto);
  }
}

// ---------------------------------------------------------------------------------------------
// The outer axes

template <typename T>
struct Task {
  const SeparableProblem<T>* problem;
  const T* source;  // of the plane or block of channels
  T* target;
  T* workspace;
  int64_t channels;  // in the block; 1 for planes
};

// Adds a few source rows to the buffer, piece by piece.
template <typename T>
void add_rows(const Task<T>& task, const Together<T>& rows, bool onto) {
  const SeparableProblem<T>& p = *task.problem;
  const bool joined = p.source_step == task.channels;  // the places of a piece are one stretch of memory
  T* to = task.workspace;
  for (int64_t place = 0, offset = 0; place < p.row; place += p.piece, offset += p.piece_stride) {
    if (joined) {
      add_together(rows, offset, to, p.piece * task.channels, onto);
      to += p.piece * task.channels;
    } else {
      for (int64_t i = 0; i < p.piece; ++i, to += task.channels)
        add_together(rows, offset + i * p.source_step, to, task.channels, onto);
    }
  }
}

// A row to which the last axis' taps are applied.
template <typename T>
struct Row {
  const T* at;
  int64_t step;  // from one place to the next
};

template <typename T>
TORCHBP_INLINE T weight_of(const SeparableAxis<T>& axis, int64_t tap) {
  return axis.weight == nullptr ? T(1) : axis.weight[tap];
}

// Sums the weighted source rows of an output row into the workspace.
template <typename T>
__attribute__((noinline)) void sum_rows(const Task<T>& task, int64_t depth, int64_t height) {
  const SeparableAxis<T>&outer = task.problem->axis[0], &inner = task.problem->axis[1];
  Together<T> rows{};
  bool onto = false;
  for (int64_t o = outer.begin[depth]; o < outer.begin[depth + 1]; ++o)
    for (int64_t i = inner.begin[height]; i < inner.begin[height + 1]; ++i) {
      rows.source[rows.count] = task.source + outer.source[o] + inner.source[i];
      rows.weight[rows.count] = weight_of(outer, o) * weight_of(inner, i);
      if (++rows.count == kTogether) {
        add_rows(task, rows, onto);
        rows.count = 0;
        onto = true;
      }
    }
  if (rows.count > 0) add_rows(task, rows, onto);
}

template <typename T>
TORCHBP_INLINE Row<T> source_row(const Task<T>& task, int64_t depth, int64_t height) {
  const SeparableProblem<T>& p = *task.problem;
  const int64_t o = p.axis[0].begin[depth], i = p.axis[1].begin[height];
  const bool one = p.axis[0].begin[depth + 1] - o == 1 && p.axis[1].begin[height + 1] - i == 1;
  if (one && p.piece == p.row && weight_of(p.axis[0], o) * weight_of(p.axis[1], i) == T(1))
    return {task.source + p.axis[0].source[o] + p.axis[1].source[i], p.source_step};
  sum_rows(task, depth, height);
  return {task.workspace, task.channels};
}

// ---------------------------------------------------------------------------------------------
// The last axis of planes: places are consecutive elements

template <int64_t Step, typename T>
TORCHBP_INLINE void stepped(const SeparableRun& run, const int64_t* places, const T* weights, const T* row, T* to) {
  const int64_t step = Step == 0 ? run.step : Step, count = run.count;
  if (run.unit) {
    sum_of(to, count, run.taps,
           [=](int64_t k) { return [=](int t, int64_t i) { return row[places[k + t] + i * step]; }; });
  } else {
    sum_of(to, count, run.taps, [=](int64_t k) {
      return [=](int t, int64_t i) { return weights[(k + t) * count + i] * row[places[k + t] + i * step]; };
    });
  }
}

template <typename T>
__attribute__((noinline)) void stepped_by(const SeparableRun& run, const int64_t* places, const T* weights,
                                          const T* row, T* to) {
  if (run.step == 1)
    stepped<1>(run, places, weights, row, to);
  else if (run.step == 2)
    stepped<2>(run, places, weights, row, to);
  else
    stepped<0>(run, places, weights, row, to);
}

template <typename T>
TORCHBP_INLINE void interleaved(const T* a, const T* b, int64_t count, T* to) {
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t pairs = count / 2;
  if (pairs >= lanes) {
    for (int64_t i = 0; i < pairs; i += lanes) {
      const int64_t at = smaller(i, pairs - lanes);  // the last vectors overlap those before
      const Vector<T> first = load(a + at), second = load(b + at);
      store(to + 2 * at, first_of_pairs(first, second));
      store(to + 2 * at + lanes, rest_of_pairs(first, second));
    }
  } else {
    const Vector<T> first = load_first<T>(a, pairs), second = load_first<T>(b, pairs);
    store_first<T>(to, first_of_pairs(first, second), smaller(2 * pairs, lanes));
    store_first<T>(to + lanes, rest_of_pairs(first, second), larger(2 * pairs - lanes, 0));
  }
  if (count % 2 == 1) to[count - 1] = a[pairs];
}

// Places that grow by 0 or 1 lie within one vector for as many outputs: it is loaded once and permuted, which
// takes less than gathering. Only GCC has the permutation by a variable as a vector extension.
#if defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
#define TORCHBP_PERMUTES
template <typename T>
struct Permutation;
template <>
struct Permutation<float> {
  typedef int32_t Lanes __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
};
template <>
struct Permutation<double> {
  typedef int64_t Lanes __attribute__((vector_size(TORCHBP_VECTOR_BYTES)));
};

template <typename T>
TORCHBP_INLINE Vector<T> near(const T* row, int64_t length, const int32_t* places) {
  typedef int32_t Places __attribute__((vector_size(4 * Lanes<T>::count)));
  const int32_t base = static_cast<int32_t>(smaller(places[0], length - Lanes<T>::count));
  Places lanes;
  __builtin_memcpy(&lanes, places, sizeof(lanes));
  return __builtin_shuffle(load(row + base), __builtin_convertvector(lanes - base, typename Permutation<T>::Lanes));
}

template <typename T>
void permuted(const SeparableRun& run, const int32_t* places, const T* weights, const T* row, int64_t length, T* to) {
  constexpr int64_t lanes = Lanes<T>::count;
  for (int64_t i = 0; i < run.count; i += lanes) {
    const int64_t at = smaller(i, run.count - lanes);  // the last vector overlaps the one before
    Vector<T> total = near(row, length, places + at);
    if (!run.unit) total *= load(weights + at);
    for (int64_t t = 1; t < run.taps; ++t) {
      const Vector<T> value = near(row, length, places + t * run.count + at);
      total += run.unit ? value : value * load(weights + t * run.count + at);
    }
    store(to + at, total);
  }
}
#endif

template <typename T>
__attribute__((noinline)) void indexed(const SeparableRun& run, const int32_t* places, const T* weights, const T* row,
                                       int64_t length, T* to) {
#ifdef TORCHBP_PERMUTES
  if (run.gradual && run.count >= Lanes<T>::count && length >= Lanes<T>::count)
    return permuted(run, places, weights, row, length, to);
#endif
  const int64_t count = run.count;
  if (run.unit) {
    sum_of(to, count, run.taps,
           [=](int64_t k) { return [=](int t, int64_t i) { return row[places[(k + t) * count + i]]; }; });
  } else {
    sum_of(to, count, run.taps, [=](int64_t k) {
      return [=](int t, int64_t i) { return weights[(k + t) * count + i] * row[places[(k + t) * count + i]]; };
    });
  }
}

// Few outputs, or of differing numbers of taps.
template <typename T>
TORCHBP_INLINE void listed(const SeparableAxis<T>& axis, const SeparableRun& run, const T* row, T* to) {
  const int64_t *begin = axis.begin + run.first, *places = axis.source;
  if (run.unit && run.single) {
    for (int64_t i = 0; i < run.count; ++i) to[i] = row[places[begin[0] + i]];
    return;
  }
  for (int64_t i = 0; i < run.count; ++i) {
    T total = T(0);
    for (int64_t t = begin[i]; t < begin[i + 1]; ++t) total += weight_of(axis, t) * row[places[t]];
    to[i] = total;
  }
}

template <typename T>
void apply_plane_row(const SeparableProblem<T>& p, const T* row, T* target) {
  const SeparableAxis<T>& axis = p.axis[2];
  for (const SeparableRun* run = p.run; run < p.run + p.runs; ++run) {
    T* to = target + run->target;
    const int64_t* places = axis.source + axis.begin[run->first];
    const T* weights = p.lane_weight + run->lanes;
    switch (run->kind) {
      case SeparableRun::kZero:
        clear(to, run->count);
        break;
      case SeparableRun::kStepped:
        if (run->step == 1 && run->taps == 1 && run->unit)
          copy(to, row + places[0], run->count);
        else
          stepped_by(*run, places, weights, row, to);
        break;
      case SeparableRun::kInterleaved:
        interleaved(row + places[0], row + places[1], run->count, to);
        break;
      case SeparableRun::kIndexed:
        indexed(*run, p.lane_index + run->lanes, weights, row, p.row, to);
        break;
      case SeparableRun::kListed:
        listed(axis, *run, row, to);
        break;
    }
  }
}

// ---------------------------------------------------------------------------------------------
// The last axis of channels-last tensors: places are stretches of channels

template <typename T>
void apply_pixels(const SeparableAxis<T>& axis, const Row<T>& row, T* to, int64_t channels, int64_t output) {
  const int64_t end = axis.begin[output + 1];
  int64_t tap = axis.begin[output];
  if (tap == end) return clear(to, channels);
  for (bool onto = false; tap < end; onto = true) {
    Together<T> pixels{};
    for (; tap < end && pixels.count < kTogether; ++tap, ++pixels.count) {
      pixels.source[pixels.count] = row.at + axis.source[tap] * row.step;
      pixels.weight[pixels.count] = weight_of(axis, tap);
    }
    add_together(pixels, 0, to, channels, onto);
  }
}

// Outputs that have N taps each.
template <int N, typename T>
void apply_equal_pixels(const Task<T>& task, const SeparableRun& run, const Row<T>& row, T* __restrict__ to) {
  const SeparableAxis<T>& axis = task.problem->axis[2];
  const int64_t channels = task.channels;
  int64_t tap = axis.begin[run.first];
  for (int64_t i = 0; i < run.count; ++i, tap += N, to += task.problem->target_step) {
    const T* source[N];
    T weight[N];
    for (int k = 0; k < N; ++k) source[k] = row.at + axis.source[tap + k] * row.step;
    for (int k = 0; k < N; ++k) weight[k] = weight_of(axis, tap + k);
    if (N == 1 && run.unit)
      copy(to, source[0], channels);
    else
      sum<N>(to, channels, false, [=](int k, int64_t c) { return weight[k] * source[k][c]; });
  }
}

template <typename T>
void apply_channels_row(const Task<T>& task, const Row<T>& row, T* target) {
  const SeparableProblem<T>& p = *task.problem;
  const SeparableAxis<T>& axis = p.axis[2];
  const bool joined = row.step == task.channels && p.target_step == task.channels;
  for (int64_t r = 0; r < p.runs; ++r) {
    const SeparableRun& run = p.run[r];
    T* to = target + run.target;
    const bool equal = run.kind != SeparableRun::kZero && run.kind != SeparableRun::kListed;
    if (joined && run.kind == SeparableRun::kStepped && run.step == 1 && run.taps == 1 && run.unit)
      copy(to, row.at + axis.source[axis.begin[run.first]] * row.step, run.count * task.channels);
    else if (equal && run.taps == 1)
      apply_equal_pixels<1>(task, run, row, to);
    else if (equal && run.taps == 2)
      apply_equal_pixels<2>(task, run, row, to);
    else if (equal && run.taps == 4)
      apply_equal_pixels<4>(task, run, row, to);
    else
      for (int64_t i = 0; i < run.count; ++i)
        apply_pixels(axis, row, to + i * p.target_step, task.channels, run.first + i);
  }
}

// The same of one whose channels become planes.
template <typename T>
void apply_turned_row(const Task<T>& task, const Row<T>& row, T* target) {
  const SeparableProblem<T>& p = *task.problem;
  T* planes = task.workspace + p.row * task.channels;
  copy_transposed(row.at, row.step, p.row, task.channels, planes, p.row);
  for (int64_t c = 0; c < task.channels; ++c)
    apply_plane_row(p, planes + c * p.row, target + c * p.target_channel_stride);
}

// ---------------------------------------------------------------------------------------------
// The last axis first

// Indices [first, first + count) of the source.
struct Indices {
  int64_t first;
  int64_t count;
};

// Those that outputs [first, last] have taps at.
template <typename T>
Indices indices_of(const SeparableAxis<T>& axis, int64_t first, int64_t last) {
  const int64_t begin = axis.begin[first], end = axis.begin[last + 1];
  if (begin == end) return {0, 0};
  int64_t least = axis.index[begin], greatest = least;
  for (int64_t t = begin; t < end; ++t) {
    least = smaller(least, axis.index[t]);
    greatest = larger(greatest, axis.index[t]);
  }
  return {least, greatest - least + 1};
}

// Source rows after the last axis' taps, in the workspace, for target rows up to `until`.
struct Expanded {
  Indices depth;
  Indices height;
  int64_t until;
};

// Expands what target rows from `row` on need, which is at this depth and height of a plane with `left` rows more.
template <typename T>
Expanded expand(const Task<T>& task, int64_t row, int64_t depth, int64_t height, int64_t left) {
  const SeparableProblem<T>& p = *task.problem;
  const SeparableAxis<T>&outer = p.axis[0], &inner = p.axis[1];
  if (p.expanded_for > 0) left = smaller(left, smaller(p.expanded_for, inner.outputs - height));
  const int64_t last = height + left - 1, last_depth = depth + last / inner.outputs;
  const Expanded expanded = {
      indices_of(outer, depth, last_depth),
      last_depth == depth ? indices_of(inner, height, last) : indices_of(inner, 0, inner.outputs - 1),
      row + left,
  };
  T* to = task.workspace;
  for (int64_t d = 0; d < expanded.depth.count; ++d)
    for (int64_t h = 0; h < expanded.height.count; ++h, to += p.axis[2].outputs)
      apply_plane_row(
          p, task.source + (expanded.depth.first + d) * outer.stride + (expanded.height.first + h) * inner.stride, to);
  return expanded;
}

template <typename T>
TORCHBP_INLINE const T* expanded_row(const Task<T>& task, const Expanded& expanded, int64_t outer_tap,
                                     int64_t inner_tap) {
  const SeparableProblem<T>& p = *task.problem;
  const int64_t depth = p.axis[0].index[outer_tap] - expanded.depth.first;
  const int64_t height = p.axis[1].index[inner_tap] - expanded.height.first;
  return task.workspace + (depth * expanded.height.count + height) * p.axis[2].outputs;
}

// As many as the two axes have taps.
template <int kOuter, int kInner, typename T>
TORCHBP_INLINE void sum_expanded(const Task<T>& task, const Expanded& expanded, int64_t outer_tap, int64_t inner_tap,
                                 T* target) {
  const SeparableProblem<T>& p = *task.problem;
  const T* source[kOuter * kInner];
  T weight[kOuter * kInner];
  for (int o = 0; o < kOuter; ++o)
    for (int i = 0; i < kInner; ++i) {
      source[o * kInner + i] = expanded_row(task, expanded, outer_tap + o, inner_tap + i);
      weight[o * kInner + i] = weight_of(p.axis[0], outer_tap + o) * weight_of(p.axis[1], inner_tap + i);
    }
  if (kOuter * kInner == 1 && weight[0] == T(1)) return copy(target, source[0], p.axis[2].outputs);
  add_weighted<kOuter * kInner>(source, weight, target, p.axis[2].outputs, false);
}

template <typename T>
void sum_expanded_rows(const Task<T>& task, const Expanded& expanded, int64_t depth, int64_t height, T* target) {
  const SeparableAxis<T>&outer = task.problem->axis[0], &inner = task.problem->axis[1];
  const int64_t count = task.problem->axis[2].outputs;
  const int64_t outer_taps = outer.begin[depth + 1] - outer.begin[depth];
  const int64_t inner_taps = inner.begin[height + 1] - inner.begin[height];
  if (outer_taps == 1 && inner_taps == 1)
    return sum_expanded<1, 1>(task, expanded, outer.begin[depth], inner.begin[height], target);
  if (outer_taps == 1 && inner_taps == 2)
    return sum_expanded<1, 2>(task, expanded, outer.begin[depth], inner.begin[height], target);
  if (outer_taps == 2 && inner_taps == 2)
    return sum_expanded<2, 2>(task, expanded, outer.begin[depth], inner.begin[height], target);
  Together<T> rows{};
  bool onto = false;
  for (int64_t o = outer.begin[depth]; o < outer.begin[depth + 1]; ++o)
    for (int64_t i = inner.begin[height]; i < inner.begin[height + 1]; ++i) {
      rows.source[rows.count] = expanded_row(task, expanded, o, i);
      rows.weight[rows.count] = weight_of(outer, o) * weight_of(inner, i);
      if (++rows.count == kTogether) {
        add_together(rows, 0, target, count, onto);
        rows.count = 0;
        onto = true;
      }
    }
  if (rows.count > 0) add_together(rows, 0, target, count, onto);
}

// ---------------------------------------------------------------------------------------------

template <typename T>
void clear_row(const Task<T>& task, T* target) {
  const SeparableProblem<T>& p = *task.problem;
  for (int64_t r = 0; r < p.runs; ++r) {
    if (p.turned)
      for (int64_t c = 0; c < task.channels; ++c)
        clear(target + p.run[r].target + c * p.target_channel_stride, p.run[r].count);
    else if (p.target_step == task.channels)
      clear(target + p.run[r].target, p.run[r].count * task.channels);
    else
      for (int64_t i = 0; i < p.run[r].count; ++i) clear(target + p.run[r].target + i * p.target_step, task.channels);
  }
}

template <typename T>
void separable_apply(const SeparableProblem<T>& problem, const T* source, T* target, T* workspace, int64_t number) {
  const SeparableAxis<T>&outer = problem.axis[0], &inner = problem.axis[1];
  const int64_t from = number * rows_per_task(problem), to = smaller(from + rows_per_task(problem), rows(problem));
  const int64_t block = channel_block(problem), blocks = channel_blocks(problem);
  int64_t height = from % inner.outputs, depth = from / inner.outputs % outer.outputs;
  for (int64_t row = from, plane = from / inner.outputs / outer.outputs; row < to; ++plane) {
    const int64_t image = plane / blocks, channel = plane % blocks * block;
    const Task<T> task = {
        &problem,
        source + image * problem.source_batch_stride + channel * problem.source_channel_stride,
        target + image * problem.target_batch_stride + channel * problem.target_channel_stride,
        workspace,
        smaller(block, problem.channels - channel),
    };
    const int64_t end = smaller(to, (plane + 1) * outer.outputs * inner.outputs);
    Expanded expanded{};
    for (; row < end; ++depth, height = 0)
      for (; row < end && height < inner.outputs; ++height, ++row) {
        T* row_target = task.target + outer.target[depth] + inner.target[height];
        if (outer.begin[depth] == outer.begin[depth + 1] || inner.begin[height] == inner.begin[height + 1])
          clear_row(task, row_target);
        else if (problem.turned)
          apply_turned_row(task, source_row(task, depth, height), row_target);
        else if (problem.channels_last)
          apply_channels_row(task, source_row(task, depth, height), row_target);
        else if (problem.expanded == 0)
          apply_plane_row(problem, source_row(task, depth, height).at, row_target);
        else {
          if (row >= expanded.until) expanded = expand(task, row, depth, height, end - row);
          sum_expanded_rows(task, expanded, depth, height, row_target);
        }
      }
    depth = 0;
  }
}

template <typename T>
SeparableKernels<T> kernels_of() {
  return {separable_tasks<T>, separable_workspace<T>, separable_apply<T>};
}

}  // namespace

SeparableKernels<float> separable_float() { return kernels_of<float>(); }
SeparableKernels<double> separable_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
