// Scaling what a mask keeps, in one pass.
#include "dropout.h"

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

template <typename T>
void masked_scale(const T* __restrict__ x, const uint8_t* __restrict__ mask, T scale, T* __restrict__ y,
                  int64_t count) {
  // Through int, which converts to floating point in one vector instruction.
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] * (static_cast<T>(static_cast<int32_t>(mask[i])) * scale);
}

}  // namespace

DropoutKernels<float> dropout_float() { return {masked_scale<float>}; }
DropoutKernels<double> dropout_double() { return {masked_scale<double>}; }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
