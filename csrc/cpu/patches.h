// Convolutions whose windows do not overlap, as products of matrices.
#pragma once

#include "convolution_algorithm.h"

namespace torchbp {

// y, dx and dw of a convolution without groups or padding whose stride is at least its kernel size. The operands may
// lie in memory in any way; the results are contiguous, or channels last as the geometry says.
template <typename T>
void patches_output(const Geometry& geometry, const at::Tensor& input, const at::Tensor& weight, const T* bias,
                    at::Tensor& output);
template <typename T>
void patches_input(const Geometry& geometry, const at::Tensor& grad_output, const at::Tensor& weight, const T* bias,
                   at::Tensor& grad_input);
template <typename T>
void patches_weight(const Geometry& geometry, const at::Tensor& input, const at::Tensor& grad_output,
                    at::Tensor& grad_weight);

}  // namespace torchbp
