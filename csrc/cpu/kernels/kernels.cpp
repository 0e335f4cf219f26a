// The table of every kernel of the instruction set TORCHBP_ISA.
#include "table.h"

#define TORCHBP_STRING_OF(name) #name
#define TORCHBP_STRING(name) TORCHBP_STRING_OF(name)

namespace torchbp {
namespace TORCHBP_ISA {

KernelTable kernel_table() {
  return {TORCHBP_STRING(TORCHBP_ISA),
          convolution_float(),
          convolution_double(),
          pool_float(),
          pool_double(),
          normalization_float(),
          normalization_double(),
          normalization_bfloat16(),
          separable_float(),
          separable_double()};
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
