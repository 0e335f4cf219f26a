#include "patches.h"

#include <ATen/ops/from_blob.h>

#include "dispatch.h"

namespace torchbp {

using at::Tensor;

namespace {

PatchProblem problem_of(const Geometry& g, int64_t batch, int64_t channels, int64_t outputs) {
  PatchProblem problem = {g.channels_last, batch, channels, outputs, {}, {}, {}, {}};
  int64_t positions = 1;
  for (int d = 0; d < kSpatial; ++d) {
    problem.grid[d] = g.output[d];
    problem.kernel[d] = g.kernel[d];
    problem.stride[d] = g.output[d] == 1 ? g.kernel[d] : g.stride[d];
    problem.size[d] = g.input[d];
    positions *= g.output[d];
  }
  if (!is_pointwise(g)) return problem;
  // Where every element is a window all of an image is a row, and channels last the batch.
  problem.channels_last = g.channels_last || positions == 1;
  if (problem.channels_last) {
    positions *= batch;
    problem.batch = 1;
  }
  for (int d = 0; d < kSpatial; ++d) {
    problem.stride[d] = 1;
    problem.grid[d] = problem.size[d] = d == kSpatial - 1 ? positions : 1;
  }
  return problem;
}

// The tensor as the problem wants it, copied if it does not lie so.
Tensor dense(const Tensor& tensor, bool channels_last) {
  return tensor.contiguous(channels_last ? channels_last_format(tensor.dim()) : at::MemoryFormat::Contiguous);
}

template <typename T>
void gather(const Geometry& g, const PatchProblem& problem, bool to_windows, const Tensor& source, const Tensor& weight,
            const T* bias, Tensor& target) {
  const PatchKernels<T>& kernel = patch_kernels<T>();
  const Tensor images = dense(source, g.channels_last), weights = dense(weight, g.channels_last);
  const int64_t panels = kernel.panels(problem, to_windows);
  const Tensor packed =
      at::empty({panels * kernel.panel_size(problem, to_windows)}, source.options().memory_format(std::nullopt));
  const T* from = images.const_data_ptr<T>();
  const T* factors = weights.const_data_ptr<T>();
  T* panel_data = packed.data_ptr<T>();
  T* to = target.data_ptr<T>();
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      kernel.pack(problem, to_windows, factors, bias, panel_data, panel);
  });
  run_tasks<T>(
      kernel.gather_tasks(problem, to_windows), kernel.gather_workspace(problem, to_windows),
      [&](int64_t task, T* workspace) { kernel.gather(problem, to_windows, from, panel_data, to, workspace, task); });
}

}  // namespace

template <typename T>
void patches_output(const Geometry& g, const Tensor& input, const Tensor& weight, const T* bias, Tensor& output) {
  gather(g, problem_of(g, input.size(0), input.size(1), weight.size(0)), false, input, weight, bias, output);
}

template <typename T>
void patches_input(const Geometry& g, const Tensor& grad_output, const Tensor& weight, const T* bias,
                   Tensor& grad_input) {
  const PatchProblem problem = problem_of(g, grad_output.size(0), weight.size(1), weight.size(0));
  bool covered = true;
  for (int d = 0; d < kSpatial; ++d)
    covered = covered && problem.stride[d] == g.kernel[d] && g.output[d] * g.kernel[d] == g.input[d];
  if (!covered) {
    grad_input.zero_();
    if (bias != nullptr)
      grad_input.transpose(1, -1).add_(
          at::from_blob(const_cast<T*>(bias), {weight.size(1)}, grad_input.options().memory_format(std::nullopt)));
  }
  gather(g, problem, true, grad_output, weight, bias, grad_input);
}

template <typename T>
void patches_weight(const Geometry& g, const Tensor& input, const Tensor& grad_output, Tensor& grad_weight) {
  const PatchKernels<T>& kernel = patch_kernels<T>();
  const PatchProblem problem = problem_of(g, input.size(0), input.size(1), grad_output.size(1));
  const Tensor images = dense(input, g.channels_last), gradients = dense(grad_output, g.channels_last);
  const Tensor partial = at::empty({kernel.correlation_slices(problem), kernel.correlation_size(problem)},
                                   input.options().memory_format(std::nullopt));
  const T* from = images.const_data_ptr<T>();
  const T* grads = gradients.const_data_ptr<T>();
  T* sums = partial.data_ptr<T>();
  T* to = grad_weight.data_ptr<T>();
  run_tasks<T>(kernel.correlation_tasks(problem), kernel.correlation_workspace(problem),
               [&](int64_t task, T* workspace) { kernel.correlate(problem, from, grads, sums, workspace, task); });
  at::parallel_for(0, kernel.correlation_blocks(problem), 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) kernel.correlation_sum(problem, sums, to, block);
  });
}

template void patches_output(const Geometry&, const Tensor&, const Tensor&, const float*, Tensor&);
template void patches_output(const Geometry&, const Tensor&, const Tensor&, const double*, Tensor&);
template void patches_input(const Geometry&, const Tensor&, const Tensor&, const float*, Tensor&);
template void patches_input(const Geometry&, const Tensor&, const Tensor&, const double*, Tensor&);
template void patches_weight<float>(const Geometry&, const Tensor&, const Tensor&, Tensor&);
template void patches_weight<double>(const Geometry&, const Tensor&, const Tensor&, Tensor&);

}  // namespace torchbp
