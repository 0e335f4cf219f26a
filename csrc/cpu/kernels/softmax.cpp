// Softmax, its logarithm, and their gradients, in one pass over memory.
#include "softmax.h"

#include "tile.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

template <typename T>
int64_t workspace(const ClassProblem& problem) {
  return in_rows<T>(problem) ? 0 : 2 * problem.classes * tile_width<T>(problem);
}

template <typename T>
void forward_row(const T* x, int64_t count, bool log, T* y) {
  const int64_t last = count - Lanes<T>::count;
  const IntegerVector<T> fresh = last_lanes<T>(count);
  const Vector<T> maximum = broadcast<T>(row_maximum(x, count));
  const Vector<T> final = exponential<T>(load(x + last) - maximum);
  Vector<T> sums = fresh ? final : Vector<T>{};
  if (log) {
    for_vectors<T>(count, [&](int64_t i) { sums += exponential<T>(load(x + i) - maximum); });
    const Vector<T> log_sum = logarithm<T>(broadcast<T>(sum_across<T>(sums)));
    for_vectors<T>(count, [&](int64_t i) { store<T>(y + i, (load(x + i) - maximum) - log_sum); });
    store<T>(y + last, (load(x + last) - maximum) - log_sum);
    return;
  }
  for_vectors<T>(count, [&](int64_t i) {
    const Vector<T> e = exponential<T>(load(x + i) - maximum);
    store<T>(y + i, e);
    sums += e;
  });
  const T inverse = T(1) / sum_across<T>(sums);
  for_vectors<T>(count, [&](int64_t i) { store<T>(y + i, load(y + i) * inverse); });
  store<T>(y + last, final * inverse);
}

template <typename T>
TORCHBP_INLINE void forward_column(T* tile, int64_t classes, int64_t width, bool log) {
  Vector<T> maximum = load(tile), sum{};
  for (int64_t c = 1; c < classes; ++c) maximum = greater<T>(load(tile + c * width), maximum);
  if (log) {
    for (int64_t c = 0; c < classes; ++c) sum += exponential<T>(load(tile + c * width) - maximum);
    const Vector<T> log_sum = logarithm<T>(sum);
    for (int64_t c = 0; c < classes; ++c) store<T>(tile + c * width, (load(tile + c * width) - maximum) - log_sum);
    return;
  }
  for (int64_t c = 0; c < classes; ++c) {
    const Vector<T> e = exponential<T>(load(tile + c * width) - maximum);
    store<T>(tile + c * width, e);
    sum += e;
  }
  const Vector<T> inverse = T(1) / sum;
  for (int64_t c = 0; c < classes; ++c) store<T>(tile + c * width, load(tile + c * width) * inverse);
}

template <typename T>
void forward(const ClassProblem& problem, const T* x, bool log, T* y, T* tile, int64_t task) {
  const int64_t classes = problem.classes;
  if (in_rows<T>(problem)) {
    for_units<T>(problem, task, [&](const Unit& unit) {
      forward_row(x + offset_of(problem.from, unit), classes, log, y + offset_of(problem.to, unit));
    });
    return;
  }
  const int64_t width = tile_width<T>(problem);
  for_units<T>(problem, task, [&](const Unit& unit) {
    load_tile(x, problem.from, classes, unit, width, tile);
    for (int64_t p = 0; p < unit.count; p += Lanes<T>::count) forward_column(tile + p, classes, width, log);
    store_tile(tile, width, classes, unit, problem.to, y);
  });
}

template <typename T>
void gradient_row(const T* g, const T* y, int64_t count, bool log, T* gx) {
  const int64_t last = count - Lanes<T>::count;
  const IntegerVector<T> fresh = last_lanes<T>(count);
  const auto term = [&](int64_t i) { return log ? load(g + i) : load(y + i) * load(g + i); };
  Vector<T> sums = fresh ? term(last) : Vector<T>{};
  for_vectors<T>(count, [&](int64_t i) { sums += term(i); });
  const Vector<T> sum = broadcast<T>(sum_across<T>(sums));
  const auto result = [&](int64_t i) {
    const Vector<T> kept = load(y + i), cotangent = load(g + i);
    store<T>(gx + i, log ? cotangent - exponential<T>(kept) * sum : kept * (cotangent - sum));
  };
  for_vectors<T>(count, result);
  result(last);
}

template <typename T>
TORCHBP_INLINE void gradient_column(T* g, const T* y, int64_t classes, int64_t width, bool log) {
  Vector<T> sum{};
  for (int64_t c = 0; c < classes; ++c) sum += log ? load(g + c * width) : load(y + c * width) * load(g + c * width);
  for (int64_t c = 0; c < classes; ++c) {
    const Vector<T> kept = load(y + c * width), cotangent = load(g + c * width);
    store<T>(g + c * width, log ? cotangent - exponential<T>(kept) * sum : kept * (cotangent - sum));
  }
}

template <typename T>
void gradient(const ClassProblem& problem, const T* g, const T* y, bool log, T* gx, T* workspace, int64_t task) {
  const int64_t classes = problem.classes;
  if (in_rows<T>(problem)) {
    for_units<T>(problem, task, [&](const Unit& unit) {
      const int64_t to = offset_of(problem.to, unit);
      gradient_row(g + offset_of(problem.from, unit), y + to, classes, log, gx + to);
    });
    return;
  }
  const int64_t width = tile_width<T>(problem);
  T* kept = workspace + classes * width;
  for_units<T>(problem, task, [&](const Unit& unit) {
    load_tile(g, problem.from, classes, unit, width, workspace);
    load_tile(y, problem.to, classes, unit, width, kept);
    for (int64_t p = 0; p < unit.count; p += Lanes<T>::count)
      gradient_column(workspace + p, kept + p, classes, width, log);
    store_tile(workspace, width, classes, unit, problem.to, gx);
  });
}

template <typename T>
SoftmaxKernels<T> kernels_of() {
  return {class_tasks<T>, workspace<T>, forward<T>, gradient<T>};
}

}  // namespace

SoftmaxKernels<float> softmax_float() { return kernels_of<float>(); }
SoftmaxKernels<double> softmax_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
