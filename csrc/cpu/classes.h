// How tensors are read as outer x classes x inner.
#pragma once

#include <ATen/core/Tensor.h>

#include "arguments.h"
#include "kernels/softmax.h"

namespace torchbp {

// The shape around dimension `dim`, and `to` as the strides of a contiguous tensor.
inline ClassProblem class_problem(const at::Tensor& input, int64_t dim) {
  ClassProblem problem{1, 1, 1, {}, {}};
  for (int64_t d = 0; d < input.dim(); ++d)
    (d < dim ? problem.outer : d == dim ? problem.classes : problem.inner) *= input.size(d);
  problem.to = {problem.classes * problem.inner, problem.inner, 1};
  return problem;
}

// The step of dimensions [first, last) as one, or -1 where they have none.
inline int64_t merged_stride(const at::Tensor& tensor, int64_t first, int64_t last) {
  int64_t step = 0, next = -1;
  for (int64_t d = last - 1; d >= first; --d) {
    if (tensor.size(d) == 1) continue;
    if (next < 0)
      step = tensor.stride(d);
    else if (tensor.stride(d) != next)
      return -1;
    next = tensor.stride(d) * tensor.size(d);
  }
  return step;
}

// Sets problem.from to the tensor's strides and returns it, or a contiguous copy if no three strides describe it.
inline at::Tensor read_classes(ClassProblem& problem, const at::Tensor& tensor, int64_t dim) {
  const int64_t outer = merged_stride(tensor, 0, dim), inner = merged_stride(tensor, dim + 1, tensor.dim());
  if (outer < 0 || inner < 0) {
    problem.from = {problem.classes * problem.inner, problem.inner, 1};
    return tensor.contiguous();
  }
  problem.from = {outer, tensor.dim() == 0 ? 1 : tensor.stride(dim), inner};
  return tensor;
}

// With positions along one axis only, that is the inner one: the kernels fill vectors along it.
inline ClassProblem with_inner_positions(ClassProblem problem) {
  if (problem.inner == 1) {
    problem.inner = problem.outer;
    problem.outer = 1;
    problem.from.inner = problem.from.outer;
    problem.to.inner = problem.to.outer;
  }
  return problem;
}

}  // namespace torchbp
