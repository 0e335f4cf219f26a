#include "patches.h"

#include <cstring>
#include <vector>

namespace torchbp {

using at::Tensor;

namespace {

// A dense tensor (N, C, depth, height, width), and the windows of it as rows of `size` elements: contiguous in the
// order (channel, tap), channels last in the order (tap, channel).
struct Windows {
  int64_t batch, channels, size;
  Sizes kernel, stride, count, input;
  bool last;
  int64_t per_image() const { return count[0] * count[1] * count[2]; }
  int64_t all() const { return batch * per_image(); }
};

Windows windows_of(const Geometry& g, int64_t batch, int64_t channels) {
  const int64_t taps = g.kernel[0] * g.kernel[1] * g.kernel[2];
  return {batch, channels, channels * taps, g.kernel, g.stride, g.output, g.input, g.channels_last};
}

// The elements that lie together in a window: a row of taps of a channel, or of pixels.
int64_t run_of(const Windows& w) { return w.last ? w.kernel[2] * w.channels : w.kernel[2]; }

template <int kRun, bool kInto, typename T>
void copy_run(T* element, T* row, int64_t run) {
  if constexpr (kRun > 0) run = kRun;
  if constexpr (kInto)
    std::memcpy(element, row, static_cast<size_t>(run) * sizeof(T));
  else
    std::memcpy(row, element, static_cast<size_t>(run) * sizeof(T));
}

// Copies windows [begin, end) between a tensor and the rows of a matrix, into the tensor or out of it.
template <int kRun, bool kInto, typename T>
void copy_windows(const Windows& w, T* tensor, T* matrix, int64_t begin, int64_t end) {
  const int64_t pixel = w.last ? w.channels : 1, run = run_of(w);
  const int64_t row = w.input[2] * pixel, plane = w.input[1] * row, image = w.input[0] * plane;
  const int64_t blocks = w.last ? 1 : w.channels, block_size = w.size / blocks;  // of taps
  // Planes lie a power of two apart, often: only few at a time keep their lines in the cache.
  constexpr int64_t kTogether = 8;
  for (int64_t q = begin; q < end;) {
    const int64_t n = q / w.per_image(), rest = q % w.per_image(), ow = rest % w.count[2];
    const int64_t ih = rest / w.count[2] % w.count[1] * w.stride[1], id = rest / w.count[2] / w.count[1] * w.stride[0];
    const int64_t many = std::min(end - q, w.count[2] - ow);  // of a row
    T* first = tensor + n * blocks * image + id * plane + ih * row + ow * w.stride[2] * pixel;
    for (int64_t c0 = 0; c0 < blocks; c0 += kTogether)
      for (int64_t i = 0; i < many; ++i)
        for (int64_t c = c0; c < std::min(blocks, c0 + kTogether); ++c) {
          T* to = matrix + i * w.size + c * block_size;
          T* from = first + i * w.stride[2] * pixel + c * image;
          for (int64_t kd = 0; kd < w.kernel[0]; ++kd)
            for (int64_t kh = 0; kh < w.kernel[1]; ++kh, to += run)
              copy_run<kRun, kInto>(from + kd * plane + kh * row, to, run);
        }
    q += many;
    matrix += many * w.size;
  }
}

template <bool kInto, typename T>
void copy_windows(const Windows& w, T* tensor, T* matrix, int64_t begin, int64_t end) {
  switch (run_of(w)) {
    case 2:
      return copy_windows<2, kInto>(w, tensor, matrix, begin, end);
    case 4:
      return copy_windows<4, kInto>(w, tensor, matrix, begin, end);
    case 16:
      return copy_windows<16, kInto>(w, tensor, matrix, begin, end);
    default:
      return copy_windows<0, kInto>(w, tensor, matrix, begin, end);
  }
}

// Windows of a block, whose rows fill part of a cache.
int64_t block_of(const Windows& w, int64_t element) {
  constexpr int64_t kBlockBytes = 1 << 20;
  constexpr int64_t kLeast = 16;
  return std::max(kLeast, std::min(kBlockBytes / (w.size * element), up(w.all(), kTasks)));
}

Tensor dense(const Tensor& tensor, bool last) {
  if (!last) return tensor.contiguous();
  return tensor.contiguous(tensor.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d);
}

// Calls part(matrix, window) for the rows [begin, end) of windows of a dense (N, channels, *) tensor of a value per
// window, as matrices of windows by channels: all of them channels last, those of an image otherwise.
template <typename T, typename Part>
void for_rows(const Windows& w, const T* data, int64_t channels, int64_t begin, int64_t end, const Part& part) {
  if (w.last || w.per_image() == 1)
    return part(matrix_at(data + begin * channels, end - begin, channels, channels, 1), begin);
  const int64_t positions = w.per_image();
  for (int64_t from = begin; from < end;) {
    const int64_t image = from / positions, at = from % positions, count = std::min(end - from, positions - at);
    part(matrix_at(data + image * channels * positions + at, count, channels, 1, positions), from);
    from += count;
  }
}

}  // namespace

template <typename T>
void patches_output(const Geometry& g, const Tensor& input, const Tensor& weight, const T* bias, Tensor& output) {
  const Windows w = windows_of(g, input.size(0), input.size(1));
  const Tensor images = dense(input, w.last), weights = dense(weight, w.last);
  const int64_t channels = weight.size(0), block = block_of(w, sizeof(T));
  T* from = const_cast<T*>(images.const_data_ptr<T>());
  const T* to = output.const_data_ptr<T>();
  const T* factors = weights.const_data_ptr<T>();
  run_products<T>(up(w.all(), block), block * w.size, [&](int64_t task, T* rows) {
    const int64_t begin = task * block, end = std::min(w.all(), begin + block);
    copy_windows<false>(w, from, rows, begin, end);
    const Tensor right = matrix_at(factors, w.size, channels, 1, w.size);
    for_rows(w, to, channels, begin, end, [&](const Tensor& result, int64_t at) {
      const Tensor left = matrix_at(rows + (at - begin) * w.size, result.size(0), w.size, w.size, 1);
      if (bias == nullptr)
        multiply(result, left, right);
      else
        multiply_add(result, matrix_at(bias, result.size(0), channels, 0, 1), left, right);
    });
  });
}

template <typename T>
void patches_input(const Geometry& g, const Tensor& grad_output, const Tensor& weight, const T* bias,
                   Tensor& grad_input) {
  const Windows w = windows_of(g, grad_output.size(0), weight.size(1));
  const Tensor gradients = dense(grad_output, w.last), weights = dense(weight, w.last);
  const int64_t channels = weight.size(0), block = block_of(w, sizeof(T)), taps = w.size / w.channels;
  std::vector<T> biases;  // as a row
  for (int64_t i = 0; bias != nullptr && i < w.size; ++i) biases.push_back(bias[w.last ? i % w.channels : i / taps]);
  bool covered = true;
  for (int d = 0; d < kSpatial; ++d) covered = covered && w.count[d] * w.kernel[d] == w.input[d];
  if (!covered) {
    grad_input.zero_();
    if (bias != nullptr)
      grad_input.transpose(1, -1).add_(
          at::from_blob(const_cast<T*>(bias), {w.channels}, grad_input.options().memory_format(std::nullopt)));
  }
  const T* from = gradients.const_data_ptr<T>();
  T* to = grad_input.data_ptr<T>();
  const T* factors = weights.const_data_ptr<T>();
  run_products<T>(up(w.all(), block), block * w.size, [&](int64_t task, T* rows) {
    const int64_t begin = task * block, end = std::min(w.all(), begin + block);
    const Tensor right = matrix_at(factors, channels, w.size, w.size, 1);
    for_rows(w, from, channels, begin, end, [&](const Tensor& left, int64_t at) {
      const Tensor result = matrix_at(rows + (at - begin) * w.size, left.size(0), w.size, w.size, 1);
      if (bias == nullptr)
        multiply(result, left, right);
      else
        multiply_add(result, matrix_at(biases.data(), left.size(0), w.size, 0, 1), left, right);
    });
    copy_windows<true>(w, to, rows, begin, end);
  });
}

template <typename T>
void patches_weight(const Geometry& g, const Tensor& input, const Tensor& grad_output, Tensor& grad_weight) {
  const Windows w = windows_of(g, input.size(0), input.size(1));
  const Tensor images = dense(input, w.last), gradients = dense(grad_output, w.last);
  const int64_t channels = grad_weight.size(0), block = block_of(w, sizeof(T)), blocks = up(w.all(), block);
  const int64_t elements = grad_weight.numel();
  constexpr int64_t kSumElements = 1 << 20;
  const int64_t each = up(blocks, std::clamp<int64_t>(kSumElements / elements, 2, kTasks)), slices = up(blocks, each);
  const Tensor room =
      slices == 1 ? grad_weight : at::empty({slices, elements}, grad_weight.options().memory_format(std::nullopt));
  T* from = const_cast<T*>(images.const_data_ptr<T>());
  const T* grads = gradients.const_data_ptr<T>();
  T* sums = room.data_ptr<T>();
  run_products<T>(slices, block * w.size, [&](int64_t slice, T* rows) {
    const Tensor result = matrix_at(sums + slice * elements, channels, w.size, w.size, 1);
    bool fresh = true;
    for (int64_t i = slice * each; i < std::min(blocks, (slice + 1) * each); ++i) {
      const int64_t begin = i * block, end = std::min(w.all(), begin + block);
      copy_windows<false>(w, from, rows, begin, end);
      for_rows(w, grads, channels, begin, end, [&](const Tensor& gradient, int64_t at) {
        const Tensor left =
            matrix_at(gradient.const_data_ptr<T>(), channels, gradient.size(0), gradient.stride(1), gradient.stride(0));
        const Tensor right = matrix_at(rows + (at - begin) * w.size, gradient.size(0), w.size, w.size, 1);
        if (fresh)
          multiply(result, left, right);
        else
          multiply_add(result, result, left, right);
        fresh = false;
      });
    }
  });
  if (slices == 1) return;
  T* to = grad_weight.data_ptr<T>();
  run_chunks(elements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = sums[i];
    for (int64_t slice = 1; slice < slices; ++slice)
      for (int64_t i = begin; i < end; ++i) to[i] += sums[slice * elements + i];
  });
}

template void patches_output(const Geometry&, const Tensor&, const Tensor&, const float*, Tensor&);
template void patches_output(const Geometry&, const Tensor&, const Tensor&, const double*, Tensor&);
template void patches_input(const Geometry&, const Tensor&, const Tensor&, const float*, Tensor&);
template void patches_input(const Geometry&, const Tensor&, const Tensor&, const double*, Tensor&);
template void patches_weight<float>(const Geometry&, const Tensor&, const Tensor&, Tensor&);
template void patches_weight<double>(const Geometry&, const Tensor&, const Tensor&, Tensor&);

}  // namespace torchbp
