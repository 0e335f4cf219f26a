// Softmax, its logarithm and their gradients along a dimension. Results are contiguous, as the built-in's.
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
  const Classes read(input, input, dim);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const SoftmaxKernels<scalar_t>& kernel = softmax_kernels<scalar_t>();
    const scalar_t* x = read.from.const_data_ptr<scalar_t>();
    scalar_t* y = output.data_ptr<scalar_t>();
    run_tasks<scalar_t>(
        kernel.tasks(read.problem), kernel.workspace(read.problem),
        [&](int64_t task, scalar_t* workspace) { kernel.forward(read.problem, x, log, y, workspace, task); });
  });
  return output;
}

// y (g - sum of y g), or of the logarithm g - exp(y) sum of g.
Tensor softmax_gradient(const Tensor& grad_output, const Tensor& output, int64_t dim, bool log) {
  constexpr const char* op = "softmax_gradient";
  dim = check_dim(op, output, dim);
  TORCH_CHECK(grad_output.sizes() == output.sizes(), op, ": grad_output must have output's shape, ", output.sizes(),
              ", but got ", grad_output.sizes());
  TORCH_CHECK(grad_output.scalar_type() == output.scalar_type(), op, ": grad_output must have output's dtype, ",
              output.scalar_type(), ", but got ", grad_output.scalar_type());
  if (computes_in_float(output))
    return softmax_gradient(grad_output.to(at::kFloat), output.to(at::kFloat), dim, log).to(output.scalar_type());
  Tensor grad_input = at::empty(output.sizes(), output.options());
  if (output.numel() == 0) return grad_input;
  const Classes read(output, grad_output, dim);
  AT_DISPATCH_FLOATING_TYPES(output.scalar_type(), op, [&] {
    const SoftmaxKernels<scalar_t>& kernel = softmax_kernels<scalar_t>();
    const scalar_t* y = read.from.const_data_ptr<scalar_t>();
    const scalar_t* g = read.other.const_data_ptr<scalar_t>();
    scalar_t* gx = grad_input.data_ptr<scalar_t>();
    run_tasks<scalar_t>(
        kernel.tasks(read.problem), kernel.workspace(read.problem),
        [&](int64_t task, scalar_t* workspace) { kernel.gradient(read.problem, y, g, log, gx, workspace, task); });
  });
  return grad_input;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("softmax", softmax);
  m.impl("softmax_gradient", softmax_gradient);
}

}  // namespace torchbp
