// Per-channel normalisation kernels of the instruction set TORCHBP_ISA.
#pragma once

#include "table.h"

namespace torchbp {
namespace TORCHBP_ISA {

ChannelKernels<float> channel_float();
ChannelKernels<double> channel_double();

}  // namespace TORCHBP_ISA
}  // namespace torchbp
