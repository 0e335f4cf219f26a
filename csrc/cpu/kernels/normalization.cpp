// Per-channel sums and the affine map that applies them: all that batch normalisation needs, forward
// and backward. Every split of a sum depends on the shape only.
#include "normalization.h"

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Elements added in the tensor's own precision before the sum goes to double.
constexpr int64_t kRun = 512;
constexpr int64_t kRows = 64;
constexpr int64_t kEnoughSlices = 16;

bool in_rows(const ChannelProblem& problem) { return problem.inner == 1; }

int64_t slices(const ChannelProblem& problem) {
  const int64_t wanted =
      in_rows(problem) ? 4 * kEnoughSlices : (kEnoughSlices + problem.channels - 1) / larger(1, problem.channels);
  const int64_t most = in_rows(problem) ? (problem.outer + kRows - 1) / kRows : problem.outer;
  return larger(1, smaller(wanted, most));
}

int64_t reduce_tasks(const ChannelProblem& problem) {
  return in_rows(problem) ? slices(problem) : slices(problem) * problem.channels;
}

int64_t reduce_workspace(const ChannelProblem& problem) { return in_rows(problem) ? 2 * problem.channels : 0; }

template <typename T>
TORCHBP_INLINE double across(const Vector<T>& sums) {
  double total = 0;
  for (int64_t lane = 0; lane < Lanes<T>::count; ++lane) total += static_cast<double>(sums[lane]);
  return total;
}

// The sums of one run of a plane: kind 0 adds c, 1 adds c * c, 2 adds g and g * c.
template <typename T, int kKind>
TORCHBP_INLINE void add_run(const T* x, const T* g, T centre, int64_t count, double& first, double& second) {
  constexpr int64_t lanes = Lanes<T>::count;
  Vector<T> a[2] = {{}, {}}, b[2] = {{}, {}};
  int64_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes)
    for (int u = 0; u < 2; ++u) {
      const Vector<T> c = load(x + i + u * lanes) - centre;
      if constexpr (kKind == 0) a[u] += c;
      if constexpr (kKind == 1) a[u] += c * c;
      if constexpr (kKind == 2) {
        const Vector<T> gradient = load(g + i + u * lanes);
        a[u] += gradient;
        b[u] += gradient * c;
      }
    }
  T rest_a = 0, rest_b = 0;
  for (; i < count; ++i) {
    const T c = x[i] - centre;
    if constexpr (kKind == 0) rest_a += c;
    if constexpr (kKind == 1) rest_a += c * c;
    if constexpr (kKind == 2) {
      rest_a += g[i];
      rest_b += g[i] * c;
    }
  }
  first += across<T>(a[0] + a[1]) + static_cast<double>(rest_a);
  second += across<T>(b[0] + b[1]) + static_cast<double>(rest_b);
}

template <typename T, int kKind>
void reduce_kind(const ChannelProblem& problem, const T* x, const T* g, const T* centre, double* partial, T* workspace,
                 int64_t task) {
  const int64_t count = slices(problem), channels = problem.channels, inner = problem.inner;
  const int64_t slice = in_rows(problem) ? task : task / channels;
  const int64_t per_slice = (problem.outer + count - 1) / count;
  const int64_t begin = slice * per_slice, end = smaller(problem.outer, begin + per_slice);
  double* first = partial + slice * 2 * channels;
  double* second = first + channels;
  if (!in_rows(problem)) {
    const int64_t channel = task % channels;
    const T middle = centre ? centre[channel] : T(0);
    double a = 0, b = 0;
    for (int64_t o = begin; o < end; ++o) {
      const int64_t at = (o * channels + channel) * inner;
      for (int64_t i = 0; i < inner; i += kRun)
        add_run<T, kKind>(x + at + i, kKind == 2 ? g + at + i : nullptr, middle, smaller(kRun, inner - i), a, b);
    }
    first[channel] = a;
    second[channel] = b;
    return;
  }
  T* __restrict__ a = workspace;
  T* __restrict__ b = workspace + channels;
  for (int64_t c = 0; c < channels; ++c) first[c] = second[c] = 0;
  for (int64_t start = begin; start < end; start += kRows) {
    for (int64_t c = 0; c < 2 * channels; ++c) workspace[c] = T(0);
    for (int64_t o = start; o < smaller(end, start + kRows); ++o) {
      const T* row = x + o * channels;
      const T* gradient = kKind == 2 ? g + o * channels : nullptr;
      for (int64_t c = 0; c < channels; ++c) {
        const T centred = centre ? row[c] - centre[c] : row[c];
        if constexpr (kKind == 0) a[c] += centred;
        if constexpr (kKind == 1) a[c] += centred * centred;
        if constexpr (kKind == 2) {
          a[c] += gradient[c];
          b[c] += gradient[c] * centred;
        }
      }
    }
    for (int64_t c = 0; c < channels; ++c) first[c] += static_cast<double>(a[c]);
    if constexpr (kKind == 2)
      for (int64_t c = 0; c < channels; ++c) second[c] += static_cast<double>(b[c]);
  }
}

template <typename T>
void reduce(const ChannelProblem& problem, const T* x, const T* g, const T* centre, bool squared, double* partial,
            T* workspace, int64_t task) {
  if (g)
    reduce_kind<T, 2>(problem, x, g, centre, partial, workspace, task);
  else if (squared)
    reduce_kind<T, 1>(problem, x, g, centre, partial, workspace, task);
  else
    reduce_kind<T, 0>(problem, x, g, centre, partial, workspace, task);
}

int64_t apply_tasks(const ChannelProblem& problem) {
  return in_rows(problem) ? (problem.outer + kRows - 1) / kRows : problem.outer;
}

template <typename T>
void apply(const ChannelProblem& problem, const T* x, const T* g, const T* centre, const T* slope, const T* scale,
           const T* shift, T* out, int64_t task) {
  const int64_t channels = problem.channels, inner = problem.inner;
  if (!in_rows(problem)) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = (task * channels + c) * inner;
      const T* from = x + at;
      const T* gradient = g ? g + at : nullptr;
      T* __restrict__ to = out + at;
      const T middle = centre[c], a = scale[c], b = shift[c], p = g ? slope[c] : T(0);
      if (g)
        for (int64_t i = 0; i < inner; ++i) to[i] = gradient[i] * p + ((from[i] - middle) * a + b);
      else
        for (int64_t i = 0; i < inner; ++i) to[i] = (from[i] - middle) * a + b;
    }
    return;
  }
  for (int64_t o = task * kRows; o < smaller(problem.outer, (task + 1) * kRows); ++o) {
    const T* from = x + o * channels;
    T* __restrict__ to = out + o * channels;
    if (g) {
      const T* gradient = g + o * channels;
      for (int64_t c = 0; c < channels; ++c)
        to[c] = gradient[c] * slope[c] + ((from[c] - centre[c]) * scale[c] + shift[c]);
    } else {
      for (int64_t c = 0; c < channels; ++c) to[c] = (from[c] - centre[c]) * scale[c] + shift[c];
    }
  }
}

template <typename T>
ChannelKernels<T> kernels_of() {
  return {slices, reduce_tasks, reduce_workspace, reduce<T>, apply_tasks, apply<T>};
}

}  // namespace

ChannelKernels<float> channel_float() { return kernels_of<float>(); }
ChannelKernels<double> channel_double() { return kernels_of<double>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
