// torchbp._C: facts about this build. Importing it registers the operators.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include "cpu/dispatch.h"

namespace {

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

bool openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the compiled kernels of torchbp.";
  m.def(
      "instruction_set", [] { return std::string(torchbp::kernels().instruction_set); },
      "The instruction set whose kernels run in this process.");
  m.def("instruction_sets_built", &torchbp::instruction_sets_built, "The instruction sets compiled in.");
  m.attr("compiler") = compiler();
  m.attr("openmp") = openmp();
  m.attr("torch_version") = TORCH_VERSION;
}
