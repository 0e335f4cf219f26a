// The table of every kernel of the instruction set TORCHBP_ISA.
#include "table.h"

#define TORCHBP_STRING_OF(name) #name
#define TORCHBP_STRING(name) TORCHBP_STRING_OF(name)

namespace torchbp {
namespace TORCHBP_ISA {

KernelTable kernel_table() {
  KernelTable table{};
  table.instruction_set = TORCHBP_STRING(TORCHBP_ISA);
#define TORCHBP_FILL(name, ...) table.name = name();
  TORCHBP_KERNELS(TORCHBP_FILL)
#undef TORCHBP_FILL
  return table;
}

}  // namespace TORCHBP_ISA
}  // namespace torchbp
