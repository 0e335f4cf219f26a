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

template <typename T>
const ConvolutionKernels<T>& convolution_kernels();
template <typename T>
const PoolKernels<T>& pool_kernels();
template <typename T>
const NormalizationKernels<T>& normalization_kernels();
template <typename T>
const SeparableKernels<T>& separable_kernels();

}  // namespace torchbp
