// Softmax and its logarithm, in one pass over memory.
#include "softmax.h"

#include "tile.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

template <typename T>
int64_t workspace(const ClassProblem& problem) {
  return in_rows<T>(problem) ? 0 : (problem.classes + 1) * tile_width<T>(problem);
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

// One vector of positions of a tile whose maximum is known; y's classes are `step` apart, and may be the tile's.
template <typename T>
TORCHBP_INLINE void forward_column(T* tile, int64_t classes, int64_t width, const Vector<T>& maximum, bool log, T* y,
                                   int64_t step) {
  Vector<T> sum{};
  if (log) {
    for (int64_t c = 0; c < classes; ++c) sum += exponential<T>(load(tile + c * width) - maximum);
    const Vector<T> log_sum = logarithm<T>(sum);
    for (int64_t c = 0; c < classes; ++c) store<T>(y + c * step, (load(tile + c * width) - maximum) - log_sum);
    return;
  }
  for (int64_t c = 0; c < classes; ++c) {
    const Vector<T> e = exponential<T>(load(tile + c * width) - maximum);
    store<T>(tile + c * width, e);
    sum += e;
  }
  const Vector<T> inverse = T(1) / sum;
  for (int64_t c = 0; c < classes; ++c) store<T>(y + c * step, load(tile + c * width) * inverse);
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
  const int64_t width = tile_width<T>(problem), lanes = Lanes<T>::count;
  T* maximum = tile + classes * width;
  for_units<T>(problem, task, [&](const Unit& unit) {
    load_tile(x, problem.from, classes, unit, width, tile, maximum);
    // Whole vectors go where they belong at once, unless that is across the vector.
    const int64_t direct = problem.to.inner == 1 ? unit.count / lanes * lanes : 0;
    T* to = y + offset_of(problem.to, unit);
    for (int64_t p = 0; p < direct; p += lanes)
      forward_column(tile + p, classes, width, load(maximum + p), log, to + p, problem.to.classes);
    for (int64_t p = direct; p < unit.count; p += lanes)
      forward_column(tile + p, classes, width, load(maximum + p), log, tile + p, width);
    store_tile(tile, width, classes, direct, unit, problem.to, y);
  });
}

template <typename T>
SoftmaxKernels<T> kernels_of() {
  return {class_tasks<T>, workspace<T>, forward<T>};
}

}  // namespace

SoftmaxKernels<float> softmax_float() { return kernels_of<float>(); }
SoftmaxKernels<double> softmax_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
