// Cross-entropy of class indices and losses of a difference: forward reads its input once, backward reads it and writes
// its gradient.
#include "loss.h"

#include "tile.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// A tile, and four numbers per position of it.
template <typename T>
int64_t workspace(const ClassProblem& problem) {
  return unit_elements<T>(problem) + (in_rows<T>(problem) ? 0 : 4 * unit_width<T>(problem));
}

template <typename T>
TORCHBP_INLINE bool is_kept(const ClassTargets<T>& targets, int64_t target, int64_t classes) {
  return target != targets.ignore_index && target >= 0 && target < classes;
}

// The loss of a position whose score of the target lies `score` from the maximum; `total` is the sum of the
// weighted scores, likewise.
template <typename T>
TORCHBP_INLINE T add_loss(const ClassTargets<T>& targets, int64_t target, int64_t classes, T score, T total, T log_sum,
                          LossSums& sums) {
  if (!is_kept(targets, target, classes)) return T(0);
  const T weight = targets.weight ? targets.weight[target] : T(1);
  T loss = weight * (log_sum - score);
  if (targets.smoothing > T(0))
    loss = (T(1) - targets.smoothing) * loss +
           targets.smoothing / static_cast<T>(classes) * (targets.total_weight * log_sum - total);
  sums.loss += static_cast<double>(loss);
  sums.weight += static_cast<double>(weight);
  return loss;
}

template <typename T>
void forward(const ClassProblem& problem, const ClassTargets<T>& targets, const T* x, T* loss, T* maximum, T* log_sum,
             LossSums* sums, T* tile, int64_t task) {
  const int64_t classes = problem.classes, lanes = Lanes<T>::count;
  const bool smooth = targets.smoothing > T(0);
  const T* weight = targets.weight;
  LossSums found{0, 0};
  if (in_rows<T>(problem)) {
    const int64_t last = classes - lanes;
    const IntegerVector<T> fresh = last_lanes<T>(classes);
    const auto one = [&](const T* row, int64_t p) {
      const T most = row_maximum(row, classes);
      const Vector<T> final = load(row + last) - most;
      Vector<T> sum = fresh ? exponential<T>(final) : Vector<T>{}, total{};
      if (smooth) {
        total = fresh ? (weight ? final * load(weight + last) : final) : Vector<T>{};
        for_vectors<T>(classes, [&](int64_t i) {
          const Vector<T> score = load(row + i) - most;
          sum += exponential<T>(score);
          total += weight ? score * load(weight + i) : score;
        });
      } else {
        for_vectors<T>(classes, [&](int64_t i) { sum += exponential<T>(load(row + i) - most); });
      }
      const int64_t target = targets.target[p];
      maximum[p] = most;
      log_sum[p] = logarithm<T>(broadcast<T>(sum_across<T>(sum)))[0];
      const T score = row[is_kept(targets, target, classes) ? target : 0] - most;
      const T value = add_loss(targets, target, classes, score, sum_across<T>(total), log_sum[p], found);
      if (loss) loss[p] = value;
    };
    for_units<T>(problem, task, [&](const Unit& unit) {
      const Rows<T> rows = read_rows(x, problem.from, classes, unit, tile);
      for (int64_t p = 0; p < unit.count; ++p) one(rows.first + p * rows.step, unit.position + p);
    });
    *sums = found;
    return;
  }
  const int64_t width = unit_width<T>(problem);
  T* most = tile + classes * width;
  T* logs = most + width;
  T* totals = logs + width;
  for_units<T>(problem, task, [&](const Unit& unit) {
    load_tile(x, problem.from, classes, unit, width, tile);
    for (int64_t p = 0; p < unit.count; p += lanes) {
      const Vector<T> high = column_maximum(tile + p, classes, width);
      Vector<T> sum{}, total{};
      for (int64_t c = 0; c < classes; ++c) sum += exponential<T>(load(tile + c * width + p) - high);
      if (smooth)
        for (int64_t c = 0; c < classes; ++c)
          total += (load(tile + c * width + p) - high) * (weight ? weight[c] : T(1));
      store<T>(most + p, high);
      store<T>(logs + p, logarithm<T>(sum));
      store<T>(totals + p, total);
    }
    for (int64_t p = 0; p < unit.count; ++p) {
      const int64_t position = unit.position + p, target = targets.target[position];
      maximum[position] = most[p];
      log_sum[position] = logs[p];
      const T score = tile[(is_kept(targets, target, classes) ? target : 0) * width + p] - most[p];
      const T value = add_loss(targets, target, classes, score, totals[p], logs[p], found);
      if (loss) loss[position] = value;
    }
  });
  *sums = found;
}

// gx[c] = spread exp(x[c] - maximum - log_sum) - share w[c], less `pick` at the target.
template <typename T>
struct Coefficients {
  T spread;
  T share;
  T pick;
};

template <typename T>
TORCHBP_INLINE Coefficients<T> coefficients(const ClassTargets<T>& targets, int64_t target, int64_t classes, T g) {
  if (!is_kept(targets, target, classes)) return {T(0), T(0), T(0)};
  const T pick = g * (T(1) - targets.smoothing) * (targets.weight ? targets.weight[target] : T(1));
  const T share = g * (targets.smoothing / static_cast<T>(classes));
  return {targets.smoothing > T(0) ? pick + share * targets.total_weight : pick, share, pick};
}

template <typename T>
void gradient(const ClassProblem& problem, const ClassTargets<T>& targets, const T* x, const T* maximum,
              const T* log_sum, const T* g, int64_t g_stride, T* gx, T* tile, int64_t task) {
  const int64_t classes = problem.classes, lanes = Lanes<T>::count;
  const bool smooth = targets.smoothing > T(0);
  const T* weight = targets.weight;
  if (in_rows<T>(problem)) {
    const auto one = [&](const T* row, int64_t p, T* to) {
      const int64_t target = targets.target[p];
      const T most = maximum[p], log = log_sum[p];
      const Coefficients<T> k = coefficients(targets, target, classes, g[p * g_stride]);
      const auto plain = [&](int64_t i) { store<T>(to + i, exponential<T>((load(row + i) - most) - log) * k.spread); };
      const auto smoothed = [&](int64_t i) {
        const Vector<T> part = weight ? load(weight + i) * k.share : broadcast<T>(k.share);
        store<T>(to + i, exponential<T>((load(row + i) - most) - log) * k.spread - part);
      };
      if (smooth) {
        for_vectors<T>(classes, smoothed);
        smoothed(classes - lanes);
      } else {
        for_vectors<T>(classes, plain);
        plain(classes - lanes);
      }
      if (is_kept(targets, target, classes)) to[target] -= k.pick;
    };
    for_units<T>(problem, task, [&](const Unit& unit) {
      const Rows<T> rows = read_rows(x, problem.from, classes, unit, tile);
      T* to = gx + offset_of(problem.to, unit);
      for (int64_t p = 0; p < unit.count; ++p)
        one(rows.first + p * rows.step, unit.position + p, to + p * problem.to.inner);
    });
    return;
  }
  const int64_t width = unit_width<T>(problem);
  T* spread = tile + classes * width;
  T* share = spread + width;
  T* most = share + width;
  T* logs = most + width;
  for_units<T>(problem, task, [&](const Unit& unit) {
    const int64_t padded = (unit.count + lanes - 1) / lanes * lanes;
    const Columns<T> from = read_tile(x, problem.from, classes, unit, width, tile);
    for (int64_t p = 0; p < padded; ++p) {
      const bool inside = p < unit.count;
      const int64_t position = unit.position + p;
      const Coefficients<T> k = inside
                                    ? coefficients(targets, targets.target[position], classes, g[position * g_stride])
                                    : Coefficients<T>{T(0), T(0), T(0)};
      spread[p] = k.spread;
      share[p] = k.share;
      most[p] = inside ? maximum[position] : T(0);
      logs[p] = inside ? log_sum[position] : T(0);
    }
    const auto probability = [&](int64_t c, int64_t p) {
      return exponential<T>((load(from.first + c * from.step + p) - load(most + p)) - load(logs + p)) *
             load(spread + p);
    };
    if (smooth)
      write_tile(problem.to, classes, unit, width, tile, gx, [&](int64_t c, int64_t p) {
        return probability(c, p) - load(share + p) * (weight ? weight[c] : T(1));
      });
    else
      write_tile(problem.to, classes, unit, width, tile, gx, probability);
    T* to = gx + offset_of(problem.to, unit);
    for (int64_t p = 0; p < unit.count; ++p) {
      const int64_t position = unit.position + p, target = targets.target[position];
      if (is_kept(targets, target, classes))
        to[p * problem.to.inner + target * problem.to.classes] -=
            coefficients(targets, target, classes, g[position * g_stride]).pick;
    }
  });
}

// Losses of d = x - t and their derivatives, of numbers and of vectors; a NaN stays one.

template <typename T>
TORCHBP_INLINE T magnitude(T d) {
  return d <= T{} ? T{} - d : d;
}

template <typename T>
struct Squared {
  explicit Squared(T) {}
  template <typename V>
  TORCHBP_INLINE V value(V d) const {
    return d * d;
  }
  TORCHBP_INLINE T slope(T d) const { return T(2) * d; }
};

template <typename T>
struct Absolute {
  explicit Absolute(T) {}
  template <typename V>
  TORCHBP_INLINE V value(V d) const {
    return magnitude(d);
  }
  TORCHBP_INLINE T slope(T d) const { return static_cast<T>(d > 0) - static_cast<T>(d < 0); }  // 0 for a NaN
};

template <typename T>
struct SmoothL1 {
  const T beta, half;
  explicit SmoothL1(T parameter) : beta(parameter), half(T(0.5) * parameter) {}
  template <typename V>
  TORCHBP_INLINE V value(V d) const {
    const V size = magnitude(d);
    return size < beta ? T(0.5) * size * size / beta : size - half;
  }
  TORCHBP_INLINE T slope(T d) const { return d <= -beta ? T(-1) : d >= beta ? T(1) : d / beta; }
};

template <typename T>
struct Huber {
  const T delta, half;
  explicit Huber(T parameter) : delta(parameter), half(T(0.5) * parameter) {}
  template <typename V>
  TORCHBP_INLINE V value(V d) const {
    const V size = magnitude(d);
    return size <= delta ? T(0.5) * size * size : delta * (size - half);
  }
  TORCHBP_INLINE T slope(T d) const { return d < -delta ? -delta : d > delta ? delta : d; }
};

// Calls body(loss).
template <typename T, typename Body>
TORCHBP_INLINE auto with_loss(Difference loss, T parameter, const Body& body) {
  switch (loss) {
    case Difference::absolute:
      return body(Absolute<T>(parameter));
    case Difference::smooth_l1:
      return body(SmoothL1<T>(parameter));
    case Difference::huber:
      return body(Huber<T>(parameter));
    default:
      return body(Squared<T>(parameter));
  }
}

template <typename T>
void difference(Difference loss, T parameter, const T* __restrict__ x, const T* __restrict__ t, T* __restrict__ y,
                int64_t count) {
  with_loss(loss, parameter, [&](const auto& of) {
    for (int64_t i = 0; i < count; ++i) y[i] = of.value(x[i] - t[i]);
  });
}

// Runs are added in the tensor's own precision, in as many sums as four vectors have lanes, and the runs in double.
constexpr int64_t kRun = 4096;

template <typename T>
double difference_sum(Difference loss, T parameter, const T* x, const T* t, int64_t count) {
  constexpr int64_t lanes = Lanes<T>::count, width = 4 * lanes;
  return with_loss(loss, parameter, [&](const auto& of) {
    double total = 0;
    for (int64_t start = 0; start < count; start += kRun) {
      const int64_t end = smaller(count, start + kRun);
      Vector<T> sums[4] = {};
      int64_t i = start;
      for (; i + width <= end; i += width)
        for (int u = 0; u < 4; ++u) sums[u] += of.value(load(x + i + u * lanes) - load(t + i + u * lanes));
      T rest = 0;
      for (; i < end; ++i) rest += of.value(x[i] - t[i]);
      total += static_cast<double>(sum_across<T>((sums[0] + sums[1]) + (sums[2] + sums[3])) + rest);
    }
    return total;
  });
}

template <typename T>
void difference_gradient(Difference loss, T parameter, const T* __restrict__ x, const T* __restrict__ t,
                         const T* __restrict__ g, int64_t g_stride, T scale, T* __restrict__ gx, int64_t count) {
  with_loss(loss, parameter, [&](const auto& of) {
    if (g_stride == 0) {
      const T factor = scale * g[0];
      for (int64_t i = 0; i < count; ++i) gx[i] = factor * of.slope(x[i] - t[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) gx[i] = scale * g[i] * of.slope(x[i] - t[i]);
    }
  });
}

template <typename T>
CrossEntropyKernels<T> kernels_of() {
  return {class_tasks<T>, workspace<T>, forward<T>, gradient<T>};
}

template <typename T>
DifferenceKernels<T> difference_of() {
  return {difference<T>, difference_sum<T>, difference_gradient<T>};
}

}  // namespace

CrossEntropyKernels<float> cross_entropy_float() { return kernels_of<float>(); }
CrossEntropyKernels<double> cross_entropy_double() { return kernels_of<double>(); }

DifferenceKernels<float> difference_float() { return difference_of<float>(); }
DifferenceKernels<double> difference_double() { return difference_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
