// Separable linear maps. For each row of outputs the weighted source rows are summed over the outer axes
// into a buffer, along consecutive elements; one row of weight one is read where it is. Then the last
// axis' taps are applied, run by run or, to a few rows of planes at a time, vector by vector: stretches, whose
// permutations stay in registers from row to row, so that rows are written in the order of memory. Where planes get
// more rows and their taps have weights it is the other way round: the last axis' taps are applied to some source rows
// first, which expands them, and then all rows that are sums of those are summed.
#include "separable.h"

#include "parts.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

constexpr int64_t kChannels = 128;              // of one task of a channels-last tensor
constexpr int64_t kTaskElements = 8192;         // that a task writes, about
constexpr int64_t kRowsTogether = 32;           // of planes, to which a stretch is applied at once, at most
constexpr int64_t kTogetherElements = 1 << 14;  // of such rows, about
constexpr int kTogether = 4;                    // rows or taps that are added in one pass

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

// Rows of planes to which a stretch is applied at once: its tables are read once for all of them.
template <typename T>
TORCHBP_INLINE int64_t rows_together(const SeparableProblem<T>& problem) {
  const int64_t longest = larger(problem.row, problem.axis[2].outputs);
  return smaller(kRowsTogether, larger(1, kTogetherElements / larger(1, longest)));
}

template <typename T>
int64_t separable_tasks(const SeparableProblem<T>& problem) {
  const int64_t block = rows_per_task(problem);
  return (rows(problem) + block - 1) / block;
}

template <typename T>
int64_t separable_workspace(const SeparableProblem<T>& problem) {
  if (problem.expanded > 0) return problem.expanded * problem.axis[2].outputs;
  if (!problem.channels_last) return problem.row * rows_together(problem);
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
    for (int64_t i = 0; i + lanes < count; i += lanes) {
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

// Adds a few source rows to a buffer, piece by piece.
template <typename T>
void add_rows(const Task<T>& task, const Together<T>& rows, T* to, bool onto) {
  const SeparableProblem<T>& p = *task.problem;
  const bool joined = p.source_step == task.channels;  // the places of a piece are one stretch of memory
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

// Sums the weighted source rows of an output row into a buffer.
template <typename T>
__attribute__((noinline)) void sum_rows(const Task<T>& task, int64_t depth, int64_t height, T* to) {
  const SeparableAxis<T>&outer = task.problem->axis[0], &inner = task.problem->axis[1];
  Together<T> rows{};
  bool onto = false;
  for (int64_t o = outer.begin[depth]; o < outer.begin[depth + 1]; ++o)
    for (int64_t i = inner.begin[height]; i < inner.begin[height + 1]; ++i) {
      rows.source[rows.count] = task.source + outer.source[o] + inner.source[i];
      rows.weight[rows.count] = weight_of(outer, o) * weight_of(inner, i);
      if (++rows.count == kTogether) {
        add_rows(task, rows, to, onto);
        rows.count = 0;
        onto = true;
      }
    }
  if (rows.count > 0) add_rows(task, rows, to, onto);
}

// The one of an output row, in the buffer unless it is a source row as it stands.
template <typename T>
TORCHBP_INLINE Row<T> source_row(const Task<T>& task, int64_t depth, int64_t height, T* buffer) {
  const SeparableProblem<T>& p = *task.problem;
  const int64_t o = p.axis[0].begin[depth], i = p.axis[1].begin[height];
  const bool one = p.axis[0].begin[depth + 1] - o == 1 && p.axis[1].begin[height + 1] - i == 1;
  if (one && p.piece == p.row && weight_of(p.axis[0], o) * weight_of(p.axis[1], i) == T(1))
    return {task.source + p.axis[0].source[o] + p.axis[1].source[i], p.source_step};
  sum_rows(task, depth, height, buffer);
  return {buffer, task.channels};
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

template <typename T>
__attribute__((noinline)) void indexed(const SeparableRun& run, const int32_t* places, const T* weights, const T* row,
                                       T* to) {
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
        indexed(*run, p.lane_index + run->lanes, weights, row, to);
        break;
      case SeparableRun::kListed:
        listed(axis, *run, row, to);
        break;
    }
  }
}

// ---------------------------------------------------------------------------------------------
// The same in stretches, for a few rows at a time

template <typename T>
struct RowsTogether {
  const T* source[kRowsTogether];
  T* target[kRowsTogether];
  int64_t count;
};

#if defined(__AVX2__)
#define TORCHBP_PERMUTES

// A term as registers hold it.
template <typename T>
struct Term {
  int64_t first;
  int64_t second;
  Mask<T> present;
  IntegerVector<T> places;
  Vector<T> weight;
};

template <typename T>
TORCHBP_INLINE Mask<T> not_negative(const IntegerVector<T>& v) {
#if TORCHBP_VECTOR_BYTES == 64
  const __m512i bits = reinterpret_cast<__m512i>(v);
  return sizeof(T) == 4 ? _mm512_cmpge_epi32_mask(bits, _mm512_setzero_si512())
                        : _mm512_cmpge_epi64_mask(bits, _mm512_setzero_si512());
#else
  return v >= 0;
#endif
}

#if TORCHBP_VECTOR_BYTES == 64
TORCHBP_INLINE Vector<float> permuted(const Term<float>& term, const Vector<float>& a) {
  return _mm512_maskz_permutexvar_ps(term.present, reinterpret_cast<__m512i>(term.places), a);
}
TORCHBP_INLINE Vector<double> permuted(const Term<double>& term, const Vector<double>& a) {
  return _mm512_maskz_permutexvar_pd(static_cast<__mmask8>(term.present), reinterpret_cast<__m512i>(term.places), a);
}
TORCHBP_INLINE Vector<float> permuted(const Term<float>& term, const Vector<float>& a, const Vector<float>& b) {
  return _mm512_maskz_permutex2var_ps(term.present, a, reinterpret_cast<__m512i>(term.places), b);
}
TORCHBP_INLINE Vector<double> permuted(const Term<double>& term, const Vector<double>& a, const Vector<double>& b) {
  return _mm512_maskz_permutex2var_pd(static_cast<__mmask8>(term.present), a, reinterpret_cast<__m512i>(term.places),
                                      b);
}
#else
template <typename T>
TORCHBP_INLINE Vector<T> chosen(const Vector<T>& a, const IntegerVector<T>& places) {
  // Doubles are pairs of single elements.
  __m256i words = reinterpret_cast<__m256i>(places);
  if constexpr (sizeof(T) == 8) words = reinterpret_cast<__m256i>(2 * places + ((2 * places + 1) << 32));
  return reinterpret_cast<Vector<T> >(_mm256_permutevar8x32_ps(reinterpret_cast<__m256>(a), words));
}
template <typename T>
TORCHBP_INLINE Vector<T> permuted(const Term<T>& term, const Vector<T>& a) {
  return reinterpret_cast<Vector<T> >(reinterpret_cast<IntegerVector<T> >(chosen<T>(a, term.places)) & term.present);
}
template <typename T>
TORCHBP_INLINE Vector<T> permuted(const Term<T>& term, const Vector<T>& a, const Vector<T>& b) {
  const IntegerVector<T> second = term.places >= static_cast<Integer<T> >(kLanes<T>);
  const Vector<T> v = second ? chosen<T>(b, term.places) : chosen<T>(a, term.places);
  return reinterpret_cast<Vector<T> >(reinterpret_cast<IntegerVector<T> >(v) & term.present);
}
#endif

enum class Windows { kShort, kOne, kTwo };  // of any term; a short one is a row of less than a vector

// N terms of V vectors, from the given one on.
template <typename T, int V, int N, Windows kWindows, bool kWeighted>
void permute_rows(const SeparableProblem<T>& p, const SeparableStretch& stretch, int64_t from,
                  const RowsTogether<T>& rows) {
  Term<T> term[V][N];
  for (int v = 0; v < V; ++v)
    for (int k = 0; k < N; ++k) {
      const SeparableTerm& given = p.term[stretch.term + v * stretch.terms + from + k];
      term[v][k].first = given.first;
      term[v][k].second = given.second;
      term[v][k].places = widen<T>(p.lane_index + given.lanes);
      term[v][k].present = not_negative<T>(term[v][k].places);
      if (kWeighted) term[v][k].weight = load(p.lane_weight + given.lanes);
    }
  const Mask<T> last = first_lanes<T>(stretch.count - (V - 1) * kLanes<T>);
  const Mask<T> short_row = first_lanes<T>(kWindows == Windows::kShort ? p.span : 0);
  for (int64_t r = 0; r < rows.count; ++r) {
    const T* row = rows.source[r];
    T* to = rows.target[r] + stretch.target;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v, to += kLanes<T>) {
      Vector<T> total{};
      if (from > 0) total = load_masked<T>(to, last);  // then V is 1
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) {
        const T* first = row + term[v][k].first;
        Vector<T> value;
        if constexpr (kWindows == Windows::kTwo)
          value = permuted(term[v][k], load(first), load(row + term[v][k].second));
        else if constexpr (kWindows == Windows::kOne)
          value = permuted(term[v][k], load(first));
        else
          value = permuted(term[v][k], load_masked<T>(first, short_row));
        if (kWeighted) value *= term[v][k].weight;
        total = k == 0 && from == 0 ? value : total + value;
      }
      if (v < V - 1)
        store<T>(to, total);
      else
        store_masked<T>(to, total, last);
    }
  }
}

template <typename T, int V, int N>
void permute_terms(const SeparableProblem<T>& p, const SeparableStretch& stretch, int64_t from,
                   const RowsTogether<T>& rows) {
  bool two = false;
  for (int64_t k = 0; k < V * stretch.terms; ++k) two = two || p.term[stretch.term + k].windows == 2;
  if (p.span < kLanes<T>)
    p.weighted ? permute_rows<T, V, N, Windows::kShort, true>(p, stretch, from, rows)
               : permute_rows<T, V, N, Windows::kShort, false>(p, stretch, from, rows);
  else if (two)
    p.weighted ? permute_rows<T, V, N, Windows::kTwo, true>(p, stretch, from, rows)
               : permute_rows<T, V, N, Windows::kTwo, false>(p, stretch, from, rows);
  else
    p.weighted ? permute_rows<T, V, N, Windows::kOne, true>(p, stretch, from, rows)
               : permute_rows<T, V, N, Windows::kOne, false>(p, stretch, from, rows);
}

template <typename T, int N>
void permute_vectors(const SeparableProblem<T>& p, const SeparableStretch& stretch, const RowsTogether<T>& rows) {
  switch ((stretch.count + kLanes<T> - 1) / kLanes<T>) {
    case 1:
      return permute_terms<T, 1, N>(p, stretch, 0, rows);
    case 2:
      return permute_terms<T, 2, N>(p, stretch, 0, rows);
    case 3:
      return permute_terms<T, 3, N>(p, stretch, 0, rows);
    default:
      return permute_terms<T, 4, N>(p, stretch, 0, rows);
  }
}

template <typename T>
void permute(const SeparableProblem<T>& p, const SeparableStretch& stretch, const RowsTogether<T>& rows) {
  if (stretch.terms == 1) return permute_vectors<T, 1>(p, stretch, rows);
  if (stretch.terms == 2) return permute_vectors<T, 2>(p, stretch, rows);
  for (int64_t from = 0; from < stretch.terms; from += kTogether) {
    switch (stretch.terms - from) {
      case 1:
        permute_terms<T, 1, 1>(p, stretch, from, rows);
        break;
      case 2:
        permute_terms<T, 1, 2>(p, stretch, from, rows);
        break;
      case 3:
        permute_terms<T, 1, 3>(p, stretch, from, rows);
        break;
      default:
        permute_terms<T, 1, 4>(p, stretch, from, rows);
    }
  }
}
#endif

// Stretches, or runs if there are none.
template <typename T>
__attribute__((noinline)) void apply_plane_rows(const SeparableProblem<T>& p, const RowsTogether<T>& rows) {
#ifdef TORCHBP_PERMUTES
  for (int64_t s = 0; s < p.stretches; ++s) {
    const SeparableStretch& stretch = p.stretch[s];
    if (stretch.kind == SeparableStretch::kClear)
      for (int64_t r = 0; r < rows.count; ++r) clear(rows.target[r] + stretch.target, stretch.count);
    else if (stretch.kind == SeparableStretch::kCopy)
      for (int64_t r = 0; r < rows.count; ++r)
        copy(rows.target[r] + stretch.target, rows.source[r] + stretch.source, stretch.count);
    else
      permute(p, stretch, rows);
  }
  if (p.stretches > 0) return;
#endif
  for (int64_t r = 0; r < rows.count; ++r) apply_plane_row(p, rows.source[r], rows.target[r]);
}

template <typename T>
TORCHBP_INLINE void flush(const SeparableProblem<T>& p, RowsTogether<T>& rows) {
  apply_plane_rows(p, rows);
  rows.count = 0;
}

template <typename T>
TORCHBP_INLINE void add_row(RowsTogether<T>& rows, const T* source, T* target) {
  rows.source[rows.count] = source;
  rows.target[rows.count] = target;
  ++rows.count;
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
  RowsTogether<T> rows;
  rows.count = 0;
  for (int64_t c = 0; c < task.channels; ++c) {
    add_row(rows, planes + c * p.row, target + c * p.target_channel_stride);
    if (rows.count == rows_together(p)) flush(p, rows);
  }
  flush(p, rows);
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
  RowsTogether<T> rows;
  rows.count = 0;
  T* to = task.workspace;
  for (int64_t d = 0; d < expanded.depth.count; ++d)
    for (int64_t h = 0; h < expanded.height.count; ++h, to += p.axis[2].outputs) {
      const T* from =
          task.source + (expanded.depth.first + d) * outer.stride + (expanded.height.first + h) * inner.stride;
      add_row(rows, from, to);
      if (rows.count == rows_together(p)) flush(p, rows);
    }
  flush(p, rows);
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
  for (int64_t s = 0; s < p.stretches; ++s)
    for (int64_t c = 0; c < task.channels; ++c)
      clear(target + p.stretch[s].target + c * p.target_channel_stride, p.stretch[s].count);
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

// Rows of planes at one depth and these heights.
template <typename T>
__attribute__((noinline)) void apply_plane(const Task<T>& task, int64_t depth, int64_t first, int64_t last) {
  const SeparableProblem<T>& p = *task.problem;
  const SeparableAxis<T>&outer = p.axis[0], &inner = p.axis[1];
  const bool read = outer.begin[depth] < outer.begin[depth + 1];
  const T* source = task.source + (read ? outer.source[outer.begin[depth]] : 0);
  T* target = task.target + outer.target[depth];
  const int64_t *begin = inner.begin, *from = inner.source, *to = inner.target, most = rows_together(p);
  RowsTogether<T> rows;
  while (first < last) {
    int64_t count = 0;
    for (; first < last && count < most; ++first) {
      if (!read || begin[first] == begin[first + 1]) {
        clear_row(task, target + to[first]);
        continue;
      }
      rows.source[count] =
          p.in_place ? source + from[begin[first]] : source_row(task, depth, first, task.workspace + count * p.row).at;
      rows.target[count] = target + to[first];
      ++count;
    }
    rows.count = count;
    apply_plane_rows(p, rows);
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
    for (; row < end; ++depth, height = 0) {
      if (!problem.channels_last && problem.expanded == 0) {
        const int64_t last = smaller(end - row + height, inner.outputs);
        apply_plane(task, depth, height, last);
        row += last - height;
        continue;
      }
      for (; row < end && height < inner.outputs; ++height, ++row) {
        T* row_target = task.target + outer.target[depth] + inner.target[height];
        if (outer.begin[depth] == outer.begin[depth + 1] || inner.begin[height] == inner.begin[height + 1]) {
          clear_row(task, row_target);
        } else if (problem.turned) {
          apply_turned_row(task, source_row(task, depth, height, task.workspace), row_target);
        } else if (problem.channels_last) {
          apply_channels_row(task, source_row(task, depth, height, task.workspace), row_target);
        } else {
          if (row >= expanded.until) expanded = expand(task, row, depth, height, end - row);
          sum_expanded_rows(task, expanded, depth, height, row_target);
        }
      }
    }
    depth = 0;
  }
}

template <typename T>
SeparableKernels<T> kernels_of() {
#ifdef TORCHBP_PERMUTES
  constexpr int64_t permutes = kLanes<T>;
#else
  constexpr int64_t permutes = 0;
#endif
  return {permutes, separable_tasks<T>, separable_workspace<T>, separable_apply<T>};
}

}  // namespace

SeparableKernels<float> separable_float() { return kernels_of<float>(); }
SeparableKernels<double> separable_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
