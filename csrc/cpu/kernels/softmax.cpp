// Softmax, its logarithm and their gradients, in one pass over memory.
#include "softmax.h"

#include "tile.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Two tiles, and a number per position.
template <typename T>
int64_t workspace(const ClassProblem& problem) {
  return 2 * unit_elements<T>(problem) + (in_rows<T>(problem) ? 0 : unit_width<T>(problem));
}

template <typename T>
TORCHBP_INLINE void forward_row(const T* x, int64_t count, bool log, T* y) {
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
void forward(const ClassProblem& problem, const T* x, bool log, T* y, T* tile, int64_t task) {
  const int64_t classes = problem.classes;
  if (in_rows<T>(problem)) {
    for_units<T>(problem, task, [&](const Unit& unit) {
      const Rows<T> rows = read_rows(x, problem.from, classes, unit, tile);
      T* to = y + offset_of(problem.to, unit);
      for (int64_t p = 0; p < unit.count; ++p)
        forward_row(rows.first + p * rows.step, classes, log, to + p * problem.to.inner);
    });
    return;
  }
  const int64_t width = unit_width<T>(problem), lanes = Lanes<T>::count;
  T* last = tile + 2 * classes * width;  // what the last step takes of each position
  for_units<T>(problem, task, [&](const Unit& unit) {
    load_tile(x, problem.from, classes, unit, width, tile);
    for (int64_t p = 0; p < unit.count; p += lanes) {
      T* column = tile + p;
      const Vector<T> most = column_maximum(column, classes, width);
      Vector<T> sum{};
      for (int64_t c = 0; c < classes; ++c) {
        const Vector<T> shifted = load(column + c * width) - most, e = exponential<T>(shifted);
        store<T>(column + c * width, log ? shifted : e);
        sum += e;
      }
      store<T>(last + p, log ? logarithm<T>(sum) : T(1) / sum);
    }
    if (log)
      write_tile(problem.to, classes, unit, width, tile, y,
                 [&](int64_t c, int64_t p) { return load(tile + c * width + p) - load(last + p); });
    else
      write_tile(problem.to, classes, unit, width, tile, y,
                 [&](int64_t c, int64_t p) { return load(tile + c * width + p) * load(last + p); });
  });
}

template <typename T, typename Part>
TORCHBP_INLINE T row_sum(int64_t count, const Part& part) {
  constexpr int64_t lanes = Lanes<T>::count;
  const int64_t last = count - lanes;
  Vector<T> sums[4] = {last_lanes<T>(count) ? part(last) : Vector<T>{}};
  int64_t i = 0;
  for (; i + 4 * lanes <= last; i += 4 * lanes)
    for (int64_t u = 0; u < 4; ++u) sums[u] += part(i + u * lanes);
  for (; i < last; i += lanes) sums[1] += part(i);
  return sum_across<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <typename T>
TORCHBP_INLINE void gradient_row(const T* y, const T* g, int64_t count, bool log, T* gx) {
  const int64_t last = count - Lanes<T>::count;
  if (log) {
    const T sum = row_sum<T>(count, [&](int64_t i) { return load(g + i); });
    const auto put = [&](int64_t i) { store<T>(gx + i, load(g + i) - exponential<T>(load(y + i)) * sum); };
    for_vectors<T>(count, put);
    put(last);
    return;
  }
  const T sum = row_sum<T>(count, [&](int64_t i) { return load(y + i) * load(g + i); });
  const auto put = [&](int64_t i) { store<T>(gx + i, load(y + i) * (load(g + i) - sum)); };
  for_vectors<T>(count, put);
  put(last);
}

template <typename T>
void gradient(const ClassProblem& problem, const T* y, const T* g, bool log, T* gx, T* workspace, int64_t task) {
  const int64_t classes = problem.classes;
  T* outputs = workspace;
  T* cotangents = workspace + unit_elements<T>(problem);
  if (in_rows<T>(problem)) {
    for_units<T>(problem, task, [&](const Unit& unit) {
      const Rows<T> rows = read_rows(y, problem.from, classes, unit, outputs);
      const Rows<T> from = read_rows(g, problem.other, classes, unit, cotangents);
      T* to = gx + offset_of(problem.to, unit);
      for (int64_t p = 0; p < unit.count; ++p)
        gradient_row(rows.first + p * rows.step, from.first + p * from.step, classes, log, to + p * problem.to.inner);
    });
    return;
  }
  const int64_t width = unit_width<T>(problem), lanes = Lanes<T>::count;
  T* sums = cotangents + classes * width;
  for_units<T>(problem, task, [&](const Unit& unit) {
    const Columns<T> from = read_tile(y, problem.from, classes, unit, width, outputs);
    const Columns<T> back = read_tile(g, problem.other, classes, unit, width, cotangents);
    for (int64_t c = 0; c < classes; ++c) {
      const T *output = from.first + c * from.step, *cotangent = back.first + c * back.step;
      for (int64_t p = 0; p < unit.count; p += lanes) {
        const Vector<T> part = log ? load(cotangent + p) : load(cotangent + p) * load(output + p);
        store<T>(sums + p, c == 0 ? part : load(sums + p) + part);
      }
    }
    if (log)
      write_tile(problem.to, classes, unit, width, outputs, gx, [&](int64_t c, int64_t p) {
        return load(back.first + c * back.step + p) -
               exponential<T>(load(from.first + c * from.step + p)) * load(sums + p);
      });
    else
      write_tile(problem.to, classes, unit, width, outputs, gx, [&](int64_t c, int64_t p) {
        return load(from.first + c * from.step + p) * (load(back.first + c * back.step + p) - load(sums + p));
      });
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
