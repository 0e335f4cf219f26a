// Moments, sums of products and the affine maps that apply them: all that normalisation needs, forward and backward.
// Every split of a sum depends on sizes only.
#include "normalization.h"

#include "vector.h"

namespace torchbp {
namespace TORCHBP_ISA {
namespace {

// Elements added in the type of arithmetic before the sum goes to double: of a run, over all lanes, and of a column.
constexpr int64_t kRun = 64 * TORCHBP_VECTOR_BYTES;  // 64 per lane of four float accumulators
constexpr int64_t kRows = 64;
// Elements of one operand that a block of weighted rows may have, so that its columns are summed from the cache.
constexpr int64_t kBlock = 8192;
constexpr int64_t kTogether = 16;  // short rows
constexpr int64_t kWidest = 4;     // vectors of a panel of columns

template <typename T>
using Pack = Vector<Compute<T>>;
template <typename T>
struct Width {
  static constexpr int64_t count = Lanes<Compute<T>>::count;
};

// The sum of the lanes: 16 bytes at a time, then in double.
template <typename A>
TORCHBP_INLINE double across(const Vector<A>& v) {
  typedef A Part __attribute__((vector_size(16)));
  constexpr int parts = TORCHBP_VECTOR_BYTES / 16, lanes = 16 / static_cast<int>(sizeof(A));
  Part part[parts];
  __builtin_memcpy(part, &v, sizeof(part));
  for (int half = parts / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += static_cast<double>(part[0][lane]);
  return total;
}

// v in the last `count` lanes, zero in the others, whatever is there.
template <typename A>
TORCHBP_INLINE Vector<A> last_lanes(const Vector<A>& v, int64_t count) {
  typedef decltype(v < v) Mask;
  typedef typename Lanes<A>::Vector V;
  struct Table {
    char bytes[2 * TORCHBP_VECTOR_BYTES];
    constexpr Table() : bytes() {
      for (int i = TORCHBP_VECTOR_BYTES; i < 2 * TORCHBP_VECTOR_BYTES; ++i) bytes[i] = -1;
    }
  };
  static constexpr Table table{};
  Mask mask, bits;
  __builtin_memcpy(&mask, table.bytes + count * static_cast<int64_t>(sizeof(A)), sizeof(mask));
  __builtin_memcpy(&bits, &v, sizeof(bits));
  bits &= mask;
  V kept;
  __builtin_memcpy(&kept, &bits, sizeof(kept));
  return kept;
}

// --------------------------------------------------------------------------------------------------------------------
// Runs

// What is summed with f: f itself and f * (x - centre).
enum Kind { kDeviation, kGradient, kWeighted };  // f = x - centre, f = g, f = g * weight

template <typename T, Kind kKind>
TORCHBP_INLINE Pack<T> factor(const T* g, const Compute<T>* weight, int64_t i, const Pack<T>& deviation) {
  if constexpr (kKind == kDeviation) return deviation;
  if constexpr (kKind == kGradient) return load_values(g + i);
  if constexpr (kKind == kWeighted) return load_values(g + i) * load(weight + i);
}

template <typename T, Kind kKind>
TORCHBP_INLINE void sum_run(const T* g, const T* x, const Compute<T>* weight, Compute<T> centre, const Runs& runs,
                            double& first, double& second) {
  using A = Compute<T>;
  constexpr int64_t lanes = Width<T>::count;
  Pack<T> a[4] = {}, b[4] = {};
  double rest_a = 0, rest_b = 0;
  for (int64_t row = 0; row < runs.rows; ++row, x += runs.stride, g += kKind == kDeviation ? 0 : runs.stride) {
    int64_t i = 0;
    for (; i + 4 * lanes <= runs.length; i += 4 * lanes)
      for (int u = 0; u < 4; ++u) {
        const Pack<T> d = load_values(x + i + u * lanes) - centre;
        const Pack<T> f = factor<T, kKind>(g, weight, i + u * lanes, d);
        a[u] += f;
        b[u] += f * d;
      }
    for (int u = 0; u < 3; ++u)
      if (i + lanes <= runs.length) {
        const Pack<T> d = load_values(x + i) - centre;
        const Pack<T> f = factor<T, kKind>(g, weight, i, d);
        a[u] += f;
        b[u] += f * d;
        i += lanes;
      }
    if (i == runs.length) continue;
    if (runs.length >= lanes) {
      const int64_t at = runs.length - lanes;
      const Pack<T> d = last_lanes<A>(load_values(x + at) - centre, runs.length - i);
      const Pack<T> f = last_lanes<A>(factor<T, kKind>(g, weight, at, d), runs.length - i);
      a[3] += f;
      b[3] += f * d;
    } else {
      for (; i < runs.length; ++i) {
        const A d = value_of(x[i]) - centre;
        A f = d;
        if constexpr (kKind != kDeviation) f = value_of(g[i]);
        if constexpr (kKind == kWeighted) f *= weight[i];
        rest_a += static_cast<double>(f);
        rest_b += static_cast<double>(f) * static_cast<double>(d);
      }
    }
  }
  first = across<A>((a[0] + a[1]) + (a[2] + a[3])) + rest_a;
  second = across<A>((b[0] + b[1]) + (b[2] + b[3])) + rest_b;
}

// The runs cut into blocks of at most kRun elements: whole rows, or pieces of one.
template <typename T, typename Block>
TORCHBP_INLINE void for_blocks(const Runs& runs, const Block& block) {
  const int64_t rows = larger(1, kRun / larger(1, runs.length));
  for (int64_t row = 0; row < runs.rows; row += rows)
    for (int64_t i = 0; i < runs.length; i += kRun)
      block(row * runs.stride + i, Runs{smaller(rows, runs.rows - row), runs.stride, smaller(kRun, runs.length - i)});
}

// Deviations from infinity would be NaN, and the mean with them.
template <typename A>
TORCHBP_INLINE A finite_or_zero(A v) {
  return v - v == 0 ? v : 0;
}

// Joins the moments of further elements, in their numbers' proportion.
TORCHBP_INLINE void join(Moments& all, double count, const Moments& more, double further) {
  const double total = count + further, difference = more.mean - all.mean;
  all.squares += more.squares + difference * difference * (count * further / total);
  all.mean = (count * all.mean + further * more.mean) / total;
}

// Deviations are taken from the mean so far. Where the block's own mean is far from it, what is lost in
// squares - sum * sum / n is too much, and the block is read again from the cache, with its mean as the centre.
template <typename T>
TORCHBP_INLINE Moments moments_of(const T* x, const Runs& runs) {
  using A = Compute<T>;
  Moments all{0, 0};
  double count = 0;
  A centre = finite_or_zero(value_of(x[0]));
  for_blocks<T>(runs, [&](int64_t at, const Runs& block) {
    const double n = static_cast<double>(block.rows * block.length);
    double sum, squares;
    sum_run<T, kDeviation>(nullptr, x + at, nullptr, centre, block, sum, squares);
    if (sum * sum > 0.75 * squares * n && sum - sum == 0) {
      centre = static_cast<A>(static_cast<double>(centre) + sum / n);
      sum_run<T, kDeviation>(nullptr, x + at, nullptr, centre, block, sum, squares);
    }
    const double own = squares - sum * sum / n;
    const Moments here = {static_cast<double>(centre) + sum / n, own < 0 ? 0 : own};
    if (count == 0)
      all = here;
    else
      join(all, count, here, n);
    count += n;
    if (all.mean - all.mean == 0) centre = static_cast<A>(all.mean);
  });
  return all;
}

template <typename T>
Moments moments(const T* x, const Runs& runs) {
  return moments_of(x, runs);
}

template <typename T, Kind kKind>
TORCHBP_INLINE Sums products_of(const T* g, const T* x, const Compute<T>* weight, Compute<T> centre, const Runs& runs) {
  Sums all{0, 0};
  for_blocks<T>(runs, [&](int64_t at, const Runs& block) {
    double gradient, product;
    sum_run<T, kKind>(g + at, x + at, kKind == kWeighted ? weight + at : nullptr, centre, block, gradient, product);
    all.gradient += gradient;
    all.product += product;
  });
  return all;
}

template <typename T>
Sums products(const T* g, const T* x, Compute<T> centre, const Runs& runs) {
  return products_of<T, kGradient>(g, x, nullptr, centre, runs);
}

// Calls wide(i) for whole vectors, the last of which may overlap the one before, or narrow(i) where none fits.
template <typename T, typename WideStep, typename Step>
TORCHBP_INLINE void along(int64_t length, const WideStep& wide, const Step& single) {
  constexpr int64_t lanes = Width<T>::count;
  int64_t i = 0;
  for (; i + lanes <= length; i += lanes) wide(i);
  if (i == length) return;
  if (length >= lanes)
    wide(length - lanes);
  else
    for (; i < length; ++i) single(i);
}

template <typename T>
void plane_products(const T* g, const T* x, Compute<T> centre, int64_t planes, int64_t length, Sums* found) {
  for (int64_t plane = 0; plane < planes; ++plane, g += length, x += length)
    found[plane] = products_of<T, kGradient>(g, x, nullptr, centre, {1, length, length});
}

template <typename T>
TORCHBP_INLINE void apply_runs(const T* g, const T* x, Compute<T> slope, Compute<T> centre, Compute<T> scale,
                               Compute<T> shift, const Runs& runs, T* out) {
  for (int64_t row = 0; row < runs.rows; ++row) {
    const int64_t at = row * runs.stride;
    const T *gradient = g + (g ? at : 0), *from = x + (x ? at : 0);
    T* to = out + at;
    if (g && x)
      along<T>(
          runs.length,
          [&](int64_t i) {
            store_values(to + i,
                         load_values(gradient + i) * slope + ((load_values(from + i) - centre) * scale + shift));
          },
          [&](int64_t i) {
            set_value(&to[i], value_of(gradient[i]) * slope + ((value_of(from[i]) - centre) * scale + shift));
          });
    else if (x)
      along<T>(
          runs.length, [&](int64_t i) { store_values(to + i, (load_values(from + i) - centre) * scale + shift); },
          [&](int64_t i) { set_value(&to[i], (value_of(from[i]) - centre) * scale + shift); });
    else
      along<T>(
          runs.length, [&](int64_t i) { store_values(to + i, load_values(gradient + i) * slope); },
          [&](int64_t i) { set_value(&to[i], value_of(gradient[i]) * slope); });
  }
}

template <typename T>
void apply(const T* g, const T* x, Compute<T> slope, Compute<T> centre, Compute<T> scale, Compute<T> shift,
           const Runs& runs, T* out) {
  apply_runs(g, x, slope, centre, scale, shift, runs, out);
}

template <typename T>
void plane_apply(const T* g, const T* x, const RowMap<Compute<T>>* maps, int64_t planes, int64_t length, T* out) {
  for (int64_t plane = 0, at = 0; plane < planes; ++plane, at += length) {
    const RowMap<Compute<T>>& map = maps[plane];
    apply_runs(g ? g + at : nullptr, x + at, map.slope, map.centre, map.scale, map.shift, {1, length, length},
               out + at);
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Columns

template <typename M>
TORCHBP_INLINE bool any(const M& mask) {
  int64_t words[sizeof(M) / sizeof(int64_t)], found = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (const int64_t word : words) found |= word;
  return found != 0;
}

// Calls panel<n>(first) for panels of n vectors, as wide as fit, the last of which may overlap the one before; what
// it does must bear repetition. Returns the first column left, which is not 0 only if nothing is left.
template <typename T, typename Panel>
TORCHBP_INLINE int64_t for_panels(int64_t columns, const Panel& panel) {
  constexpr int64_t lanes = Width<T>::count;
  if (columns < lanes) return 0;
  int64_t c = 0;
  for (; c + kWidest * lanes <= columns; c += kWidest * lanes) panel.template of<kWidest>(c);
  for (; c + lanes <= columns; c += lanes) panel.template of<1>(c);
  if (c < columns) panel.template of<1>(columns - lanes);
  return columns;
}

template <typename T>
struct MomentsPanel {
  const T* x;
  Runs runs;
  Compute<T>*centre, *sum, *squares;

  template <int kVectors>
  TORCHBP_INLINE void of(int64_t column) const {
    using A = Compute<T>;
    constexpr int64_t lanes = Width<T>::count;
    const A n = static_cast<A>(runs.rows);
    Pack<T> c[kVectors], a[kVectors], b[kVectors];
    for (int u = 0; u < kVectors; ++u) c[u] = load(centre + column + u * lanes);
    for (int pass = 0; pass < 2; ++pass) {
      for (int u = 0; u < kVectors; ++u) a[u] = b[u] = Pack<T>{};
      const T* row = x + column;
      for (int64_t r = 0; r < runs.rows; ++r, row += runs.stride)
        for (int u = 0; u < kVectors; ++u) {
          const Pack<T> d = load_values(row + u * lanes) - c[u];
          a[u] += d;
          b[u] += d * d;
        }
      if (pass == 1) break;
      auto far = (a[0] * a[0] > b[0] * (n * A(0.75))) & (a[0] - a[0] == A(0));
      for (int u = 1; u < kVectors; ++u) far |= (a[u] * a[u] > b[u] * (n * A(0.75))) & (a[u] - a[u] == A(0));
      if (!any(far)) break;
      for (int u = 0; u < kVectors; ++u) {
        const auto finite = a[u] - a[u] == A(0);
        c[u] = finite ? c[u] + a[u] / n : c[u];
        store(centre + column + u * lanes, c[u]);
      }
    }
    for (int u = 0; u < kVectors; ++u) {
      store(sum + column + u * lanes, a[u]);
      store(squares + column + u * lanes, b[u]);
    }
  }
};

template <typename T>
void column_moments(const T* x, const Runs& runs, double* mean, double* squares, Compute<T>* workspace) {
  using A = Compute<T>;
  const int64_t columns = runs.length;
  A* __restrict__ centre = workspace;
  A* __restrict__ sum = workspace + columns;
  A* __restrict__ square = workspace + 2 * columns;
  for (int64_t c = 0; c < columns; ++c) {
    centre[c] = finite_or_zero(value_of(x[c]));
    mean[c] = squares[c] = 0;
  }
  for (int64_t start = 0; start < runs.rows; start += kRows) {
    const Runs block = {smaller(kRows, runs.rows - start), runs.stride, columns};
    const T* from = x + start * runs.stride;
    for (int64_t c = for_panels<T>(columns, MomentsPanel<T>{from, block, centre, sum, square}); c < columns; ++c)
      for (int pass = 0; pass < 2; ++pass) {
        A a = 0, b = 0;
        for (int64_t r = 0; r < block.rows; ++r) {
          const A d = value_of(from[r * runs.stride + c]) - centre[c];
          a += d;
          b += d * d;
        }
        sum[c] = a;
        square[c] = b;
        if (!(a * a > b * (static_cast<A>(block.rows) * A(0.75)) && a - a == A(0))) break;
        if (pass == 0) centre[c] += a / static_cast<A>(block.rows);
      }
    const double n = static_cast<double>(block.rows), before = static_cast<double>(start);
    const double inverse = 1 / n, kept = before / (before + n), added = n / (before + n), joint = before * added;
    for (int64_t c = 0; c < columns; ++c) {
      const double s = static_cast<double>(sum[c]), offset = s * inverse;
      const double own = static_cast<double>(square[c]) - s * offset, here = static_cast<double>(centre[c]) + offset;
      const double difference = here - mean[c];
      squares[c] += (own < 0 ? 0 : own) + difference * difference * joint;
      mean[c] = kept * mean[c] + added * here;
      const A next = static_cast<A>(mean[c]);
      centre[c] = next - next == 0 ? next : centre[c];
    }
  }
}

template <typename T>
struct ProductsPanel {
  const T *g, *x;
  Runs runs;
  const Compute<T>* centre;
  Compute<T>*gradient, *product;

  template <int kVectors>
  TORCHBP_INLINE void of(int64_t column) const {
    constexpr int64_t lanes = Width<T>::count;
    Pack<T> c[kVectors], a[kVectors], b[kVectors];
    for (int u = 0; u < kVectors; ++u) {
      c[u] = load(centre + column + u * lanes);
      a[u] = b[u] = Pack<T>{};
    }
    const T *from = x + column, *f = g + column;
    for (int64_t r = 0; r < runs.rows; ++r, from += runs.stride, f += runs.stride)
      for (int u = 0; u < kVectors; ++u) {
        const Pack<T> value = load_values(f + u * lanes);
        a[u] += value;
        b[u] += value * (load_values(from + u * lanes) - c[u]);
      }
    for (int u = 0; u < kVectors; ++u) {
      store(gradient + column + u * lanes, a[u]);
      store(product + column + u * lanes, b[u]);
    }
  }
};

template <typename T>
void column_products(const T* g, const T* x, const Compute<T>* centre, const Runs& runs, double* gradient,
                     double* product, Compute<T>* workspace) {
  using A = Compute<T>;
  const int64_t columns = runs.length;
  A* __restrict__ a = workspace;
  A* __restrict__ b = workspace + columns;
  for (int64_t c = 0; c < columns; ++c) gradient[c] = product[c] = 0;
  for (int64_t start = 0; start < runs.rows; start += kRows) {
    const Runs block = {smaller(kRows, runs.rows - start), runs.stride, columns};
    const T *f = g + start * runs.stride, *from = x + start * runs.stride;
    for (int64_t c = for_panels<T>(columns, ProductsPanel<T>{f, from, block, centre, a, b}); c < columns; ++c) {
      A s = 0, p = 0;
      for (int64_t r = 0; r < block.rows; ++r) {
        const A value = value_of(f[r * runs.stride + c]);
        s += value;
        p += value * (value_of(from[r * runs.stride + c]) - centre[c]);
      }
      a[c] = s;
      b[c] = p;
    }
    for (int64_t c = 0; c < columns; ++c) {
      gradient[c] += static_cast<double>(a[c]);
      product[c] += static_cast<double>(b[c]);
    }
  }
}

template <typename T>
void column_apply(const T* g, const T* x, const Compute<T>* slope, const Compute<T>* centre, const Compute<T>* scale,
                  const Compute<T>* shift, const Runs& runs, T* out) {
  for (int64_t row = 0; row < runs.rows; ++row) {
    const int64_t at = row * runs.stride;
    const T *gradient = g + (g ? at : 0), *from = x + (x ? at : 0);
    T* to = out + at;
    if (g && x)
      along<T>(
          runs.length,
          [&](int64_t i) {
            store_values(to + i, load_values(gradient + i) * load(slope + i) +
                                     ((load_values(from + i) - load(centre + i)) * load(scale + i) + load(shift + i)));
          },
          [&](int64_t i) {
            set_value(&to[i],
                      value_of(gradient[i]) * slope[i] + ((value_of(from[i]) - centre[i]) * scale[i] + shift[i]));
          });
    else if (x)
      along<T>(
          runs.length,
          [&](int64_t i) {
            store_values(to + i, (load_values(from + i) - load(centre + i)) * load(scale + i) + load(shift + i));
          },
          [&](int64_t i) { set_value(&to[i], (value_of(from[i]) - centre[i]) * scale[i] + shift[i]); });
    else
      along<T>(
          runs.length, [&](int64_t i) { store_values(to + i, load_values(gradient + i) * load(slope + i)); },
          [&](int64_t i) { set_value(&to[i], value_of(gradient[i]) * slope[i]); });
  }
}

// --------------------------------------------------------------------------------------------------------------------
// Weighted rows

template <typename T>
TORCHBP_INLINE void map_row(const T* x, const Compute<T>* weight, const Compute<T>* bias, const RowMap<Compute<T>>& map,
                            int64_t length, T* out) {
  along<T>(
      length,
      [&](int64_t i) {
        store_values(out + i,
                     ((load_values(x + i) - map.centre) * map.scale + map.shift) * load(weight + i) + load(bias + i));
      },
      [&](int64_t i) {
        set_value(&out[i], ((value_of(x[i]) - map.centre) * map.scale + map.shift) * weight[i] + bias[i]);
      });
}

template <typename T>
void weighted_apply(const T* x, const Compute<T>* weight, const Compute<T>* bias, const RowMap<Compute<T>>& map,
                    int64_t length, T* out) {
  map_row(x, weight, bias, map, length, out);
}

// The moments of up to kTogether runs that are one block each. What is done per run, and not per element, is done
// for all of them at once.
template <typename T>
TORCHBP_INLINE void moments_of_short(const T* x, int64_t runs, int64_t stride, int64_t length, Moments* found) {
  using A = Compute<T>;
  double sum[kTogether] = {}, squares[kTogether] = {}, centre[kTogether] = {};
  const double n = static_cast<double>(length), inverse = 1 / n;
  for (int64_t r = 0; r < runs; ++r) {
    const T* run = x + r * stride;
    A middle = finite_or_zero(value_of(run[0]));
    sum_run<T, kDeviation>(nullptr, run, nullptr, middle, {1, length, length}, sum[r], squares[r]);
    if (sum[r] * sum[r] > 0.75 * squares[r] * n && sum[r] - sum[r] == 0) {
      middle = static_cast<A>(static_cast<double>(middle) + sum[r] * inverse);
      sum_run<T, kDeviation>(nullptr, run, nullptr, middle, {1, length, length}, sum[r], squares[r]);
    }
    centre[r] = static_cast<double>(middle);
  }
  for (int64_t r = 0; r < kTogether; ++r) {
    const double own = squares[r] - sum[r] * sum[r] * inverse;
    found[r].mean = centre[r] + sum[r] * inverse;
    found[r].squares = own < 0 ? 0 : own;
  }
}

template <typename T>
void weighted_forward(const T* x, const Compute<T>* weight, const Compute<T>* bias, double eps, int64_t groups,
                      const Runs& runs, T* out, Compute<T>* mean, Compute<T>* variance) {
  using A = Compute<T>;
  const int64_t length = runs.length;
  const int64_t together = length <= kRun ? smaller(kTogether, larger(1, kBlock / length)) : 1;
  const double inverse = 1 / static_cast<double>(length);
  Moments found[kTogether];
  double spread[kTogether], scale[kTogether];
  for (int64_t start = 0; start < runs.rows; start += together)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t rows = smaller(together, runs.rows - start), at = start * runs.stride + group * length;
      if (!mean)
        for (int64_t r = 0; r < rows; ++r) {
          const T* run = x + at + r * runs.stride;
          found[r] = {0, products_of<T, kGradient>(run, run, nullptr, A(0), {1, length, length}).product};
        }
      else if (length <= kRun)
        moments_of_short(x + at, rows, runs.stride, length, found);
      else
        found[0] = moments_of(x + at, {1, length, length});
      for (int64_t r = 0; r < rows; ++r) {
        spread[r] = found[r].squares * inverse;
        scale[r] = 1 / __builtin_sqrt(spread[r] + eps);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = at + r * runs.stride, to = (start + r) * groups + group;
        map_row(x + from, weight + group * length, bias + group * length, forward_map<A>(found[r].mean, scale[r]),
                length, out + from);
        if (mean) mean[to] = static_cast<A>(found[r].mean);
        variance[to] = static_cast<A>(spread[r]);
      }
    }
}

template <typename T>
Sums weighted_products(const T* g, const T* x, const Compute<T>* weight, Compute<T> centre, int64_t length) {
  return products_of<T, kWeighted>(g, x, weight, centre, {1, length, length});
}

template <typename T>
TORCHBP_INLINE void map_gradient(const T* g, const T* x, const Compute<T>* weight, const RowMap<Compute<T>>& map,
                                 int64_t length, T* out) {
  along<T>(
      length,
      [&](int64_t i) {
        store_values(out + i, load_values(g + i) * (load(weight + i) * map.slope) +
                                  ((load_values(x + i) - map.centre) * map.scale + map.shift));
      },
      [&](int64_t i) {
        set_value(&out[i],
                  value_of(g[i]) * (weight[i] * map.slope) + ((value_of(x[i]) - map.centre) * map.scale + map.shift));
      });
}

template <typename T>
struct WeightPanel {
  const T *g, *x;
  Runs runs;
  const RowMap<Compute<T>>* maps;
  int64_t every;
  Compute<T>*weight, *bias;

  template <int kVectors>
  TORCHBP_INLINE void of(int64_t column) const {
    constexpr int64_t lanes = Width<T>::count;
    Pack<T> a[kVectors] = {}, b[kVectors] = {};
    const T *from = x + column, *f = g + column;
    for (int64_t r = 0; r < runs.rows; ++r, from += runs.stride, f += runs.stride) {
      const Compute<T> centre = maps[r * every].centre, slope = maps[r * every].slope;
      for (int u = 0; u < kVectors; ++u) {
        const Pack<T> value = load_values(f + u * lanes);
        a[u] += value * ((load_values(from + u * lanes) - centre) * slope);
        b[u] += value;
      }
    }
    for (int u = 0; u < kVectors; ++u) {
      store(weight + column + u * lanes, a[u]);
      store(bias + column + u * lanes, b[u]);
    }
  }
};

// Adds the gradients of weight and bias of at most kRows rows.
template <typename T>
TORCHBP_INLINE void add_weight_gradients(const WeightPanel<T>& panel, double* grad_weight, double* grad_bias) {
  using A = Compute<T>;
  const Runs& runs = panel.runs;
  for (int64_t c = for_panels<T>(runs.length, panel); c < runs.length; ++c) {
    A w = 0, b = 0;
    for (int64_t r = 0; r < runs.rows; ++r) {
      const RowMap<A>& map = panel.maps[r * panel.every];
      const A value = value_of(panel.g[r * runs.stride + c]);
      w += value * ((value_of(panel.x[r * runs.stride + c]) - map.centre) * map.slope);
      b += value;
    }
    panel.weight[c] = w;
    panel.bias[c] = b;
  }
  for (int64_t c = 0; c < runs.length; ++c) {
    grad_weight[c] += static_cast<double>(panel.weight[c]);
    grad_bias[c] += static_cast<double>(panel.bias[c]);
  }
}

template <typename T>
void weighted_gradients(const T* g, const T* x, const Compute<T>* weight, const RowMap<Compute<T>>* maps, int64_t every,
                        const Runs& runs, T* out, double* grad_weight, double* grad_bias, Compute<T>* workspace) {
  for (int64_t start = 0; start < runs.rows; start += kRows) {
    const int64_t rows = smaller(kRows, runs.rows - start), at = start * runs.stride;
    for (int64_t r = 0; out && r < rows; ++r)
      map_gradient(g + at + r * runs.stride, x + at + r * runs.stride, weight, maps[(start + r) * every], runs.length,
                   out + at + r * runs.stride);
    if (grad_weight)
      add_weight_gradients(WeightPanel<T>{g + at, x + at, Runs{rows, runs.stride, runs.length}, maps + start * every,
                                          every, workspace, workspace + runs.length},
                           grad_weight, grad_bias);
  }
}

template <typename T>
void weighted_backward(const T* g, const T* x, const Compute<T>* weight, const Compute<T>* mean,
                       const Compute<T>* variance, double eps, int64_t groups, const Runs& runs, T* out,
                       double* grad_weight, double* grad_bias, Compute<T>* workspace) {
  using A = Compute<T>;
  const int64_t length = runs.length;
  const int64_t most = smaller(kRows, larger(8, kBlock / larger(1, length)));
  RowMap<A> maps[kRows];
  double inverses[kRows];
  for (int64_t start = 0; start < runs.rows; start += most)
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t rows = smaller(most, runs.rows - start), at = start * runs.stride + group * length;
      for (int64_t r = 0; r < rows; ++r)
        inverses[r] = 1 / __builtin_sqrt(static_cast<double>(variance[(start + r) * groups + group]) + eps);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t from = at + r * runs.stride, k = (start + r) * groups + group;
        const A centre = mean ? mean[k] : A(0);
        if (!out) {
          maps[r] = {centre, A(0), A(0), static_cast<A>(inverses[r])};
          continue;
        }
        Sums sums = products_of<T, kWeighted>(g + from, x + from, weight + group * length, centre, {1, length, length});
        if (!mean) sums.gradient = 0;
        maps[r] = gradient_map<A>(static_cast<double>(centre), inverses[r], sums, length);
        map_gradient(g + from, x + from, weight + group * length, maps[r], length, out + from);
      }
      if (grad_weight)
        add_weight_gradients(
            WeightPanel<T>{g + at, x + at, Runs{rows, runs.stride, length}, maps, 1, workspace, workspace + length},
            grad_weight + group * length, grad_bias + group * length);
    }
}

template <typename T>
NormalizationKernels<T> kernels_of() {
  return {moments<T>,           products<T>,          apply<T>,
          plane_products<T>,    plane_apply<T>,       column_moments<T>,
          column_products<T>,   column_apply<T>,      weighted_forward<T>,
          weighted_apply<T>,    weighted_products<T>, weighted_backward<T>,
          weighted_gradients<T>};
}

}  // namespace

NormalizationKernels<float> normalization_float() { return kernels_of<float>(); }
NormalizationKernels<double> normalization_double() { return kernels_of<double>(); }
NormalizationKernels<BFloat16> normalization_bfloat16() { return kernels_of<BFloat16>(); }

}  // namespace TORCHBP_ISA
}  // namespace torchbp
