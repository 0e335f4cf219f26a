// Calls met before, without Python.
//
// What a function of torchbp.nn.functional computes follows from its arguments' numbers and from the shapes, strides
// and dtypes of its tensors: the checks, the choice of operators, what is saved, and the gradients' formulas. A small
// layer spends most of its time on these. So when a call comes for the second time, torchbp.autograd.replay runs it
// and writes down its operators; from then on they are called here, and the node of the autograd graph is made here.
// Its first backward pass runs the Function's own Python and is written down likewise. A backward pass that is itself
// differentiated, and every call in surroundings that could change what Python does (modes, transforms of torch.func,
// forward mode, autocast, tensors of other kinds), is Python's as before.
#include "replay.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_cpp_function.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace torchbp {
namespace {

namespace py = pybind11;
using c10::IValue;
using torch::autograd::variable_list;

// How many different calls of one function are remembered; beyond that all are forgotten.
constexpr size_t kRemembered = 1024;
constexpr int64_t kNone = -1;

// How often a call's Python runs before the call is written down; negative: always.
std::atomic<int64_t> meetings_before{1};

// --------------------------------------------------------------------------------------------------------------------
// What two calls must have in common

class Key {
 public:
  void add(uint64_t word) { words_.push_back(word); }

  void add_text(const char* text, size_t size) {
    add(size);
    for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, text + i, std::min(sizeof word, size - i));
      add(word);
    }
  }

  // False if the tensor is not one that a replay may meet.
  bool add_tensor(const at::Tensor& tensor) {
    if (!tensor.defined()) {
      add(0);
      return true;
    }
    static const c10::DispatchKeySet plain({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                            c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutocastCPU});
    if ((tensor.key_set() | plain) != plain || tensor._fw_grad(0).defined()) return false;
    add(1 | static_cast<uint64_t>(tensor.requires_grad()) << 8 | static_cast<uint64_t>(tensor.is_inference()) << 9 |
        static_cast<uint64_t>(tensor.scalar_type()) << 16 | static_cast<uint64_t>(tensor.dim()) << 32);
    for (const int64_t size : tensor.sizes()) add(static_cast<uint64_t>(size));
    for (const int64_t stride : tensor.strides()) add(static_cast<uint64_t>(stride));
    return true;
  }

  size_t hash() const {
    uint64_t hash = words_.size();
    for (const uint64_t word : words_) hash = ((hash << 7 | hash >> 57) ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
  }

  bool operator==(const Key& other) const {
    return words_.size() == other.words_.size() && std::equal(words_.begin(), words_.end(), other.words_.begin());
  }

 private:
  c10::SmallVector<uint64_t, 96> words_;
};

using Tensors = std::vector<at::Tensor>;

// Adds an argument to the key, and its tensor to the tensors; false if it is of no kind that is known here.
bool add_argument(PyObject* object, Key& key, Tensors* tensors) {
  if (object == Py_None) {
    key.add(2);
  } else if (THPVariable_CheckExact(object)) {
    if (tensors == nullptr) return false;
    tensors->push_back(THPVariable_Unpack(object));
    return key.add_tensor(tensors->back());
  } else if (PyBool_Check(object)) {
    key.add(object == Py_True ? 3 : 4);
  } else if (PyLong_CheckExact(object)) {
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
    key.add(5);
    key.add(static_cast<uint64_t>(value));
    return overflow == 0;
  } else if (PyFloat_CheckExact(object)) {
    const double value = PyFloat_AS_DOUBLE(object);
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof word);
    key.add(6);
    key.add(word);
  } else if (PyUnicode_CheckExact(object)) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    if (text == nullptr) {
      PyErr_Clear();
      return false;
    }
    key.add(7);
    key.add_text(text, static_cast<size_t>(size));
  } else if (PyTuple_CheckExact(object) || PyList_CheckExact(object)) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    key.add(PyTuple_CheckExact(object) ? 8 : 9);
    key.add(static_cast<uint64_t>(size));
    for (Py_ssize_t i = 0; i < size; ++i)
      if (!add_argument(PySequence_Fast_GET_ITEM(object, i), key, nullptr)) return false;
  } else if (THPDtype_Check(object)) {
    key.add(10);
    key.add(static_cast<uint64_t>(reinterpret_cast<THPDtype*>(object)->scalar_type));
  } else {
    return false;
  }
  return true;
}

// Whether nothing around the call has a say in what its operators do.
bool plain_surroundings() {
  return !at::impl::torch_function_mode_enabled() && !c10::impl::TorchDispatchModeTLS::any_modes_set() &&
         !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) &&
         !at::autocast::is_autocast_enabled(at::kCPU) && !torch::jit::tracer::isTracing();
}

// --------------------------------------------------------------------------------------------------------------------
// What a call is made of: operators on numbered tensors

struct Argument {
  enum class Kind { kConstant, kTensor, kTensors } kind;
  IValue constant;
  std::vector<int64_t> slots;
};

struct Step {
  c10::OperatorHandle op;
  std::vector<Argument> arguments;
  std::vector<int64_t> results, mutated, last_used;
};

class Program {
 public:
  // From (number of tensors, steps); each step is (operator, overload, arguments, results, mutated), and an argument is
  // (kind, value). The tensors in `kept` outlive the program.
  Program(const py::handle& recipe, const std::vector<int64_t>& kept) : count_(recipe[py::int_(0)].cast<size_t>()) {
    for (const py::handle step : recipe[py::int_(1)]) steps_.push_back(step_of(step.cast<py::tuple>()));
    std::vector<bool> needed(count_);
    for (const int64_t slot : kept)
      if (slot != kNone) needed.at(static_cast<size_t>(slot)) = true;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      const auto last_use = [&](const std::vector<int64_t>& slots) {
        for (const int64_t slot : slots) {
          if (slot == kNone || needed.at(static_cast<size_t>(slot))) continue;
          needed[static_cast<size_t>(slot)] = true;
          step->last_used.push_back(slot);
        }
      };
      for (const Argument& argument : step->arguments) last_use(argument.slots);
      last_use(step->results);
    }
  }

  size_t count() const { return count_; }

  void run(Tensors& tensors) const {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::AutoGradMode no_grad(false);  // operators made of others choose them by it
    std::vector<IValue> stack;
    for (const Step& step : steps_) {
      stack.clear();
      for (const Argument& argument : step.arguments) push(argument, tensors, stack);
      step.op.callBoxed(stack);
      const std::vector<at::Tensor> listed =
          stack.size() == 1 && stack[0].isTensorList() ? stack[0].toTensorVector() : std::vector<at::Tensor>();
      for (size_t i = 0; i < step.results.size(); ++i)
        if (step.results[i] != kNone)
          tensors[static_cast<size_t>(step.results[i])] = listed.empty() ? std::move(stack[i]).toTensor() : listed[i];
      for (const int64_t slot : step.mutated) {
        const at::Tensor& tensor = tensors[static_cast<size_t>(slot)];
        if (!tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
      }
      for (const int64_t slot : step.last_used) tensors[static_cast<size_t>(slot)].reset();
    }
  }

 private:
  static Step step_of(const py::tuple& recipe) {
    Step step{c10::Dispatcher::singleton().findSchemaOrThrow(recipe[0].cast<std::string>().c_str(),
                                                             recipe[1].cast<std::string>().c_str()),
              {},
              recipe[3].cast<std::vector<int64_t>>(),
              recipe[4].cast<std::vector<int64_t>>(),
              {}};
    size_t position = 0;
    for (const py::handle given : recipe[2]) {
      const auto kind = given[py::int_(0)].cast<std::string>();
      const py::object value = given[py::int_(1)];
      const c10::TypePtr type = step.op.schema().arguments().at(position++).type();
      if (kind == "tensor")
        step.arguments.push_back({Argument::Kind::kTensor, {}, {value.cast<int64_t>()}});
      else if (kind == "tensors")
        step.arguments.push_back({Argument::Kind::kTensors, {}, value.cast<std::vector<int64_t>>()});
      else
        step.arguments.push_back({Argument::Kind::kConstant, constant_of(value, type), {}});
    }
    return step;
  }

  // A number may stand where the operator has a tensor.
  static IValue constant_of(const py::object& value, const c10::TypePtr& type) {
    if (type->kind() != c10::TypeKind::TensorType || value.is_none()) return torch::jit::toIValue(value, type);
    at::Tensor number = at::scalar_to_tensor(torch::jit::toIValue(value, c10::NumberType::get()).toScalar());
    number.unsafeGetTensorImpl()->set_wrapped_number(true);
    return number;
  }

  static void push(const Argument& argument, const Tensors& tensors, std::vector<IValue>& stack) {
    switch (argument.kind) {
      case Argument::Kind::kConstant:
        stack.push_back(argument.constant);
        return;
      case Argument::Kind::kTensor:
        stack.emplace_back(tensors[static_cast<size_t>(argument.slots[0])]);
        return;
      case Argument::Kind::kTensors: {
        c10::List<at::Tensor> list;
        for (const int64_t slot : argument.slots) list.push_back(tensors[static_cast<size_t>(slot)]);
        stack.emplace_back(std::move(list));
        return;
      }
    }
  }

  size_t count_;
  std::vector<Step> steps_;
};

// A Python object that may be let go of without the GIL.
std::shared_ptr<PyObject> shared(const py::handle& object) {
  return {object.inc_ref().ptr(), [](PyObject* held) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            Py_DECREF(held);
          }};
}

py::object wrapped(const at::Tensor& tensor) {
  if (!tensor.defined()) return py::none();
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

at::Tensor unwrapped(const py::handle& object) {
  return object.is_none() ? at::Tensor() : THPVariable_Unpack(object.ptr());
}

py::tuple wrapped(const Tensors& tensors) {
  py::tuple all(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) all[i] = wrapped(tensors[i]);
  return all;
}

// Calls Python from a thread that may have an error to carry to another.
template <typename... Arguments>
py::object call_python(const std::shared_ptr<PyObject>& function, const Arguments&... arguments) {
  PyObject* result = PyObject_CallFunctionObjArgs(function.get(), arguments.ptr()..., nullptr);
  if (result == nullptr) {
    python_error error;
    error.persist();
    throw std::move(error);
  }
  return py::reinterpret_steal<py::object>(result);
}

// --------------------------------------------------------------------------------------------------------------------
// The explicit Function of a call, where a derivative is recorded

// The backward pass for gradients and saved tensors of certain strides.
struct Gradient {
  Key key;
  std::shared_ptr<const Program> program;  // none: Python every time
  std::vector<int64_t> results;
};

struct Recorded {
  static inline std::atomic<uint64_t> made{0};
  const uint64_t number = ++made;
  std::string title, name;
  std::vector<int64_t> inputs, outputs, saved;
  std::vector<bool> differentiable;  // of the outputs
  std::shared_ptr<PyObject> derive, record_gradient;
  mutable std::mutex mutex;
  mutable std::vector<std::shared_ptr<const Gradient>> gradients;

  std::shared_ptr<const Gradient> find(const Key& key) const {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = std::find_if(gradients.begin(), gradients.end(), [&](const auto& g) { return g->key == key; });
    return found == gradients.end() ? nullptr : *found;
  }

  void remember(std::shared_ptr<const Gradient> gradient) const {
    const std::lock_guard<std::mutex> lock(mutex);
    if (gradients.size() == kRemembered) gradients.clear();
    gradients.push_back(std::move(gradient));
  }
};

class ReplayedNode : public torch::autograd::Node {
 public:
  explicit ReplayedNode(std::shared_ptr<const Recorded> recorded) : recorded_(std::move(recorded)) {}

  std::string name() const override { return recorded_->name; }

  void keep(const Tensors& tensors) {
    for (const int64_t slot : recorded_->saved)
      saved_.emplace_back(slot == kNone ? at::Tensor() : tensors[static_cast<size_t>(slot)], is_output(slot));
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& saved : saved_) saved.reset_data();
  }

  // For compiled autograd, which traces the Function's Python with other tensors in the place of those saved.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(recorded_->number);
    for (size_t i = 0; i < saved_.size(); ++i) args.collect(saved_[i], is_output(recorded_->saved[i]));
  }

  variable_list apply_with_saved(const variable_list& arriving,
                                 torch::dynamo::autograd::SwapSavedVariables& swapped) override {
    for (auto& saved : saved_) swapped.before(saved);
    variable_list gradients = apply(variable_list(arriving));
    for (auto& saved : saved_) swapped.after(saved);
    return gradients;
  }

 protected:
  variable_list apply(variable_list&& arriving) override {
    // The gradients of all outputs in order, undefined where none can arrive; after them what was saved.
    Tensors tensors;
    for (size_t i = 0, next = 0; i < recorded_->outputs.size(); ++i)
      tensors.push_back(recorded_->differentiable[i] ? std::move(arriving.at(next++)) : at::Tensor());
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& saved : saved_) tensors.push_back(saved.unpack(getptr()));
    }
    std::vector<bool> needed;
    for (size_t i = 0; i < recorded_->inputs.size(); ++i) needed.push_back(task_should_compute_output(i));
    Key key;
    if (!c10::GradMode::is_enabled() && meetings_before >= 0 && plain_surroundings() && key_of(tensors, needed, key)) {
      const auto gradient = recorded_->find(key);
      if (gradient == nullptr) return recorded(tensors, needed, std::move(key));
      if (gradient->program != nullptr) {
        tensors.resize(gradient->program->count());
        gradient->program->run(tensors);
        return picked(tensors, gradient->results);
      }
    }
    const py::gil_scoped_acquire gil;
    const auto [needs, grads, saved] = python_arguments(tensors, needed);
    return listed(call_python(recorded_->derive, needs, grads, saved));
  }

 private:
  bool is_output(int64_t slot) const {
    const auto& outputs = recorded_->outputs;
    return slot != kNone && std::find(outputs.begin(), outputs.end(), slot) != outputs.end();
  }

  static bool key_of(const Tensors& tensors, const std::vector<bool>& needed, Key& key) {
    for (const bool need : needed) key.add(need);
    for (const at::Tensor& tensor : tensors)
      if (!key.add_tensor(tensor)) return false;
    return true;
  }

  std::tuple<py::tuple, py::tuple, py::tuple> python_arguments(const Tensors& tensors,
                                                               const std::vector<bool>& needed) const {
    py::tuple needs(needed.size());
    for (size_t i = 0; i < needed.size(); ++i) needs[i] = py::bool_(needed[i]);
    const auto split = tensors.begin() + static_cast<std::ptrdiff_t>(recorded_->outputs.size());
    return {needs, wrapped(Tensors(tensors.begin(), split)), wrapped(Tensors(split, tensors.end()))};
  }

  // Runs the Function's backward and writes it down.
  variable_list recorded(const Tensors& tensors, const std::vector<bool>& needed, Key key) const {
    const py::gil_scoped_acquire gil;
    const auto [needs, grads, saved] = python_arguments(tensors, needed);
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const py::tuple found(
        call_python(recorded_->record_gradient, py::handle(recorded_->derive.get()), needs, grads, saved));
    Gradient gradient{std::move(key), nullptr, {}};
    if (!found[1].is_none()) {
      gradient.results = found[2].cast<std::vector<int64_t>>();
      gradient.program = std::make_shared<const Program>(found[1], gradient.results);
    }
    recorded_->remember(std::make_shared<const Gradient>(std::move(gradient)));
    return listed(found[0]);
  }

  static variable_list listed(const py::handle& gradients) {
    variable_list list;
    for (const py::handle gradient : gradients) list.push_back(unwrapped(gradient));
    return list;
  }

  static variable_list picked(Tensors& tensors, const std::vector<int64_t>& slots) {
    variable_list list;
    for (const int64_t slot : slots) list.push_back(slot == kNone ? at::Tensor() : tensors[static_cast<size_t>(slot)]);
    tensors.clear();
    return list;
  }

  std::shared_ptr<const Recorded> recorded_;
  std::vector<torch::autograd::SavedVariable> saved_;
};

// A pointer to a node as this version of PyTorch holds it.
using NodePointer = decltype(torch::autograd::Edge::function);

template <typename Pointer = NodePointer>
Pointer make_node(const std::shared_ptr<const Recorded>& recorded) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>)
    return Pointer(new ReplayedNode(recorded), [](auto* node) { deleteNode(node); });  // PyTorch's, by its argument
  else
    return c10::make_intrusive<ReplayedNode>(recorded);
}

// --------------------------------------------------------------------------------------------------------------------
// A call

struct Plan {
  std::unique_ptr<const Program> program;
  std::vector<int64_t> returned;
  bool returns_tuple;
  std::shared_ptr<const Recorded> recorded;  // none where no derivative is
};

// Makes the node of a call.
void record_derivative(const std::shared_ptr<const Recorded>& recorded, const Tensors& tensors) {
  const NodePointer node = make_node(recorded);
  torch::autograd::edge_list edges;
  for (const int64_t slot : recorded->inputs)
    edges.push_back(torch::autograd::impl::gradient_edge(tensors[static_cast<size_t>(slot)]));
  node->set_next_edges(std::move(edges));
  for (size_t i = 0; i < recorded->outputs.size(); ++i)
    if (recorded->differentiable[i])
      torch::autograd::set_history(tensors[static_cast<size_t>(recorded->outputs[i])], node);
  static_cast<ReplayedNode&>(*node).keep(tensors);
}

PyObject* replay(const Plan& plan, Tensors& tensors) {
  tensors.resize(plan.program->count());
  {
    const py::gil_scoped_release no_gil;
    std::optional<at::RecordFunction> profiled;
    if (plan.recorded != nullptr) {
      profiled.emplace(at::RecordScope::FUNCTION);
      if (profiled->isActive()) profiled->before(plan.recorded->title);
    }
    plan.program->run(tensors);
  }
  if (plan.recorded != nullptr) record_derivative(plan.recorded, tensors);
  const auto wrap = [&](int64_t slot) {
    return slot == kNone ? Py_NewRef(Py_None) : THPVariable_Wrap(tensors[static_cast<size_t>(slot)]);
  };
  if (!plan.returns_tuple) return wrap(plan.returned[0]);
  THPObjectPtr tuple(PyTuple_New(static_cast<Py_ssize_t>(plan.returned.size())));
  if (!tuple) throw python_error();
  for (size_t i = 0; i < plan.returned.size(); ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), wrap(plan.returned[i]));
  return tuple.release();
}

struct Hash {
  size_t operator()(const Key& key) const { return key.hash(); }
};

enum class State { kMet, kRefused, kPlanned };

struct Entry {
  State state;
  int64_t meetings;
  std::shared_ptr<const Plan> plan;
};

struct Replayable {
  std::string name;
  PyObject *function, *record;
  std::shared_ptr<PyObject> record_gradient;
  PyMethodDef method;
  std::unordered_map<Key, Entry, Hash> calls;
};

constexpr const char* kCapsule = "torchbp.replayable";

std::shared_ptr<const Recorded> recorded_of(const py::handle& recipe, const Replayable& of) {
  if (recipe.is_none()) return nullptr;
  const auto recorded = std::make_shared<Recorded>();
  recorded->title = recipe[py::int_(0)].cast<std::string>();
  recorded->name = recorded->title + "Backward";
  recorded->inputs = recipe[py::int_(1)].cast<std::vector<int64_t>>();
  recorded->outputs = recipe[py::int_(2)].cast<std::vector<int64_t>>();
  recorded->differentiable = recipe[py::int_(3)].cast<std::vector<bool>>();
  recorded->saved = recipe[py::int_(4)].cast<std::vector<int64_t>>();
  recorded->derive = shared(recipe[py::int_(5)]);
  recorded->record_gradient = of.record_gradient;
  return recorded;
}

std::shared_ptr<const Plan> plan_of(const py::handle& recipe, const Replayable& of) {
  Plan plan{nullptr, recipe[py::int_(1)].cast<std::vector<int64_t>>(), recipe[py::int_(2)].cast<bool>(),
            recorded_of(recipe[py::int_(3)], of)};
  std::vector<int64_t> kept = plan.returned;
  if (plan.recorded != nullptr)
    for (const auto* slots : {&plan.recorded->inputs, &plan.recorded->outputs, &plan.recorded->saved})
      kept.insert(kept.end(), slots->begin(), slots->end());
  plan.program = std::make_unique<const Program>(recipe[py::int_(0)], kept);
  return std::make_shared<const Plan>(std::move(plan));
}

PyObject* call_function(const Replayable& of, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  return PyObject_Vectorcall(of.function, arguments, static_cast<size_t>(count), names);
}

// Runs a call that was met before and writes down what it is made of.
PyObject* record(Replayable& of, Key key, PyObject* const* arguments, Py_ssize_t count, PyObject* names,
                 const Tensors& tensors) {
  py::tuple positional(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i)
    positional[static_cast<size_t>(i)] = py::reinterpret_borrow<py::object>(arguments[i]);
  py::dict named;
  for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i)
    named[py::handle(PyTuple_GET_ITEM(names, i))] = py::reinterpret_borrow<py::object>(arguments[count + i]);
  py::object found;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    found = py::reinterpret_steal<py::object>(PyObject_CallFunctionObjArgs(
        of.record, of.function, positional.ptr(), named.ptr(), wrapped(tensors).ptr(), nullptr));
  }
  if (!found) return nullptr;
  const py::tuple answer(found);  // whether the result is one, the result, the plan, its tensors
  Entry& entry = of.calls[std::move(key)];
  entry = {State::kRefused, 0, nullptr};
  if (!answer[2].is_none()) {
    entry = {State::kPlanned, 0, plan_of(answer[2], of)};
    if (entry.plan->recorded != nullptr) {
      Tensors all;
      for (const py::handle tensor : answer[3]) all.push_back(unwrapped(tensor));
      record_derivative(entry.plan->recorded, all);
    }
  }
  if (!answer[0].cast<bool>()) return call_function(of, arguments, count, names);
  return py::object(answer[1]).release().ptr();
}

PyObject* call_replayable(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  HANDLE_TH_ERRORS
  auto* of = static_cast<Replayable*>(PyCapsule_GetPointer(capsule, kCapsule));
  if (of == nullptr) return nullptr;
  Key key;
  Tensors tensors;
  const int64_t before = meetings_before;
  bool plain = before >= 0 && plain_surroundings();
  const Py_ssize_t named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
  key.add(static_cast<uint64_t>(count) << 2 | static_cast<uint64_t>(c10::GradMode::is_enabled()) << 1 |
          static_cast<uint64_t>(c10::InferenceMode::is_enabled()));
  key.add(static_cast<uint64_t>(c10::get_default_dtype_as_scalartype()));
  for (Py_ssize_t i = 0; plain && i < count + named; ++i) plain = add_argument(arguments[i], key, &tensors);
  for (Py_ssize_t i = 0; plain && i < named; ++i) plain = add_argument(PyTuple_GET_ITEM(names, i), key, nullptr);
  if (!plain) return call_function(*of, arguments, count, names);
  auto found = of->calls.find(key);
  if (found == of->calls.end()) {
    if (of->calls.size() == kRemembered) of->calls.clear();
    found = of->calls.emplace(key, Entry{State::kMet, 0, nullptr}).first;
  }
  switch (found->second.state) {
    case State::kMet:
      if (found->second.meetings++ < before) return call_function(*of, arguments, count, names);
      return record(*of, std::move(key), arguments, count, names, tensors);
    case State::kRefused:
      return call_function(*of, arguments, count, names);
    case State::kPlanned: {
      const std::shared_ptr<const Plan> plan = found->second.plan;
      try {
        return replay(*plan, tensors);
      } catch (const c10::Error&) {  // Python's words for what an operator refuses
        return call_function(*of, arguments, count, names);
      }
    }
  }
  return nullptr;
  END_HANDLE_TH_ERRORS
}

}  // namespace

pybind11::object replayable(const std::string& name, const pybind11::object& function, const pybind11::object& record,
                            const pybind11::object& record_gradient) {
  // One per function, as long as the process.
  static std::deque<Replayable> all;
  Replayable& of = all.emplace_back(
      Replayable{name, function.inc_ref().ptr(), record.inc_ref().ptr(), shared(record_gradient), {}, {}});
  of.method = {of.name.c_str(), reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call_replayable)),
               METH_FASTCALL | METH_KEYWORDS, nullptr};
  const pybind11::capsule self(&of, kCapsule);
  PyObject* callable = PyCFunction_NewEx(&of.method, self.ptr(), nullptr);
  if (callable == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(callable);
}

int64_t replay_after(int64_t meetings) { return meetings_before.exchange(meetings); }

bool is_replayed(const pybind11::object& node) {
  if (std::strcmp(Py_TYPE(node.ptr())->tp_name, "CppFunction") != 0) return false;
  const auto& held = reinterpret_cast<torch::autograd::THPCppFunction*>(node.ptr())->cdata;
  return dynamic_cast<const ReplayedNode*>(held.get()) != nullptr;
}

}  // namespace torchbp
