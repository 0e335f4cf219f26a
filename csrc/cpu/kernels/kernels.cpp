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
          max_pool_float(),
          max_pool_double(),
          max_pool_bfloat16(),
          irregular_pool_float(),
          irregular_pool_double(),
          average_pool_float(),
          average_pool_double(),
          average_pool_bfloat16(),
          channel_float(),
          channel_double(),
          separable_float(),
          separable_double(),
          activation_float(),
          activation_double(),
          cross_entropy_float(),
          cross_entropy_double(),
          dropout_float(),
          dropout_double(),
          softmax_float(),
          softmax_double(),
          squared_error_float(),
          squared_error_double()};
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
