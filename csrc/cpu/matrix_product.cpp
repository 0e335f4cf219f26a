#include "matrix_product.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

// MKL's, where PyTorch has it: how many threads its products take when this thread calls them. Returns the number
// before, 0 for none of its own.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int);

namespace torchbp {

using at::Tensor;

bool products_stay_on_a_thread() { return &MKL_Set_Num_Threads_Local != nullptr; }

bool products_run_at_full_speed() {
#if defined(__x86_64__)
  static const bool intel = [] {
    __builtin_cpu_init();
    return __builtin_cpu_is("intel") != 0;
  }();
  return intel && products_stay_on_a_thread();
#else
  return false;
#endif
}

namespace {

// While it lives, the products of this thread run on it alone: MKL cuts a product as its number of threads says, also
// where they are not to be had, and so the bits would depend on it.
class OneThread {
 public:
  OneThread() : before_(MKL_Set_Num_Threads_Local(1)) {}
  ~OneThread() { MKL_Set_Num_Threads_Local(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// Runs task(index, workspace) for every index below `tasks`, each thread with a workspace of its own.
template <typename T, typename Task>
void run_products(int64_t tasks, int64_t workspace_elements, const Task& task) {
  run_tasks<T>(tasks, workspace_elements, [&](int64_t index, T* workspace) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const OneThread alone;
    task(index, workspace);
  });
}

constexpr int64_t kTasks = 8;  // that threads may share, where there is enough to do

template <typename T>
at::Tensor matrix_at(const T* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  return at::from_blob(const_cast<T*>(data), {rows, columns}, {row_stride, column_stride},
                       at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
}

// result = left right, and more: a tensor of the result's shape, such as the result itself.
void multiply(at::Tensor result, const at::Tensor& left, const at::Tensor& right) {
  at::cpu::mm_out(result, left, right);
}
void multiply_add(at::Tensor result, const at::Tensor& more, const at::Tensor& left, const at::Tensor& right) {
  at::cpu::addmm_out(result, more, left, right);
}

// Whether the spatial dimensions of a tensor follow each other in memory, so that it has images.
bool images_of(const Tensor& tensor, Images& images) {
  images = {tensor.size(0), 1, tensor.stride(0), tensor.stride(1), 1};
  bool first = true;
  for (int64_t d = tensor.dim() - 1; d >= 2; --d) {
    if (tensor.size(d) == 1) continue;
    if (first)
      images.position_stride = tensor.stride(d);
    else if (tensor.stride(d) != images.positions * images.position_stride)
      return false;
    images.positions *= tensor.size(d);
    first = false;
  }
  if (first) images.position_stride = images.image_stride;
  return true;
}

// The tensor, copied if its spatial dimensions do not follow each other in memory.
Tensor with_images(const Tensor& tensor, Images& images) {
  if (images_of(tensor, images)) return tensor;
  const Tensor dense = tensor.contiguous(tensor.suggest_memory_format());
  images_of(dense, images);
  return dense;
}

// All images as one, where both tensors have their positions at equal distances.
void join(Images& a, Images& b) {
  const auto joins = [](const Images& one) { return one.image_stride == one.positions * one.position_stride; };
  if (a.count > 1 && !(joins(a) && joins(b))) return;
  for (Images* one : {&a, &b}) {
    one->positions *= one->count;
    one->count = 1;
  }
}

// Positions of a block are worth the packing of the matrix; its channels keep the block in the cache.
constexpr int64_t kLeastPositions = 512;
constexpr int64_t kMostPositions = 4096;
constexpr int64_t kMostRowPositions = 16384;
constexpr int64_t kBlockBytes = 1 << 20;
constexpr int64_t kLeastChannels = 16;
constexpr int64_t kMostChannels = 64;
// So few positions are added in pieces, which the built-in does; MKL does it for many by itself.
constexpr int64_t kShortSum = 512;
constexpr int64_t kShortPiece = 64;

struct Blocks {
  int64_t channels, positions;  // of a block
  int64_t across, along;        // blocks of channels, of positions
};

Blocks blocks_of(const Images& target, int64_t groups, int64_t channels, int64_t element) {
  Blocks blocks{};
  if (target.channel_stride == 1) {
    blocks.positions = std::clamp(up(target.positions, kTasks), kLeastPositions, kMostPositions);
    blocks.channels = channels;
  } else {
    blocks.positions = std::min(target.positions, kMostRowPositions);
    const int64_t room = kBlockBytes / (blocks.positions * element);
    blocks.channels =
        std::min(channels, std::clamp(room / kLeastChannels * kLeastChannels, kLeastChannels, kMostChannels));
  }
  blocks.along = up(target.positions, blocks.positions);
  const int64_t others = target.count * groups * blocks.along;
  if (others * up(channels, blocks.channels) < kTasks)
    blocks.channels = std::max(std::min(kLeastChannels, up(channels, 2)), up(channels, up(kTasks, others)));
  blocks.across = up(channels, blocks.channels);
  return blocks;
}

}  // namespace

template <typename T>
void multiply_channels(const Tensor& source, const ChannelMatrix<T>& matrix, const T* bias, int64_t groups,
                       Tensor& target) {
  Images from{}, to{};
  const Tensor dense = with_images(source, from);
  images_of(target, to);
  join(from, to);
  const int64_t inner = source.size(1) / groups, channels = target.size(1) / groups;
  const Blocks blocks = blocks_of(to, groups, channels, static_cast<int64_t>(sizeof(T)));
  const T* sources = dense.const_data_ptr<T>();
  T* targets = target.data_ptr<T>();
  run_products<T>(to.count * groups * blocks.along * blocks.across, 0, [&](int64_t task, T*) {
    const int64_t channel = task % blocks.across * blocks.channels;
    task /= blocks.across;
    const int64_t position = task % blocks.along * blocks.positions;
    task /= blocks.along;
    const int64_t group = task % groups, image = task / groups;
    const int64_t rows = std::min(blocks.channels, channels - channel);
    const int64_t columns = std::min(blocks.positions, to.positions - position);
    const Tensor left = matrix_at(matrix.data + group * matrix.group_stride + channel * matrix.row_stride, rows, inner,
                                  matrix.row_stride, matrix.column_stride);
    const Tensor right = matrix_at(
        sources + image * from.image_stride + group * inner * from.channel_stride + position * from.position_stride,
        inner, columns, from.channel_stride, from.position_stride);
    const int64_t first = group * channels + channel;
    const Tensor result =
        matrix_at(targets + image * to.image_stride + first * to.channel_stride + position * to.position_stride, rows,
                  columns, to.channel_stride, to.position_stride);
    if (bias == nullptr)
      multiply(result, left, right);
    else
      multiply_add(result, matrix_at(bias + first, rows, columns, 1, 0), left, right);
  });
}

template <typename T>
ChannelCorrelation<T>::ChannelCorrelation(const Tensor& input, const Tensor& grad_output, int64_t groups)
    : input_(with_images(input, source_)), grad_output_(with_images(grad_output, gradient_)), groups_(groups) {
  constexpr int64_t kSlicePositions = 4096;
  constexpr int64_t kSumBytes = 4 << 20;
  join(source_, gradient_);
  const int64_t all = source_.count == 1 ? source_.positions : source_.count;
  const int64_t sum = grad_output.size(1) * (input.size(1) / groups) * static_cast<int64_t>(sizeof(T));
  const int64_t most = std::clamp<int64_t>(kSumBytes / sum, 1, kTasks);
  length_ = up(all, std::clamp<int64_t>(source_.count * source_.positions / kSlicePositions, 1, most));
  slices_ = up(all, length_);
}

template <typename T>
void ChannelCorrelation<T>::run(T* sums) const {
  const int64_t inner = input_.size(1) / groups_, channels = grad_output_.size(1) / groups_;
  const int64_t others = slices_ * groups_;
  const int64_t block = std::max(std::min(kMostChannels, up(channels, 2)), up(channels, up(kTasks, others)));
  const int64_t across = up(channels, block);
  const T* from = input_.const_data_ptr<T>();
  const T* grads = grad_output_.const_data_ptr<T>();
  run_products<T>(others * across, 0, [&](int64_t task, T*) {
    const int64_t channel = task % across * block, slice = task / across % slices_, group = task / across / slices_;
    const int64_t rows = std::min(block, channels - channel), first = group * channels + channel;
    const Tensor result = matrix_at(sums + (slice * groups_ * channels + first) * inner, rows, inner, inner, 1);
    const auto add = [&](int64_t image, int64_t begin, int64_t end, bool fresh) {
      const Tensor left = matrix_at(
          grads + image * gradient_.image_stride + first * gradient_.channel_stride + begin * gradient_.position_stride,
          rows, end - begin, gradient_.channel_stride, gradient_.position_stride);
      const Tensor right = matrix_at(from + image * source_.image_stride + group * inner * source_.channel_stride +
                                         begin * source_.position_stride,
                                     end - begin, inner, source_.position_stride, source_.channel_stride);
      if (fresh)
        multiply(result, left, right);
      else
        multiply_add(result, result, left, right);
    };
    const int64_t begin = slice * length_;
    if (source_.count == 1) {
      const int64_t end = std::min(source_.positions, begin + length_);
      const int64_t pieces = end - begin < kShortSum ? up(end - begin, kShortPiece) : 1, size = up(end - begin, pieces);
      for (int64_t from_position = begin; from_position < end; from_position += size)
        add(0, from_position, std::min(end, from_position + size), from_position == begin);
      return;
    }
    for (int64_t image = begin; image < std::min(source_.count, begin + length_); ++image)
      add(image, 0, source_.positions, image == begin);
  });
}

template void multiply_channels(const Tensor&, const ChannelMatrix<float>&, const float*, int64_t, Tensor&);
template void multiply_channels(const Tensor&, const ChannelMatrix<double>&, const double*, int64_t, Tensor&);
template class ChannelCorrelation<float>;
template class ChannelCorrelation<double>;

}  // namespace torchbp
