// The kernels that this machine runs, chosen once from the instruction sets compiled in.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.h"

namespace torchbp {

// The table for at::get_cpu_capability(), which honours the environment variable
// ATEN_CPU_CAPABILITY; never one that the processor cannot run.
const KernelTable& kernels();

// Names of the instruction sets in this binary, the plainest first.
std::vector<std::string> instruction_sets_built();

// The entry of the table that has this type.
template <typename Kernels>
const Kernels& kernels_of_type();

template <typename T>
const ActivationKernels<T>& activation_kernels() {
  return kernels_of_type<ActivationKernels<T>>();
}
template <typename T>
const AveragePoolKernels<T>& average_pool_kernels() {
  return kernels_of_type<AveragePoolKernels<T>>();
}
template <typename T>
const ConvolutionKernels<T>& convolution_kernels() {
  return kernels_of_type<ConvolutionKernels<T>>();
}
template <typename T>
const CrossEntropyKernels<T>& cross_entropy_kernels() {
  return kernels_of_type<CrossEntropyKernels<T>>();
}
template <typename T>
const DepthwiseKernels<T>& depthwise_kernels() {
  return kernels_of_type<DepthwiseKernels<T>>();
}
template <typename T>
const DifferenceKernels<T>& difference_kernels() {
  return kernels_of_type<DifferenceKernels<T>>();
}
template <typename T>
const DirectKernels<T>& direct_kernels() {
  return kernels_of_type<DirectKernels<T>>();
}
template <typename T>
const DropoutKernels<T>& dropout_kernels() {
  return kernels_of_type<DropoutKernels<T>>();
}
template <typename T>
const IrregularPoolKernels<T>& irregular_pool_kernels() {
  return kernels_of_type<IrregularPoolKernels<T>>();
}
template <typename T>
const MaxPoolKernels<T>& max_pool_kernels() {
  return kernels_of_type<MaxPoolKernels<T>>();
}
template <typename T>
const NormalizationKernels<T>& normalization_kernels() {
  return kernels_of_type<NormalizationKernels<T>>();
}
template <typename T>
const PatchKernels<T>& patch_kernels() {
  return kernels_of_type<PatchKernels<T>>();
}
template <typename T>
const SeparableKernels<T>& separable_kernels() {
  return kernels_of_type<SeparableKernels<T>>();
}
template <typename T>
const SoftmaxKernels<T>& softmax_kernels() {
  return kernels_of_type<SoftmaxKernels<T>>();
}

template <typename T>
const WinogradKernels<T>& winograd_kernels() {
  return kernels_of_type<WinogradKernels<T>>();
}

}  // namespace torchbp
