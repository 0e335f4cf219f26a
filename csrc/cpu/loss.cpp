// Losses with their reductions: cross-entropy and the negative log-likelihood of class indices, losses
// of a difference.
#include <ATen/Dispatch.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "arguments.h"
#include "classes.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

enum class Reduction { kNone, kMean, kSum };

Reduction reduction_of(const char* op, c10::string_view name) {
  if (name == "none") return Reduction::kNone;
  if (name == "mean") return Reduction::kMean;
  TORCH_CHECK_VALUE(name == "sum", op, ": reduction must be none, mean or sum, but got ", name);
  return Reduction::kSum;
}

// input is (N, C, *), target (N, *) and weight (C).
void check_classes(const char* op, at::IntArrayRef input, const Tensor& target, const std::optional<Tensor>& weight,
                   at::ScalarType dtype) {
  TORCH_CHECK(input.size() >= 2, op, ": input must have shape (N, C, *), but got ", input);
  std::vector<int64_t> expected(input.begin(), input.end());
  expected.erase(expected.begin() + 1);
  TORCH_CHECK(target.sizes() == at::IntArrayRef(expected), op, ": target must have shape ", at::IntArrayRef(expected),
              ", but got ", target.sizes());
  TORCH_CHECK(target.scalar_type() == at::kLong && target.device().is_cpu(), op,
              ": target must be an int64 CPU tensor, but got ", target.scalar_type(), " on ", target.device());
  if (!weight.has_value()) return;
  TORCH_CHECK(weight->dim() == 1 && weight->size(0) == input[1], op, ": weight must have shape [", input[1],
              "], but got ", weight->sizes());
  TORCH_CHECK(weight->scalar_type() == dtype && weight->device().is_cpu(), op, ": weight must be a CPU tensor of ",
              dtype, ", but got ", weight->scalar_type(), " on ", weight->device());
}

void check_targets(const char* op, const Tensor& target, int64_t classes, int64_t ignore_index) {
  const int64_t* values = target.const_data_ptr<int64_t>();
  bool inside = true;
  for (int64_t i = 0; i < target.numel(); ++i)
    inside &= static_cast<uint64_t>(values[i]) < static_cast<uint64_t>(classes);
  if (inside) return;
  for (int64_t i = 0; i < target.numel(); ++i)
    TORCH_CHECK_INDEX(values[i] == ignore_index || (values[i] >= 0 && values[i] < classes), op, "(): Target ",
                      values[i], " is out of bounds: there are ", classes, " classes");
}

std::optional<Tensor> to_float(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(tensor->to(at::kFloat)) : std::nullopt;
}

template <typename T>
ClassTargets<T> targets_of(const Tensor& target, const std::optional<Tensor>& weight, int64_t classes,
                           int64_t ignore_index, double smoothing) {
  const T* weights = weight.has_value() ? weight->const_data_ptr<T>() : nullptr;
  double total = static_cast<double>(classes);
  if (weights) {
    total = 0;
    for (int64_t c = 0; c < classes; ++c) total += static_cast<double>(weights[c]);
  }
  return {target.const_data_ptr<int64_t>(), weights, static_cast<T>(total), ignore_index, static_cast<T>(smoothing)};
}

// The cotangents of the losses: of a mean, g / total weight; `step` apart in memory.
struct Cotangents {
  Tensor values;
  int64_t step;
};

Cotangents cotangents_of(const char* op, const Tensor& grad_output, const std::optional<Tensor>& total_weight,
                         at::IntArrayRef sizes, Reduction reduction) {
  if (reduction == Reduction::kNone) {
    TORCH_CHECK(grad_output.sizes() == sizes, op, ": grad_output must have shape ", sizes, ", but got ",
                grad_output.sizes());
    return {grad_output.contiguous(), 1};
  }
  TORCH_CHECK(grad_output.dim() == 0, op, ": grad_output must be a scalar, but got shape ", grad_output.sizes());
  if (reduction == Reduction::kSum) return {grad_output, 0};
  TORCH_CHECK(total_weight.has_value() && total_weight->dim() == 0, op,
              ": total_weight must be a scalar for a mean, but got ", total_weight.has_value() ? "more" : "none");
  return {at::div(grad_output, *total_weight), 0};
}

// normalizer: the maximum of x along the classes and the logarithm of the sum of exp(x - maximum), (2, N, *).
std::tuple<Tensor, Tensor, Tensor> cross_entropy(const Tensor& input, const Tensor& target,
                                                 const std::optional<Tensor>& weight, int64_t ignore_index,
                                                 double label_smoothing, c10::string_view reduction) {
  constexpr const char* op = "cross_entropy";
  const Reduction kind = reduction_of(op, reduction);
  check_classes(op, input.sizes(), target, weight, input.scalar_type());
  if (computes_in_float(input)) {
    auto [loss, total, normalizer] =
        cross_entropy(input.to(at::kFloat), target, to_float(weight), ignore_index, label_smoothing, reduction);
    return {loss.to(input.scalar_type()), total, normalizer};
  }
  const int64_t classes = input.size(1), positions = target.numel();
  const Tensor indices = target.contiguous();
  const std::optional<Tensor> weights = weight.has_value() ? std::optional(weight->contiguous()) : std::nullopt;
  check_targets(op, indices, classes, ignore_index);
  const auto options = input.options();
  std::vector<int64_t> sizes = target.sizes().vec();
  Tensor loss = at::empty(kind == Reduction::kNone ? sizes : std::vector<int64_t>(), options);
  sizes.insert(sizes.begin(), 2);
  Tensor normalizer = at::empty(sizes, options), total_weight = at::empty({}, options);
  if (input.numel() == 0) {  // no classes, and every target ignored, or no samples
    loss.zero_();
    normalizer.zero_();
  }
  LossSums total{0, 0};
  const Classes read(input, input, 1);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    if (input.numel() > 0) {
      const auto targets = targets_of<scalar_t>(indices, weights, classes, ignore_index, label_smoothing);
      const CrossEntropyKernels<scalar_t>& kernel = cross_entropy_kernels<scalar_t>();
      const scalar_t* x = read.from.const_data_ptr<scalar_t>();
      scalar_t* losses = kind == Reduction::kNone ? loss.data_ptr<scalar_t>() : nullptr;
      scalar_t* maximum = normalizer.data_ptr<scalar_t>();
      std::vector<LossSums> sums(static_cast<size_t>(kernel.tasks(read.problem)));
      run_tasks<scalar_t>(kernel.tasks(read.problem), kernel.workspace(read.problem),
                          [&](int64_t task, scalar_t* workspace) {
                            kernel.forward(read.problem, targets, x, losses, maximum, maximum + positions, &sums[task],
                                           workspace, task);
                          });
      for (const LossSums& part : sums) {
        total.loss += part.loss;
        total.weight += part.weight;
      }
    }
    *total_weight.data_ptr<scalar_t>() = static_cast<scalar_t>(total.weight);
    if (kind != Reduction::kNone)
      *loss.data_ptr<scalar_t>() =
          static_cast<scalar_t>(kind == Reduction::kMean ? total.loss / total.weight : total.loss);
  });
  return {loss, total_weight, normalizer};
}

Tensor cross_entropy_gradient(const Tensor& grad_output, const Tensor& input, const Tensor& target,
                              const std::optional<Tensor>& weight, const std::optional<Tensor>& total_weight,
                              const Tensor& normalizer, int64_t ignore_index, double label_smoothing,
                              c10::string_view reduction) {
  constexpr const char* op = "cross_entropy_gradient";
  const Reduction kind = reduction_of(op, reduction);
  check_classes(op, input.sizes(), target, weight, input.scalar_type());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output must have input's dtype, ",
              input.scalar_type(), ", but got ", grad_output.scalar_type());
  if (computes_in_float(input))
    return cross_entropy_gradient(grad_output.to(at::kFloat), input.to(at::kFloat), target, to_float(weight),
                                  total_weight, normalizer, ignore_index, label_smoothing, reduction)
        .to(input.scalar_type());
  TORCH_CHECK(normalizer.numel() == 2 * target.numel() && normalizer.scalar_type() == input.scalar_type(), op,
              ": normalizer must have 2 values of ", input.scalar_type(), " per target, but got shape ",
              normalizer.sizes(), " of ", normalizer.scalar_type());
  const int64_t classes = input.size(1), positions = target.numel();
  Tensor grad_input = at::empty(input.sizes(), input.options());
  if (input.numel() == 0) return grad_input;
  const Tensor indices = target.contiguous(), kept = normalizer.contiguous();
  const std::optional<Tensor> weights = weight.has_value() ? std::optional(weight->contiguous()) : std::nullopt;
  const Cotangents cotangents = cotangents_of(op, grad_output, total_weight, target.sizes(), kind);
  const Classes read(input, input, 1);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const auto targets = targets_of<scalar_t>(indices, weights, classes, ignore_index, label_smoothing);
    const CrossEntropyKernels<scalar_t>& kernel = cross_entropy_kernels<scalar_t>();
    const scalar_t* x = read.from.const_data_ptr<scalar_t>();
    const scalar_t* g = cotangents.values.const_data_ptr<scalar_t>();
    const scalar_t* maximum = kept.const_data_ptr<scalar_t>();
    scalar_t* gx = grad_input.data_ptr<scalar_t>();
    run_tasks<scalar_t>(kernel.tasks(read.problem), kernel.workspace(read.problem),
                        [&](int64_t task, scalar_t* workspace) {
                          kernel.gradient(read.problem, targets, x, maximum, maximum + positions, g, cotangents.step,
                                          gx, workspace, task);
                        });
  });
  return grad_input;
}

// loss[n, *] = -weight[t] x[n, t, *] with t = target[n, *].
std::tuple<Tensor, Tensor> nll_loss(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                                    int64_t ignore_index, c10::string_view reduction) {
  constexpr const char* op = "nll_loss";
  const Reduction kind = reduction_of(op, reduction);
  check_classes(op, input.sizes(), target, weight, input.scalar_type());
  if (computes_in_float(input)) {
    auto [loss, total] = nll_loss(input.to(at::kFloat), target, to_float(weight), ignore_index, reduction);
    return {loss.to(input.scalar_type()), total};
  }
  const int64_t classes = input.size(1), positions = target.numel();
  const Tensor indices = target.contiguous();
  const std::optional<Tensor> weights = weight.has_value() ? std::optional(weight->contiguous()) : std::nullopt;
  check_targets(op, indices, classes, ignore_index);
  Tensor loss = kind == Reduction::kNone ? at::empty(target.sizes(), input.options()) : at::empty({}, input.options());
  Tensor total_weight = at::empty({}, input.options());
  const Classes read(input, input, 1);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const int64_t* t = indices.const_data_ptr<int64_t>();
    const scalar_t* w = weights.has_value() ? weights->const_data_ptr<scalar_t>() : nullptr;
    const scalar_t* x = read.from.const_data_ptr<scalar_t>();
    scalar_t* to = loss.data_ptr<scalar_t>();
    double sum = 0, total = 0;
    for (int64_t p = 0; p < positions; ++p) {
      scalar_t value = 0;
      if (t[p] != ignore_index) {
        const scalar_t factor = w ? w[t[p]] : scalar_t(1);
        value = -factor * x[read.offset(p) + t[p] * read.problem.from.classes];
        total += static_cast<double>(factor);
        sum += static_cast<double>(value);
      }
      if (kind == Reduction::kNone) to[p] = value;
    }
    *total_weight.data_ptr<scalar_t>() = static_cast<scalar_t>(total);
    if (kind != Reduction::kNone) *to = static_cast<scalar_t>(kind == Reduction::kMean ? sum / total : sum);
  });
  return {loss, total_weight};
}

Tensor nll_loss_gradient(const Tensor& grad_output, const Tensor& target, const std::optional<Tensor>& weight,
                         const std::optional<Tensor>& total_weight, int64_t classes, int64_t ignore_index,
                         c10::string_view reduction) {
  constexpr const char* op = "nll_loss_gradient";
  const Reduction kind = reduction_of(op, reduction);
  TORCH_CHECK(target.dim() >= 1, op, ": target must have shape (N, *), but got ", target.sizes());
  TORCH_CHECK(classes >= 0, op, ": classes must be at least 0, but got ", classes);
  std::vector<int64_t> sizes = target.sizes().vec();
  sizes.insert(sizes.begin() + 1, classes);
  check_classes(op, sizes, target, weight, grad_output.scalar_type());
  if (computes_in_float(grad_output))
    return nll_loss_gradient(grad_output.to(at::kFloat), target, to_float(weight), total_weight, classes, ignore_index,
                             reduction)
        .to(grad_output.scalar_type());
  Tensor grad_input = at::zeros(sizes, grad_output.options());
  const Tensor indices = target.contiguous();
  const std::optional<Tensor> weights = weight.has_value() ? std::optional(weight->contiguous()) : std::nullopt;
  const Cotangents cotangents = cotangents_of(op, grad_output, total_weight, target.sizes(), kind);
  if (grad_input.numel() == 0) return grad_input;
  const int64_t inner = indices.numel() / indices.size(0);
  AT_DISPATCH_FLOATING_TYPES(grad_output.scalar_type(), op, [&] {
    const int64_t* t = indices.const_data_ptr<int64_t>();
    const scalar_t* w = weights.has_value() ? weights->const_data_ptr<scalar_t>() : nullptr;
    const scalar_t* g = cotangents.values.const_data_ptr<scalar_t>();
    scalar_t* gx = grad_input.data_ptr<scalar_t>();
    run_chunks(indices.numel(), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        if (t[p] == ignore_index || t[p] < 0 || t[p] >= classes) continue;
        gx[(p / inner * classes + t[p]) * inner + p % inner] = -g[p * cotangents.step] * (w ? w[t[p]] : scalar_t(1));
      }
    });
  });
  return grad_input;
}

// The tensor, copied unless its elements fill a block of memory.
Tensor dense(const Tensor& tensor) { return tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous(); }

Difference difference_of(const char* op, c10::string_view name) {
  if (name == "squared") return Difference::squared;
  if (name == "absolute") return Difference::absolute;
  if (name == "smooth_l1") return Difference::smooth_l1;
  TORCH_CHECK_VALUE(name == "huber", op, ": loss must be squared, absolute, smooth_l1 or huber, but got ", name);
  return Difference::huber;
}

void check_target(const char* op, const Tensor& input, const Tensor& target) {
  TORCH_CHECK(target.sizes() == input.sizes() && target.scalar_type() == input.scalar_type(), op,
              ": target must have input's shape and dtype, ", input.sizes(), " of ", input.scalar_type(), ", but got ",
              target.sizes(), " of ", target.scalar_type());
}

// A loss of x - t, the mean of all or their sum.
Tensor difference_loss(const Tensor& input, const Tensor& target, c10::string_view loss, double parameter,
                       c10::string_view reduction) {
  constexpr const char* op = "difference_loss";
  const Reduction kind = reduction_of(op, reduction);
  const Difference which = difference_of(op, loss);
  check_target(op, input, target);
  if (computes_in_float(input))
    return difference_loss(input.to(at::kFloat), target.to(at::kFloat), loss, parameter, reduction)
        .to(input.scalar_type());
  Tensor output = kind == Reduction::kNone ? at::empty_like(input) : at::empty({}, input.options());
  const Tensor x = kind == Reduction::kNone ? laid_out_as(input, output) : dense(input);
  const Tensor t = laid_out_as(target, x);
  const int64_t count = input.numel();
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    const scalar_t* wanted = t.const_data_ptr<scalar_t>();
    const scalar_t own = static_cast<scalar_t>(parameter);
    scalar_t* to = output.data_ptr<scalar_t>();
    const DifferenceKernels<scalar_t>& kernel = difference_kernels<scalar_t>();
    if (kind == Reduction::kNone) {
      run_chunks(count, [&](int64_t begin, int64_t end) {
        kernel.forward(which, own, from + begin, wanted + begin, to + begin, end - begin);
      });
      return;
    }
    std::vector<double> sums(static_cast<size_t>(chunks(count)));
    run_chunks(count, [&](int64_t begin, int64_t end) {
      sums[static_cast<size_t>(begin / kChunk)] = kernel.sum(which, own, from + begin, wanted + begin, end - begin);
    });
    double total = 0;
    for (const double part : sums) total += part;
    *to = static_cast<scalar_t>(kind == Reduction::kMean ? total / static_cast<double>(count) : total);
  });
  return output;
}

// g times the loss's derivative, g divided by the number of elements for a mean.
Tensor difference_loss_gradient(const Tensor& grad_output, const Tensor& input, const Tensor& target,
                                c10::string_view loss, double parameter, c10::string_view reduction) {
  constexpr const char* op = "difference_loss_gradient";
  const Reduction kind = reduction_of(op, reduction);
  const Difference which = difference_of(op, loss);
  check_target(op, input, target);
  const bool each = kind == Reduction::kNone;
  TORCH_CHECK(each ? grad_output.sizes() == input.sizes() : grad_output.dim() == 0, op,
              ": grad_output must have the result's shape, but got ", grad_output.sizes());
  TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(), op, ": grad_output must have input's dtype, ",
              input.scalar_type(), ", but got ", grad_output.scalar_type());
  if (computes_in_float(input))
    return difference_loss_gradient(grad_output.to(at::kFloat), input.to(at::kFloat), target.to(at::kFloat), loss,
                                    parameter, reduction)
        .to(input.scalar_type());
  Tensor grad_input = at::empty_like(input);
  const Tensor x = laid_out_as(input, grad_input), t = laid_out_as(target, grad_input);
  const Tensor g = each ? laid_out_as(grad_output, grad_input) : grad_output;
  const double scale = kind == Reduction::kMean ? 1 / static_cast<double>(input.numel()) : 1;
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    const scalar_t* wanted = t.const_data_ptr<scalar_t>();
    const scalar_t* cotangent = g.const_data_ptr<scalar_t>();
    scalar_t* to = grad_input.data_ptr<scalar_t>();
    run_chunks(input.numel(), [&](int64_t begin, int64_t end) {
      difference_kernels<scalar_t>().gradient(which, static_cast<scalar_t>(parameter), from + begin, wanted + begin,
                                              each ? cotangent + begin : cotangent, each ? 1 : 0,
                                              static_cast<scalar_t>(scale), to + begin, end - begin);
    });
  });
  return grad_input;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) {
  m.impl("cross_entropy", cross_entropy);
  m.impl("cross_entropy_gradient", cross_entropy_gradient);
  m.impl("nll_loss", nll_loss);
  m.impl("nll_loss_gradient", nll_loss_gradient);
  m.impl("difference_loss", difference_loss);
  m.impl("difference_loss_gradient", difference_loss_gradient);
}

}  // namespace torchbp
