#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace torchbp {

// A Python callable that does what `function` does. `record` and `record_gradient` are those of
// torchbp.autograd.replay, which say what a call and a backward pass are made of.
pybind11::object replayable(const std::string& name, const pybind11::object& function, const pybind11::object& record,
                            const pybind11::object& record_gradient);

// Sets how often a call's Python runs before the call is written down, in the whole process; never if the number is
// negative. Returns what it was.
int64_t replay_after(int64_t meetings);

// Whether a node of an autograd graph was made by a replayed call.
bool is_replayed(const pybind11::object& node);

}  // namespace torchbp
