// Operators called from Python without the general conversion of arguments.
//
// torch.ops converts every argument through the types of the JIT and passes autograd's boxed fallback; together they
// take longer than a small layer. Here plain arguments (exact tensors, numbers, tuples and lists of numbers) are
// converted by the kinds in the schema, and autograd is passed by where it has nothing to record. Anything else, and
// any call under a torch.func transform or a mode that overrides functions, goes to torch.ops.
#include "calls.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/AutogradState.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>

#include <deque>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace torchbp {
namespace {

using c10::IValue;

enum class Kind { kTensor, kInt, kFloat, kBool, kString, kInts, kFloats };

struct Parameter {
  Kind kind;
  bool optional;
};

struct Call {
  c10::OperatorHandle op;
  std::vector<Parameter> parameters;
  PyObject* overload;
  PyMethodDef method;
};

constexpr const char* kCapsule = "torchbp.operator_call";

std::optional<Parameter> parameter_of(const c10::Type& type) {
  using c10::TypeKind;
  switch (type.kind()) {
    case TypeKind::OptionalType: {
      const auto inner = parameter_of(*type.expectRef<c10::OptionalType>().getElementType());
      return inner.has_value() ? std::optional(Parameter{inner->kind, true}) : std::nullopt;
    }
    case TypeKind::ListType:
      switch (type.expectRef<c10::ListType>().getElementType()->kind()) {
        case TypeKind::IntType:
          return Parameter{Kind::kInts, false};
        case TypeKind::FloatType:
          return Parameter{Kind::kFloats, false};
        default:
          return std::nullopt;
      }
    case TypeKind::TensorType:
      return Parameter{Kind::kTensor, false};
    case TypeKind::IntType:
      return Parameter{Kind::kInt, false};
    case TypeKind::FloatType:
      return Parameter{Kind::kFloat, false};
    case TypeKind::BoolType:
      return Parameter{Kind::kBool, false};
    case TypeKind::StringType:
      return Parameter{Kind::kString, false};
    default:
      return std::nullopt;
  }
}

bool as_int(PyObject* object, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

bool as_double(PyObject* object, double& value) {
  if (!PyFloat_CheckExact(object)) return false;
  value = PyFloat_AS_DOUBLE(object);
  return true;
}

template <typename T, typename Convert>
bool as_list(PyObject* object, std::vector<T>& values, const Convert& convert) {
  if (!PyTuple_Check(object) && !PyList_CheckExact(object)) return false;
  values.resize(static_cast<size_t>(PySequence_Fast_GET_SIZE(object)));
  for (size_t i = 0; i < values.size(); ++i)
    if (!convert(PySequence_Fast_GET_ITEM(object, static_cast<Py_ssize_t>(i)), values[i])) return false;
  return true;
}

// The argument as the kind says, or nothing.
std::optional<IValue> converted(PyObject* object, const Parameter& parameter) {
  if (parameter.optional && object == Py_None) return IValue();
  switch (parameter.kind) {
    case Kind::kTensor:
      if (!THPVariable_CheckExact(object)) return std::nullopt;
      return IValue(THPVariable_Unpack(object));
    case Kind::kInt: {
      int64_t value = 0;
      return as_int(object, value) ? std::optional(IValue(value)) : std::nullopt;
    }
    case Kind::kFloat: {
      double value = 0;
      return as_double(object, value) ? std::optional(IValue(value)) : std::nullopt;
    }
    case Kind::kBool:
      return PyBool_Check(object) ? std::optional(IValue(object == Py_True)) : std::nullopt;
    case Kind::kString: {
      Py_ssize_t size = 0;
      const char* text = PyUnicode_CheckExact(object) ? PyUnicode_AsUTF8AndSize(object, &size) : nullptr;
      if (text == nullptr) {
        PyErr_Clear();
        return std::nullopt;
      }
      return IValue(std::string(text, static_cast<size_t>(size)));
    }
    case Kind::kInts: {
      std::vector<int64_t> values;
      return as_list(object, values, as_int) ? std::optional(IValue(std::move(values))) : std::nullopt;
    }
    case Kind::kFloats: {
      std::vector<double> values;
      return as_list(object, values, as_double) ? std::optional(IValue(std::move(values))) : std::nullopt;
    }
  }
  return std::nullopt;
}

bool recorded(const at::Tensor& tensor, bool backward, bool forward) {
  return tensor.defined() && ((backward && tensor.requires_grad()) || (forward && tensor._fw_grad(0).defined()));
}

// Converts all arguments; false if one is not plain, or if autograd must see the call.
bool convert(const Call& call, PyObject* const* arguments, Py_ssize_t count, std::vector<IValue>& stack) {
  if (static_cast<size_t>(count) != call.parameters.size()) return false;
  if (at::impl::torch_function_mode_enabled()) return false;
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return false;
  const bool backward = c10::GradMode::is_enabled(), forward = c10::AutogradState::get_tls_state().get_fw_grad_mode();
  stack.reserve(call.parameters.size());
  for (size_t i = 0; i < call.parameters.size(); ++i) {
    std::optional<IValue> value = converted(arguments[i], call.parameters[i]);
    if (!value.has_value()) return false;
    if (value->isTensor() && recorded(value->toTensor(), backward, forward)) return false;
    stack.push_back(*std::move(value));
  }
  return true;
}

PyObject* wrapped(std::vector<IValue>& results) {
  if (results.size() == 1) return THPVariable_Wrap(std::move(results[0]).toTensor());
  THPObjectPtr tuple(PyTuple_New(static_cast<Py_ssize_t>(results.size())));
  if (!tuple) throw python_error();
  for (size_t i = 0; i < results.size(); ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), THPVariable_Wrap(std::move(results[i]).toTensor()));
  return tuple.release();
}

PyObject* call_operator(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  const auto* call = static_cast<const Call*>(PyCapsule_GetPointer(capsule, kCapsule));
  if (call == nullptr) return nullptr;
  std::vector<IValue> stack;
  if (!convert(*call, arguments, count, stack))
    return PyObject_Vectorcall(call->overload, arguments, static_cast<size_t>(count), nullptr);
  {
    const pybind11::gil_scoped_release no_gil;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    call->op.callBoxed(stack);
  }
  return wrapped(stack);
  END_HANDLE_TH_ERRORS
}

}  // namespace

pybind11::object operator_call(const std::string& name, const pybind11::object& overload) {
  const c10::OperatorHandle op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  std::vector<Parameter> parameters;
  for (const c10::Argument& argument : op.schema().arguments()) {
    const auto parameter = parameter_of(*argument.type());
    TORCH_CHECK(parameter.has_value(), name, ": no conversion for ", argument);
    parameters.push_back(*parameter);
  }
  for (const c10::Argument& result : op.schema().returns())
    TORCH_CHECK(result.type()->kind() == c10::TypeKind::TensorType, name, ": no conversion for a result ", result);
  // One per operator, as long as the process.
  static std::deque<Call> calls;
  Call& call = calls.emplace_back(Call{op, std::move(parameters), overload.inc_ref().ptr(), {}});
  call.method = {call.op.schema().name().c_str(), reinterpret_cast<PyCFunction>(call_operator), METH_FASTCALL, nullptr};
  const pybind11::capsule self(&call, kCapsule);
  PyObject* function = PyCFunction_NewEx(&call.method, self.ptr(), nullptr);
  if (function == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(function);
}

}  // namespace torchbp
