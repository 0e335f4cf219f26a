// torchbp._C: facts about this build, the kernels' workspaces, fast calls of the operators, replays. Importing it
// registers them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/version.h>

#include <algorithm>
#include <string>
#include <vector>

#include "calls.h"
#include "cpu/arguments.h"
#include "cpu/convolution_algorithm.h"
#include "cpu/dispatch.h"
#include "cpu/matrix_product.h"
#include "cpu/workspace.h"
#include "replay.h"

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

// Each task leaves zeros behind.
std::vector<pybind11::bytes> workspace_contents(int64_t bytes, int64_t tasks) {
  std::vector<std::string> found(static_cast<size_t>(tasks));
  torchbp::run_tasks<char>(tasks, bytes, [&](int64_t task, char* workspace) {
    found[static_cast<size_t>(task)].assign(workspace, static_cast<size_t>(bytes));
    std::fill_n(workspace, bytes, '\0');
  });
  return {found.begin(), found.end()};
}

std::string convolution_algorithm(const std::string& product, int64_t batch, const std::vector<int64_t>& input_size,
                                  const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                                  int64_t groups, int64_t input_channels, int64_t output_channels, bool single,
                                  bool channels_last) {
  constexpr const char* op = "convolution_algorithm";
  const auto which = product == "output"  ? torchbp::Product::output
                     : product == "input" ? torchbp::Product::input
                                          : torchbp::Product::weight;
  torchbp::Geometry geometry =
      torchbp::geometry_of(op, batch, input_size, kernel_size, stride, padding, dilation, groups);
  geometry.channels_last = channels_last;
  return torchbp::algorithm_name(
      torchbp::algorithm_for(op, which, geometry, input_channels, output_channels, single ? at::kFloat : at::kDouble));
}

bool sanitized() {
#ifdef __SANITIZE_ADDRESS__
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
  m.def("products_run_at_full_speed", &torchbp::products_run_at_full_speed,
        "Whether ATen's matrix products run at full speed on this processor.");
  m.def("instruction_sets_built", &torchbp::instruction_sets_built, "The instruction sets compiled in.");
  m.def("release_workspaces", &torchbp::release_workspaces, "Free the workspaces that the threads keep.",
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("workspace_bytes", &torchbp::workspace_bytes, "How many bytes the threads keep in workspaces.",
        pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("operator_call", &torchbp::operator_call,
        "A faster callable of an operator, given its name and torch.ops' own.");
  m.def("replayable", &torchbp::replayable, "A callable that replays a function's calls with arguments met before.");
  m.def("replay_after", &torchbp::replay_after,
        "Set after how many calls one like them is replayed; return what it was.");
  m.def("is_replayed", &torchbp::is_replayed, "Whether a node of an autograd graph was made by a replayed call.");
  m.def("workspace_contents", &workspace_contents, "What each of some tasks finds in its workspace of so many bytes.");
  m.def("convolution_algorithm", &convolution_algorithm, "Which algorithm computes a product of a convolution.");
  m.def("convolution_algorithms", &torchbp::algorithm_names, "The names of all algorithms.");
  m.def("force_convolution_algorithm", &torchbp::force_algorithm,
        "Force an algorithm, or none if the name is empty; return the one before.");
  m.attr("kept_workspace") = torchbp::kKeptWorkspace;
  m.attr("compiler") = compiler();
  m.attr("sanitized") = sanitized();
  m.attr("openmp") = openmp();
  m.attr("torch_version") = TORCH_VERSION;
}
