#include "dispatch.h"

#include <ATen/Version.h>

namespace torchbp {

// Defined by kernels/kernels.cpp, once per instruction set; setup.py says which it compiled.
namespace baseline {
KernelTable kernel_table();
}
#ifdef TORCHBP_HAVE_AVX2
namespace avx2 {
KernelTable kernel_table();
}
#endif
#ifdef TORCHBP_HAVE_AVX512
namespace avx512 {
KernelTable kernel_table();
}
#endif

namespace {

KernelTable choose() {
  const std::string capability = at::get_cpu_capability();
#ifdef TORCHBP_HAVE_AVX512
  if (capability == "AVX512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return avx512::kernel_table();
#endif
#ifdef TORCHBP_HAVE_AVX2
  if ((capability == "AVX512" || capability == "AVX2") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma"))
    return avx2::kernel_table();
#endif
  return baseline::kernel_table();
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable table = choose();
  return table;
}

std::vector<std::string> instruction_sets_built() {
  std::vector<std::string> names = {"baseline"};
#ifdef TORCHBP_HAVE_AVX2
  names.emplace_back("avx2");
#endif
#ifdef TORCHBP_HAVE_AVX512
  names.emplace_back("avx512");
#endif
  return names;
}

template <>
const ConvolutionKernels<float>& convolution_kernels<float>() {
  return kernels().convolution_float;
}
template <>
const ConvolutionKernels<double>& convolution_kernels<double>() {
  return kernels().convolution_double;
}
template <>
const MaxPoolKernels<float>& max_pool_kernels<float>() {
  return kernels().max_pool_float;
}
template <>
const MaxPoolKernels<double>& max_pool_kernels<double>() {
  return kernels().max_pool_double;
}
template <>
const MaxPoolKernels<BFloat16>& max_pool_kernels<BFloat16>() {
  return kernels().max_pool_bfloat16;
}
template <>
const IrregularPoolKernels<float>& irregular_pool_kernels<float>() {
  return kernels().irregular_pool_float;
}
template <>
const IrregularPoolKernels<double>& irregular_pool_kernels<double>() {
  return kernels().irregular_pool_double;
}
template <>
const AveragePoolKernels<float, float>& average_pool_kernels<float, float>() {
  return kernels().average_pool_float;
}
template <>
const AveragePoolKernels<double, double>& average_pool_kernels<double, double>() {
  return kernels().average_pool_double;
}
template <>
const AveragePoolKernels<BFloat16, float>& average_pool_kernels<BFloat16, float>() {
  return kernels().average_pool_bfloat16;
}
template <>
const ChannelKernels<float>& channel_kernels<float>() {
  return kernels().channel_float;
}
template <>
const ChannelKernels<double>& channel_kernels<double>() {
  return kernels().channel_double;
}
template <>
const SeparableKernels<float>& separable_kernels<float>() {
  return kernels().separable_float;
}
template <>
const SeparableKernels<double>& separable_kernels<double>() {
  return kernels().separable_double;
}
template <>
const ActivationKernels<float>& activation_kernels<float>() {
  return kernels().activation_float;
}
template <>
const ActivationKernels<double>& activation_kernels<double>() {
  return kernels().activation_double;
}
template <>
const CrossEntropyKernels<float>& cross_entropy_kernels<float>() {
  return kernels().cross_entropy_float;
}
template <>
const CrossEntropyKernels<double>& cross_entropy_kernels<double>() {
  return kernels().cross_entropy_double;
}
template <>
const DropoutKernels<float>& dropout_kernels<float>() {
  return kernels().dropout_float;
}
template <>
const DropoutKernels<double>& dropout_kernels<double>() {
  return kernels().dropout_double;
}
template <>
const SoftmaxKernels<float>& softmax_kernels<float>() {
  return kernels().softmax_float;
}
template <>
const SoftmaxKernels<double>& softmax_kernels<double>() {
  return kernels().softmax_double;
}
template <>
const SquaredErrorKernels<float>& squared_error_kernels<float>() {
  return kernels().squared_error_float;
}
template <>
const SquaredErrorKernels<double>& squared_error_kernels<double>() {
  return kernels().squared_error_double;
}

}  // namespace torchbp
