// Softmax, its logarithm and their gradients along the classes: the problems and their kernels.
#pragma once

#include "problem.h"

namespace torchbp {

// Where element (o, o', c, i) of outer x outer' x classes x inner stands.
struct ClassStrides {
  int64_t outer[2];
  int64_t classes;
  int64_t inner;
};

// Rows of classes, one for each position (o, o', i), in this order. `from` and `other` lay out what is read, of any
// strides (the same where there is one tensor), `to` what is written.
struct ClassProblem {
  int64_t outer[2];
  int64_t classes;
  int64_t inner;
  ClassStrides from;
  ClassStrides other;
  ClassStrides to;
};

template <typename T>
struct SoftmaxKernels {
  int64_t (*tasks)(const ClassProblem&);
  int64_t (*workspace)(const ClassProblem&);  // elements, per thread

  // y = exp(x) / sum of exp(x), or its logarithm.
  void (*forward)(const ClassProblem&, const T* x, bool log, T* y, T* workspace, int64_t task);
  // gx = y (g - sum of y g), or of the logarithm g - exp(y) sum of g; y lies as `from`, g as `other`.
  void (*gradient)(const ClassProblem&, const T* y, const T* g, bool log, T* gx, T* workspace, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

SoftmaxKernels<float> softmax_float();
SoftmaxKernels<double> softmax_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
