// Convolution whose vectors are channels: the kernels of the problems of convolution.h.
#pragma once

#include "convolution.h"

namespace torchbp {

template <typename T>
struct DirectKernels {
  // Whether the workspace stays within bounds.
  bool (*fits)(const GatherProblem&);
  int64_t (*packed_panels)(const GatherProblem&);
  int64_t (*packed_panel_size)(const GatherProblem&);
  void (*pack_weight)(const GatherProblem&, const T* weight, T* packed, int64_t panel);

  // One task computes a block of positions times a block of target channels of one group. The tasks are for so many
  // threads; the bits do not depend on it.
  int64_t (*gather_tasks)(const GatherProblem&, int64_t threads);
  int64_t (*gather_workspace)(const GatherProblem&);  // elements, per thread
  void (*gather)(const GatherProblem&, int64_t threads, const T* source, const T* packed, const T* bias, T* target,
                 T* workspace, int64_t task);

  // As those of ConvolutionKernels.
  bool (*correlation_fits)(const CorrelationProblem&);
  int64_t (*correlation_slices)(const CorrelationProblem&);
  int64_t (*correlation_tasks)(const CorrelationProblem&);
  int64_t (*correlation_workspace)(const CorrelationProblem&);
  void (*correlate)(const CorrelationProblem&, const T* source, const T* gradient, T* partial, T* workspace,
                    int64_t task);
};

#ifdef TORCHBP_ISA
namespace TORCHBP_ISA {

DirectKernels<float> direct_float();
DirectKernels<double> direct_double();

}  // namespace TORCHBP_ISA
#endif

}  // namespace torchbp
