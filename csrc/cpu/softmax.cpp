// Softmax and its logarithm along a dimension. Results are contiguous, as the built-in's.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "arguments.h"
#include "classes.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

int64_t check_dim(const char* op, const Tensor& input, int64_t dim) {
  const int64_t bound = std::max<int64_t>(input.dim(), 1);
  TORCH_CHECK_INDEX(-bound <= dim && dim < bound, op, ": dim must be in [", -bound, ", ", bound - 1, "], but got ",
                    dim);
  return dim < 0 ? dim + bound : dim;
}

Tensor softmax(const Tensor& input, int64_t dim, bool log) {
  constexpr const char* op = "softmax";
  dim = check_dim(op, input, dim);
  if (computes_in_float(input)) return softmax(input.to(at::kFloat), dim, log).to(input.scalar_type());
  Tensor output = at::empty(input.sizes(), input.options());
  if (input.numel() == 0) return output;
  ClassProblem problem = class_problem(input, dim);
  const Tensor from = read_classes(problem, input, dim);
  problem = with_inner_positions(problem);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const SoftmaxKernels<scalar_t>& kernel = softmax_kernels<scalar_t>();
    const scalar_t* x = from.const_data_ptr<scalar_t>();
    scalar_t* y = output.data_ptr<scalar_t>();
    run_tasks<scalar_t>(kernel.tasks(problem), kernel.workspace(problem), [&](int64_t task, scalar_t* workspace) {
      kernel.forward(problem, x, log, y, workspace, task);
    });
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) { m.impl("softmax", softmax); }

}  // namespace torchbp
