// Softmax and its logarithm along the classes: the problems and their kernels.
#pragma once

#include "problem.h"

namespace torchbp {

// Where element (o, c, i) of outer x classes x inner stands.
struct ClassStrides {
  int64_t outer;
  int64_t classes;
  int64_t inner;
};

// Rows of classes, one for each position (o, i); position o * inner + i. `from` lays out what is read, of any
// strides, `to` what is written.
struct ClassProblem {
  int64_t outer;
  int64_t classes;
  int64_t inner;
  ClassStrides from;
  ClassStrides to;
};

template <typename T>
struct SoftmaxKernels {
  int64_t (*tasks)(const ClassProblem&);
  int64_t (*workspace)(const ClassProblem&);  // elements, per thread

  // y = exp(x) / sum of exp(x), or its logarithm.
  void (*forward)(const ClassProblem&, const T* x, bool log, T* y, T* workspace, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

SoftmaxKernels<float> softmax_float();
SoftmaxKernels<double> softmax_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
