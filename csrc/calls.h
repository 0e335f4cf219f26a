#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace torchbp {

// A Python callable of an operator's positional arguments, which `overload`, the operator as torch.ops has it, takes as
// well: with the same results and errors, in a fraction of its time.
pybind11::object operator_call(const std::string& name, const pybind11::object& overload);

}  // namespace torchbp
