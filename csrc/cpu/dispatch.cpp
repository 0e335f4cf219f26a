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
const PoolKernels<float>& pool_kernels<float>() {
  return kernels().pool_float;
}
template <>
const PoolKernels<double>& pool_kernels<double>() {
  return kernels().pool_double;
}
template <>
const NormalizationKernels<float>& normalization_kernels<float>() {
  return kernels().normalization_float;
}
template <>
const NormalizationKernels<double>& normalization_kernels<double>() {
  return kernels().normalization_double;
}
template <>
const NormalizationKernels<BFloat16>& normalization_kernels<BFloat16>() {
  return kernels().normalization_bfloat16;
}
template <>
const SeparableKernels<float>& separable_kernels<float>() {
  return kernels().separable_float;
}
template <>
const SeparableKernels<double>& separable_kernels<double>() {
  return kernels().separable_double;
}

}  // namespace torchbp
