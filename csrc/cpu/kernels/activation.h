// Pointwise maps that cost more than the memory they move, and their gradients.
#pragma once

#include "problem.h"

namespace torchbp {

enum class ActivationMap { kSigmoid, kScaledTanh, kSoftplus, kGelu, kGeluTanh, kSilu };

// scaled tanh: parameters a, b of a tanh(b x); softplus: beta and threshold; the others: none.
struct Activation {
  ActivationMap map;
  double parameters[2];
};

template <typename T>
struct ActivationKernels {
  void (*forward)(const Activation&, const T* x, T* y, int64_t count);
  // gx = g f', from the output of sigmoid and scaled tanh and the input of the others.
  void (*gradient)(const Activation&, const T* g, const T* kept, T* gx, int64_t count);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

ActivationKernels<float> activation_float();
ActivationKernels<double> activation_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
