// Per-channel normalisation: the problems and their kernels, and those of the instruction set being compiled.
#pragma once

#include "problem.h"

namespace torchbp {

// A tensor x[outer][channels][inner] that is normalised per channel; channels-last and (N, C) tensors
// have inner = 1. Sums are kept in double.
struct ChannelProblem {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

template <typename T>
struct ChannelKernels {
  // The sums over one slice of the elements, as partial[slices][2][channels]; the caller adds the
  // slices in order. With c = x - centre (centre null means 0):
  //   gradient null and not squared: (sum of c, 0);  squared: (sum of c * c, 0);
  //   gradient given:                (sum of g, sum of g * c).
  int64_t (*slices)(const ChannelProblem&);
  int64_t (*reduce_tasks)(const ChannelProblem&);
  int64_t (*reduce_workspace)(const ChannelProblem&);  // elements, per thread
  void (*reduce)(const ChannelProblem&, const T* x, const T* gradient, const T* centre, bool squared, double* partial,
                 T* workspace, int64_t task);

  // out = gradient * slope + (x - centre) * scale + shift per channel; gradient may be null.
  int64_t (*apply_tasks)(const ChannelProblem&);
  void (*apply)(const ChannelProblem&, const T* x, const T* gradient, const T* centre, const T* slope, const T* scale,
                const T* shift, T* out, int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

ChannelKernels<float> channel_float();
ChannelKernels<double> channel_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
