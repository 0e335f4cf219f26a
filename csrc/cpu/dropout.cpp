// Dropout once its mask is drawn.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "arguments.h"
#include "dispatch.h"

namespace torchbp {
namespace {

using at::Tensor;

Tensor masked_scale(const Tensor& input, const Tensor& mask, double scale) {
  constexpr const char* op = "masked_scale";
  TORCH_CHECK(mask.sizes() == input.sizes(), op, ": mask must have input's shape, ", input.sizes(), ", but got ",
              mask.sizes());
  TORCH_CHECK(mask.scalar_type() == at::kBool && mask.device().is_cpu(), op,
              ": mask must be a bool CPU tensor, but got ", mask.scalar_type(), " on ", mask.device());
  if (computes_in_float(input)) return masked_scale(input.to(at::kFloat), mask, scale).to(input.scalar_type());
  Tensor output = at::empty_like(input);
  const Tensor x = laid_out_as(input, output), kept = laid_out_as(mask, output);
  AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), op, [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    const auto* bytes = static_cast<const uint8_t*>(kept.const_data_ptr());
    scalar_t* to = output.data_ptr<scalar_t>();
    run_chunks(input.numel(), [&](int64_t begin, int64_t end) {
      dropout_kernels<scalar_t>().masked_scale(from + begin, bytes + begin, static_cast<scalar_t>(scale), to + begin,
                                               end - begin);
    });
  });
  return output;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbp, CPU, m) { m.impl("masked_scale", masked_scale); }

}  // namespace torchbp
