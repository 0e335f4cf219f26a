// Normalisation: moments, sums of products and affine maps, of runs, of columns and of weighted rows, and those of
// the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// A mean, and the sum of the squared deviations from it.
struct Moments {
  double mean;
  double squares;
};

struct Sums {
  double gradient;  // of g
  double product;   // of g * (x - centre)
};

// `count` elements, one run per row, the rows `stride` apart.
struct Runs {
  int64_t rows;
  int64_t stride;
  int64_t length;
};

// What normalises one row of a weighted problem, out = (x - centre) * scale + shift before weight and bias, or
// what is its gradient, g * weight * slope + (x - centre) * scale + shift.
template <typename A>
struct RowMap {
  A centre;
  A scale;
  A shift;
  A slope;
};

// T is the type in memory, Compute<T> the one of arithmetic; what is summed over more than a few hundred elements is
// summed in double. No split of a sum depends on anything but sizes.
template <typename T>
struct NormalizationKernels {
  using A = Compute<T>;

  // Over all elements of the runs.
  Moments (*moments)(const T* x, const Runs&);
  Sums (*products)(const T* g, const T* x, A centre, const Runs&);
  // out = g * slope + (x - centre) * scale + shift; without g, or without x, the terms left.
  void (*apply)(const T* g, const T* x, A slope, A centre, A scale, A shift, const Runs&, T* out);

  // The two for neighbouring planes of `length` elements each: sums of every one, a map for every one.
  void (*plane_products)(const T* g, const T* x, A centre, int64_t planes, int64_t length, Sums* found);
  void (*plane_apply)(const T* g, const T* x, const RowMap<A>* maps, int64_t planes, int64_t length, T* out);

  // The same for each of the `length` columns. The workspace has 3 * length elements.
  void (*column_moments)(const T* x, const Runs&, double* mean, double* squares, A* workspace);
  void (*column_products)(const T* g, const T* x, const A* centre, const Runs&, double* gradient, double* product,
                          A* workspace);
  void (*column_apply)(const T* g, const T* x, const A* slope, const A* centre, const A* scale, const A* shift,
                       const Runs&, T* out);

  // Rows with a weight and a bias per element. A row of x consists of `groups` runs of length elements, each with
  // statistics of its own: those of row r and group k are at r * groups + k. Without mean, here and in
  // weighted_backward, zero stands for it, and variance is the mean square.
  void (*weighted_forward)(const T* x, const A* weight, const A* bias, double eps, int64_t groups, const Runs&, T* out,
                           A* mean, A* variance);
  void (*weighted_apply)(const T* x, const A* weight, const A* bias, const RowMap<A>& map, int64_t length, T* out);
  Sums (*weighted_products)(const T* g, const T* x, const A* weight, A centre, int64_t length);
  // Writes out and adds to grad_weight and grad_bias, groups * length each, unless they are null; the workspace
  // has 2 * length elements.
  void (*weighted_backward)(const T* g, const T* x, const A* weight, const A* mean, const A* variance, double eps,
                            int64_t groups, const Runs&, T* out, double* grad_weight, double* grad_bias, A* workspace);
  // One group's part of that, given each row's map, `every` apart; map.slope is 1 / sqrt(variance + eps).
  void (*weighted_gradients)(const T* g, const T* x, const A* weight, const RowMap<A>* maps, int64_t every, const Runs&,
                             T* out, double* grad_weight, double* grad_bias, A* workspace);
};

// Static, as every instruction set needs a copy of its own.
// The map of a row's gradient from its statistics and its sums of gradient * weight.
template <typename A>
static inline RowMap<A> gradient_map(double mean, double inverse, const Sums& sums, int64_t length) {
  const double n = static_cast<double>(length);
  return {static_cast<A>(mean), static_cast<A>(-inverse * inverse * inverse * sums.product / n),
          static_cast<A>(-inverse * sums.gradient / n), static_cast<A>(inverse)};
}

// The map that normalises a row; the centre is rounded, the shift makes up for it.
template <typename A>
static inline RowMap<A> forward_map(double mean, double inverse) {
  const A centre = static_cast<A>(mean);
  return {centre, static_cast<A>(inverse), static_cast<A>((static_cast<double>(centre) - mean) * inverse), A(0)};
}

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

NormalizationKernels<float> normalization_float();
NormalizationKernels<double> normalization_double();
NormalizationKernels<BFloat16> normalization_bfloat16();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
