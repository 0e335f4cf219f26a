#include "separable.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <limits>
#include <new>
#include <stdexcept>

#include "dispatch.h"

namespace torchbp {

Taps::Taps(int64_t inputs, int64_t outputs, int64_t taps_per_output) : inputs(inputs) {
  begin.reserve(static_cast<size_t>(outputs) + 1);
  index.reserve(static_cast<size_t>(outputs * taps_per_output));
  begin.push_back(0);
}

Taps transposed(const Taps& taps) {
  Taps result(taps.outputs(), taps.inputs, 0);
  std::vector<int64_t> next(static_cast<size_t>(taps.inputs) + 1, 0);
  for (const int64_t i : taps.index) ++next[static_cast<size_t>(i) + 1];
  for (int64_t i = 0; i < taps.inputs; ++i) next[static_cast<size_t>(i) + 1] += next[static_cast<size_t>(i)];
  result.begin = next;
  result.index.resize(taps.index.size());
  result.weight.resize(taps.weight.size());
  for (int64_t o = 0; o < taps.outputs(); ++o)
    for (int64_t t = taps.begin[o]; t < taps.begin[o + 1]; ++t) {
      const size_t place = static_cast<size_t>(next[static_cast<size_t>(taps.index[t])]++);
      result.index[place] = o;
      if (!taps.weight.empty()) result.weight[place] = taps.weight[t];
    }
  return result;
}

Layout layout_of(const at::Tensor& tensor) {
  Layout layout{tensor.stride(0), tensor.stride(1), {}};
  const int64_t absent = kSpatial - (tensor.dim() - 2);
  for (int64_t d = 0; d < kSpatial; ++d) {
    AxisLayout& axis = layout.axis[d];
    axis = {1, 0, 0};
    if (d >= absent) axis = {std::max<int64_t>(1, tensor.size(2 + d - absent)), 0, tensor.stride(2 + d - absent)};
  }
  return layout;
}

namespace {

constexpr int64_t kMostLanes = 16;       // of any vector
constexpr int64_t kLongStretch = 8;      // vectors of a stretch that is copied or cleared for itself
constexpr int64_t kVectorsTogether = 4;  // of a stretch, and
constexpr int64_t kTermsTogether = 2;    // the most terms of each; of one vector any number
constexpr int64_t kShortest = 8;         // outputs that are worth a run of their own
constexpr double kGrowth = 1.5;          // target rows per source row from which on the last axis may come first
constexpr int64_t kExpanded = 1 << 15;   // elements that it expands rows to at a time, at most
constexpr int64_t kExpandedFor = 16;     // target rows, where those of a whole plane do not fit

int64_t offset(const AxisLayout& axis, int64_t i) {
  return i / axis.period * axis.outer + i % axis.period * axis.inner;
}

// An axis as the kernel takes it, with the arrays that it points to.
template <typename T>
struct AxisTables {
  std::vector<int64_t> source, target;
  std::vector<T> weight;

  SeparableAxis<T> fill(const Taps& taps, const AxisLayout& from, const AxisLayout& to, bool last) {
    weight.assign(taps.weight.begin(), taps.weight.end());
    const T* factors = taps.weight.empty() ? nullptr : weight.data();
    const int64_t *begin = taps.begin.data(), *index = taps.index.data();
    if (last) return {taps.outputs(), begin, index, factors, nullptr, index, from.inner};
    for (const int64_t i : taps.index) source.push_back(offset(from, i));
    for (int64_t o = 0; o < taps.outputs(); ++o) target.push_back(offset(to, o));
    return {taps.outputs(), begin, source.data(), factors, target.data(), index, from.inner};
  }
};

double growth(const Taps& taps) { return static_cast<double>(taps.outputs()) / static_cast<double>(taps.inputs); }

// How many consecutive inputs hold the taps of so many consecutive outputs, at most.
int64_t reach(const Taps& taps, int64_t outputs) {
  int64_t most = 1;
  for (int64_t o = 0; o < taps.outputs(); ++o) {
    const int64_t end = std::min(o + outputs, taps.outputs());
    const auto first = taps.index.begin() + taps.begin[o], last = taps.index.begin() + taps.begin[end];
    if (first == last) continue;
    const auto [least, greatest] = std::minmax_element(first, last);
    most = std::max(most, *greatest - *least + 1);
  }
  return most;
}

// The last axis cut into runs.
template <typename T>
struct Runs {
  const Taps& taps;
  AxisLayout target;
  std::vector<SeparableRun> runs = {};
  std::vector<T> weight = {};
  std::vector<int32_t> index = {};

  int64_t count(int64_t o) const { return taps.begin[o + 1] - taps.begin[o]; }
  // Outputs up to this one are consecutive in the target.
  int64_t end_of_period(int64_t o) const { return std::min(taps.outputs(), (o / target.period + 1) * target.period); }

  // How many outputs from `first` on have taps that all move by one step.
  int64_t stepped(int64_t first) const {
    const int64_t end = end_of_period(first), n = count(first), *index = taps.index.data(), *begin = taps.begin.data();
    if (first + 1 == end || count(first + 1) != n) return 1;
    const int64_t step = index[begin[first + 1]] - index[begin[first]];
    for (int64_t o = first + 1; o < end; ++o) {
      if (begin[o + 1] - begin[o] != n) return o - first;
      for (int64_t t = begin[o]; t < begin[o] + n; ++t)
        if (index[t] != index[t - n] + step) return o - first;
    }
    return end - first;
  }

  // How many outputs from `first` on are one tap of two stretches by turns.
  int64_t interleaved(int64_t first) const {
    const int64_t end = end_of_period(first), *index = taps.index.data() + taps.begin[first];
    if (!taps.weight.empty()) return 0;
    int64_t o = first;
    while (o < end && count(o) == 1 && (o < first + 2 || index[o - first] == index[o - first - 2] + 1)) ++o;
    return o - first;
  }

  int64_t empty(int64_t first) const {
    const int64_t end = end_of_period(first);
    int64_t o = first;
    while (o < end && count(o) == 0) ++o;
    return o - first;
  }

  void add(SeparableRun::Kind kind, int64_t first, int64_t outputs) {
    SeparableRun run{};
    run.kind = kind;
    run.unit = true;
    run.single = true;
    run.first = first;
    run.count = outputs;
    run.target = offset(target, first);
    run.taps = count(first);
    run.lanes = static_cast<int64_t>(weight.size());
    for (int64_t o = first; o < first + outputs; ++o) run.single = run.single && count(o) == 1;
    for (int64_t t = taps.begin[first]; t < taps.begin[first + outputs] && !taps.weight.empty(); ++t)
      run.unit = run.unit && taps.factor(t) == 1.0;
    if (kind == SeparableRun::kStepped && outputs > 1)
      run.step = taps.index[taps.begin[first + 1]] - taps.index[taps.begin[first]];
    if (kind == SeparableRun::kIndexed || (kind == SeparableRun::kStepped && !run.unit))
      for (int64_t t = 0; t < run.taps; ++t)
        for (int64_t o = first; o < first + outputs; ++o) {
          const int64_t tap = taps.begin[o] + t;
          weight.push_back(static_cast<T>(taps.factor(tap)));
          index.push_back(static_cast<int32_t>(taps.index[tap]));
        }
    runs.push_back(run);
  }

  // Outputs that are not stepped, cut where the number of taps or the target breaks.
  void add_rest(int64_t first, int64_t end) {
    const bool indexable = taps.inputs <= std::numeric_limits<int32_t>::max();
    while (first < end) {
      const int64_t consecutive = std::min(end, end_of_period(first));
      int64_t equal = first + 1;
      while (equal < consecutive && count(equal) == count(first)) ++equal;
      const bool indexed = indexable && equal - first >= kShortest;
      add(indexed ? SeparableRun::kIndexed : SeparableRun::kListed, first, (indexed ? equal : consecutive) - first);
      first = indexed ? equal : consecutive;
    }
  }

  // Whether a row takes more than a copy of stretches.
  bool costly() const {
    return std::any_of(runs.begin(), runs.end(), [](const SeparableRun& run) {
      return run.kind == SeparableRun::kInterleaved || run.kind == SeparableRun::kIndexed;
    });
  }

  void cut() {
    int64_t rest = 0, o = 0;
    while (o < taps.outputs()) {
      SeparableRun::Kind kind = SeparableRun::kZero;
      int64_t length = empty(o);
      if (length == 0) {
        kind = SeparableRun::kStepped;
        length = stepped(o);
        if (length < kShortest) {
          kind = SeparableRun::kInterleaved;
          length = interleaved(o);
        }
        if (length < kShortest) {
          ++o;
          continue;
        }
      }
      add_rest(rest, o);
      add(kind, o, length);
      rest = o += length;
    }
    add_rest(rest, o);
  }
};

// The last axis cut into stretches, for vectors of so many lanes.
template <typename T>
struct Stretches {
  const Taps& taps;
  AxisLayout source, target;
  int64_t lanes;
  int64_t span = offset(source, taps.inputs - 1) + 1;
  std::vector<int64_t> places = {};  // of the taps
  std::vector<SeparableStretch> stretches = {};
  std::vector<SeparableTerm> terms = {};
  std::vector<T> weight = {};
  std::vector<int32_t> index = {};

  int64_t count(int64_t o) const { return taps.begin[o + 1] - taps.begin[o]; }
  int64_t from(int64_t tap) const { return places[static_cast<size_t>(tap)]; }

  int64_t cleared(int64_t first, int64_t end) const {
    int64_t o = first;
    while (o < end && count(o) == 0) ++o;
    return o - first;
  }

  int64_t copied(int64_t first, int64_t end) const {
    if (!taps.weight.empty() || count(first) != 1) return 0;
    const int64_t start = from(taps.begin[first]);
    int64_t o = first + 1;
    while (o < end && count(o) == 1 && from(taps.begin[o]) == start + o - first) ++o;
    return o - first;
  }

  // Whole vectors, or all that is left, where they are many.
  int64_t worth(int64_t length, int64_t left) const {
    if (length < kLongStretch * lanes) return 0;
    return length == left ? length : length / lanes * lanes;
  }

  // Adds the t-th taps of some outputs, unless they do not lie in two windows.
  bool add_term(int64_t first, int64_t outputs, int64_t t) {
    constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    const int64_t last_window = std::max<int64_t>(0, span - lanes);
    std::array<int64_t, kMostLanes> place;
    place.fill(kNone);
    SeparableTerm term{last_window, last_window, 1, static_cast<int64_t>(index.size())};
    for (int64_t i = 0; i < outputs; ++i) {
      if (t < count(first + i)) place[i] = from(taps.begin[first + i] + t);
      term.first = std::min(term.first, place[i]);
    }
    for (int64_t i = 0; i < outputs; ++i)
      if (place[i] != kNone && place[i] >= term.first + lanes) {
        term.second = std::min(term.second, place[i]);
        term.windows = 2;
      }
    for (int64_t i = 0; i < lanes; ++i) {
      int64_t at = -1;
      if (place[i] != kNone) {
        const bool second = place[i] >= term.first + lanes;
        at = place[i] - (second ? term.second : term.first);
        if (at >= lanes) return false;
        if (second) at += lanes;
      }
      index.push_back(static_cast<int32_t>(at));
      if (!taps.weight.empty())
        weight.push_back(at < 0 ? T(0) : static_cast<T>(taps.factor(taps.begin[first + i] + t)));
    }
    terms.push_back(term);
    return true;
  }

  // How many outputs are permuted together, and the most taps that one has.
  void measure(int64_t first, int64_t end, SeparableStretch& stretch) const {
    for (int64_t o = first; o < end && stretch.count < kVectorsTogether * lanes; o += lanes) {
      if (o > first && worth(std::max(cleared(o, end), copied(o, end)), end - o) > 0) return;
      const int64_t outputs = std::min(lanes, end - o);
      int64_t most = stretch.terms;
      for (int64_t i = o; i < o + outputs; ++i) most = std::max(most, count(i));
      if (most > kTermsTogether && o > first) return;
      stretch.terms = most;
      stretch.count += outputs;
      if (most > kTermsTogether) return;
    }
  }

  // False where the taps are too far apart.
  bool cut() {
    places = taps.index;
    if (source.period < taps.inputs)
      for (int64_t& place : places) place = offset(source, place);
    for (int64_t o = 0; o < taps.outputs(); o += stretches.back().count) {
      const int64_t end = std::min(taps.outputs(), (o / target.period + 1) * target.period);
      SeparableStretch stretch{SeparableStretch::kClear, offset(target, o), worth(cleared(o, end), end - o), 0, 0, 0};
      if (stretch.count == 0) {
        stretch.count = worth(copied(o, end), end - o);
        stretch.kind = SeparableStretch::kCopy;
        if (stretch.count > 0) stretch.source = from(taps.begin[o]);
      }
      if (stretch.count == 0) {
        stretch.kind = SeparableStretch::kPermute;
        stretch.term = static_cast<int64_t>(terms.size());
        measure(o, end, stretch);
        stretch.terms = std::max<int64_t>(1, stretch.terms);
        for (int64_t i = 0; i < stretch.count; i += lanes)
          for (int64_t t = 0; t < stretch.terms; ++t)
            if (!add_term(o + i, std::min(lanes, stretch.count - i), t)) return false;
      }
      stretches.push_back(stretch);
    }
    return true;
  }
};

// Whether every row of the source is read alone, as it is.
bool selects(const Taps& taps) {
  if (!taps.weight.empty()) return false;
  for (int64_t o = 0; o < taps.outputs(); ++o)
    if (taps.begin[o + 1] - taps.begin[o] > 1) return false;
  return true;
}

template <typename T>
void run_typed(const Axes& axes, const T* source, const Layout& from, T* target, const Layout& to, int64_t batch,
               int64_t channels, Order order) {
  const bool channels_last = order != Order::kPlanes;
  SeparableProblem<T> problem{};
  problem.batch = batch;
  problem.channels = channels;
  problem.channels_last = channels_last;
  problem.turned = order == Order::kTurned;
  problem.source_batch_stride = from.batch;
  problem.source_channel_stride = from.channel;
  problem.target_batch_stride = to.batch;
  problem.target_channel_stride = to.channel;
  const Taps absent = selection(1, 1, [](int64_t) { return 0; });
  std::array<AxisTables<T>, kSpatial> tables;
  std::array<const Taps*, kSpatial> taps;
  for (int d = 0; d < kSpatial; ++d) {
    const int64_t given = d - (kSpatial - static_cast<int64_t>(axes.size()));
    taps[d] = given < 0 ? &absent : &axes[static_cast<size_t>(given)];
    problem.axis[d] = tables[d].fill(*taps[d], from.axis[d], to.axis[d], d == kSpatial - 1);
  }
  const AxisLayout &row = from.axis[kSpatial - 1], &written = to.axis[kSpatial - 1];
  const Taps& last = *taps[kSpatial - 1];
  problem.row = last.inputs;
  problem.piece = std::min(row.period, last.inputs);
  problem.piece_stride = row.outer;
  problem.source_step = channels_last ? row.inner : 1;
  problem.target_step = order == Order::kChannelsLast ? written.inner : 1;
  const Taps &outer = *taps[0], &inner = *taps[1];
  const SeparableKernels<T>& kernel = separable_kernels<T>();
  problem.in_place = order == Order::kPlanes && selects(outer) && selects(inner);
  const AxisLayout dense{std::max<int64_t>(1, last.inputs), 0, 1};
  Stretches<T> stretches{last, problem.in_place ? row : dense, written, kernel.permutes};
  Runs<T> runs{last, written};
  bool costly = false;
  if (order != Order::kChannelsLast && kernel.permutes > 0 && stretches.cut()) {
    problem.stretches = static_cast<int64_t>(stretches.stretches.size());
    problem.stretch = stretches.stretches.data();
    problem.term = stretches.terms.data();
    problem.lane_weight = stretches.weight.data();
    problem.lane_index = stretches.index.data();
    problem.weighted = costly = !last.weight.empty();
    problem.span = stretches.span;
  } else {
    problem.in_place = false;
    runs.cut();
    problem.runs = static_cast<int64_t>(runs.runs.size());
    problem.run = runs.runs.data();
    problem.lane_weight = runs.weight.data();
    problem.lane_index = runs.index.data();
    costly = runs.costly();
  }
  const bool whole = problem.piece == problem.row && written.period >= last.outputs() &&
                     from.axis[0].period >= outer.inputs && from.axis[1].period >= inner.inputs;
  if (order == Order::kPlanes && whole && costly && growth(outer) * growth(inner) >= kGrowth) {
    const int64_t most = kExpanded / last.outputs();
    if (inner.inputs <= most / outer.inputs) {
      problem.expanded = outer.inputs * inner.inputs;
    } else if (const int64_t rows = reach(outer, 1) * reach(inner, kExpandedFor); rows <= most) {
      problem.expanded = rows;
      problem.expanded_for = kExpandedFor;
    }
  }
  run_tasks<T>(kernel.tasks(problem), kernel.workspace(problem),
               [&](int64_t task, T* workspace) { kernel.apply(problem, source, target, workspace, task); });
}

}  // namespace

void run_separable(const char* op, const at::Tensor& source, const Layout& from, const at::Tensor& target,
                   const Layout& to, int64_t batch, int64_t channels, Order order, const std::function<Axes()>& make) {
  try {
    const Axes axes = make();
    AT_DISPATCH_FLOATING_TYPES(source.scalar_type(), "separable", [&] {
      run_typed<scalar_t>(axes, source.const_data_ptr<scalar_t>(), from, target.data_ptr<scalar_t>(), to, batch,
                          channels, order);
    });
  } catch (const std::bad_alloc&) {
    TORCH_CHECK(false, op, ": the tables for sizes ", source.sizes(), " do not fit in memory");
  } catch (const std::length_error&) {
    TORCH_CHECK(false, op, ": the tables for sizes ", source.sizes(), " do not fit in memory");
  }
}

at::Tensor apply_separable(const char* op, const at::Tensor& source, at::IntArrayRef size, at::MemoryFormat format,
                           const std::function<Axes()>& make) {
  if (computes_in_float(source))
    return apply_separable(op, source.to(at::kFloat), size, format, make).to(source.scalar_type());
  std::vector<int64_t> shape = source.sizes().slice(0, 2).vec();
  shape.insert(shape.end(), size.begin(), size.end());
  at::Tensor target = at::empty(shape, source.options().memory_format(format));
  if (target.numel() == 0) return target;
  if (source.numel() == 0) return target.zero_();
  const auto consecutive = [&](int64_t axis) { return source.stride(axis) == 1 || source.size(axis) == 1; };
  Order order = format == at::MemoryFormat::Contiguous ? Order::kPlanes : Order::kChannelsLast;
  at::Tensor dense = source;
  if (!consecutive(order == Order::kPlanes ? source.dim() - 1 : 1)) {
    if (order == Order::kPlanes && consecutive(1))
      order = Order::kTurned;
    else
      dense = source.contiguous(format);
  }
  run_separable(op, dense, layout_of(dense), target, layout_of(target), source.size(0), source.size(1), order, make);
  return target;
}

}  // namespace torchbp
