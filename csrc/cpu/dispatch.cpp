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

#define TORCHBP_CHOOSE(name, ...)                     \
  template <>                                         \
  const __VA_ARGS__& kernels_of_type<__VA_ARGS__>() { \
    return kernels().name;                            \
  }
TORCHBP_KERNELS(TORCHBP_CHOOSE)
#undef TORCHBP_CHOOSE

}  // namespace torchbp
