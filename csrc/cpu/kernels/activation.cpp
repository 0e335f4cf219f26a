// Pointwise maps and their gradients, vector by vector.
#include "activation.h"

#include "elementary.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// y = f(x), or f(g, x) with another operand; an incomplete last vector goes through a buffer.
template <typename T, typename Map>
TORCHBP_INLINE void apply(const T* g, const T* x, T* y, int64_t count, const Map& map) {
  constexpr int64_t lanes = Lanes<T>::count;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store<T>(y + i, map(g ? load(g + i) : Vector<T>{}, load(x + i)));
  if (i == count) return;
  T from[2][lanes] = {}, to[lanes];
  for (int64_t k = i; k < count; ++k) {
    from[0][k - i] = g ? g[k] : T(0);
    from[1][k - i] = x[k];
  }
  store<T>(to, map(load(from[0]), load(from[1])));
  for (int64_t k = i; k < count; ++k) y[k] = to[k - i];
}

// 2 u of tanh's argument u = sqrt(2 / pi) (x + 0.044715 x^3), and its derivative: 1 + tanh(u) = 2 sigmoid(2 u).
constexpr double kTwiceScale = 1.59576912160573071176, kCube = 0.044715;
constexpr double kNormalDensity = 0.39894228040143267794;  // at zero

template <typename T>
void forward(const Activation& activation, const T* x, T* y, int64_t count) {
  const T first = static_cast<T>(activation.parameters[0]), second = static_cast<T>(activation.parameters[1]);
  switch (activation.map) {
    case ActivationMap::kSigmoid:
      return apply<T>(nullptr, x, y, count, [](const Vector<T>&, const Vector<T>& v) { return logistic<T>(v); });
    case ActivationMap::kGelu:
      return apply<T>(nullptr, x, y, count,
                      [](const Vector<T>&, const Vector<T>& v) { return v * Normal<T>(v).distribution; });
    case ActivationMap::kSilu:
      return apply<T>(nullptr, x, y, count,
                      [](const Vector<T>&, const Vector<T>& v) { return v / (exponential<T>(-v) + T(1)); });
    case ActivationMap::kScaledTanh:
      return apply<T>(nullptr, x, y, count,
                      [=](const Vector<T>&, const Vector<T>& v) { return hyperbolic_tangent<T>(v * second) * first; });
    case ActivationMap::kSoftplus:
      return apply<T>(nullptr, x, y, count, [=](const Vector<T>&, const Vector<T>& v) {
        const Vector<T> scaled = v * first, zero{};
        const Vector<T> size = scaled > zero ? scaled : -scaled;
        const Vector<T> positive = scaled > zero ? scaled : zero;
        return scaled > second ? v : (positive + log_one_plus<T>(exponential<T>(-size))) / first;
      });
    case ActivationMap::kGeluTanh:
      return apply<T>(nullptr, x, y, count, [=](const Vector<T>&, const Vector<T>& v) {
        const Vector<T> twice = (v * v * T(kCube) + T(1)) * v * T(kTwiceScale);
        return v / (exponential<T>(-twice) + T(1));
      });
  }
}

template <typename T>
void gradient(const Activation& activation, const T* g, const T* kept, T* gx, int64_t count) {
  const T first = static_cast<T>(activation.parameters[0]), second = static_cast<T>(activation.parameters[1]);
  switch (activation.map) {
    case ActivationMap::kSigmoid:
      return apply<T>(g, kept, gx, count,
                      [](const Vector<T>& cotangent, const Vector<T>& y) { return cotangent * (T(1) - y) * y; });
    case ActivationMap::kGelu:
      return apply<T>(g, kept, gx, count, [](const Vector<T>& cotangent, const Vector<T>& v) {
        const Normal<T> normal(v);
        return cotangent * (normal.distribution + v * normal.exponential * T(kNormalDensity));
      });
    case ActivationMap::kSilu:
      return apply<T>(g, kept, gx, count, [](const Vector<T>& cotangent, const Vector<T>& v) {
        const Vector<T> s = logistic<T>(v);
        return cotangent * (s * (v * (T(1) - s) + T(1)));
      });
    case ActivationMap::kScaledTanh: {
      const T slope = first * second, bend = second / first;
      return apply<T>(g, kept, gx, count, [=](const Vector<T>& cotangent, const Vector<T>& y) {
        return cotangent * (slope - y * y * bend);
      });
    }
    case ActivationMap::kSoftplus:
      return apply<T>(g, kept, gx, count, [=](const Vector<T>& cotangent, const Vector<T>& v) {
        const Vector<T> scaled = v * first;
        return scaled > second ? cotangent : cotangent / (exponential<T>(-scaled) + T(1));
      });
    case ActivationMap::kGeluTanh:
      return apply<T>(g, kept, gx, count, [=](const Vector<T>& cotangent, const Vector<T>& v) {
        const Vector<T> squared = v * v;
        const Vector<T> twice = (squared * T(kCube) + T(1)) * v * T(kTwiceScale);
        const Vector<T> slope = (squared * T(3 * kCube) + T(1)) * T(kTwiceScale);
        const Vector<T> s = logistic<T>(twice);
        return cotangent * (s + v * (s * (T(1) - s)) * slope);
      });
  }
}

template <typename T>
ActivationKernels<T> kernels_of() {
  return {forward<T>, gradient<T>};
}

}  // namespace

ActivationKernels<float> activation_float() { return kernels_of<float>(); }
ActivationKernels<double> activation_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
