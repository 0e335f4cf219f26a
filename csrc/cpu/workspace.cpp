#include "workspace.h"

#include <ATen/Context.h>
#include <c10/core/impl/alloc_cpu.h>
#ifndef _WIN32
#include <pthread.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_set>

namespace torchbp {

namespace {

constexpr size_t kPage = 4096;

// in_use belongs to a workspace or to release_workspaces for a moment; discarded is in_use, to be freed afterwards.
enum class State { idle, in_use, discarded };

// One thread's buffer. Its fields but `state` belong to whoever has moved `state` away from idle.
struct Buffer {
  std::atomic<State> state{State::idle};
  std::atomic<size_t> capacity{0};
  void* data = nullptr;

  void resize(size_t bytes) {
    c10::free_cpu(data);
    data = nullptr;
    capacity = 0;
    if (bytes == 0) return;
    data = c10::alloc_cpu(bytes);
    capacity = bytes;
  }
};

struct Registry {
  std::mutex mutex;
  std::unordered_set<Buffer*> buffers;
};

// Never destroyed: threads may end after the statics of this library.
Registry& registry() {
  static Registry* const all = new Registry;
  return *all;
}

// The calling thread's buffer; null before its first workspace and once the thread is ending.
thread_local Buffer* own = nullptr;
thread_local bool ending = false;

struct AtThreadExit {
  ~AtThreadExit() {
    ending = true;
    if (own == nullptr) return;
    const std::lock_guard<std::mutex> lock(registry().mutex);
    registry().buffers.erase(own);
    own->resize(0);
    delete own;
    own = nullptr;
  }
};

Buffer* own_buffer() {
  if (own == nullptr && !ending) {
    static thread_local AtThreadExit at_thread_exit;
    (void)at_thread_exit;
    auto buffer = std::make_unique<Buffer>();
    const std::lock_guard<std::mutex> lock(registry().mutex);
    registry().buffers.insert(buffer.get());
    own = buffer.release();
  }
  return own;
}

#ifndef _WIN32
void before_fork() { registry().mutex.lock(); }

void after_fork_in_parent() { registry().mutex.unlock(); }

// The child has the forking thread only.
void after_fork_in_child() {
  Registry& all = registry();
  for (Buffer* buffer : all.buffers) {
    if (buffer == own) continue;
    buffer->resize(0);
    delete buffer;
  }
  all.buffers.clear();
  if (own != nullptr) all.buffers.insert(own);
  all.mutex.unlock();
}

[[maybe_unused]] const int fork_handlers = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
#endif

}  // namespace

Workspace::Workspace(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes <= kKeptWorkspace) {
    Buffer* const buffer = own_buffer();
    State idle = State::idle;
    // Not idle inside another task of this thread, or while its memory is being released.
    if (buffer != nullptr && buffer->state.compare_exchange_strong(idle, State::in_use)) {
      try {
        if (buffer->capacity < bytes) buffer->resize((bytes + kPage - 1) / kPage * kPage);
      } catch (...) {
        buffer->state = State::idle;
        throw;
      }
      buffer_ = buffer;
      data_ = buffer->data;
      // A sanitizer is told where this workspace ends.
      ASAN_POISON_MEMORY_REGION(static_cast<char*>(data_) + bytes, buffer->capacity - bytes);
      renew();
      return;
    }
  }
  data_ = c10::alloc_cpu(bytes);
  renew();
}

Workspace::~Workspace() {
  Buffer* const buffer = static_cast<Buffer*>(buffer_);
  if (buffer == nullptr) {
    c10::free_cpu(data_);
    return;
  }
  ASAN_UNPOISON_MEMORY_REGION(data_, buffer->capacity);
  if (buffer->state.exchange(State::in_use) == State::discarded) buffer->resize(0);
  buffer->state = State::idle;
}

// Under torch.use_deterministic_algorithms and torch.utils.deterministic.fill_uninitialized_memory, as at::empty: all
// bytes ones is NaN in every floating type.
void Workspace::renew() const {
  const at::Context& context = at::globalContext();
  if (bytes_ != 0 && context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory())
    std::memset(data_, 0xff, bytes_);
}

void release_workspaces() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  for (Buffer* buffer : registry().buffers) {
    State state = State::idle;
    if (buffer->state.compare_exchange_strong(state, State::in_use)) {
      buffer->resize(0);
      buffer->state = State::idle;
    } else {
      state = State::in_use;
      buffer->state.compare_exchange_strong(state, State::discarded);
    }
  }
}

int64_t workspace_bytes() {
  const std::lock_guard<std::mutex> lock(registry().mutex);
  size_t bytes = 0;
  for (const Buffer* buffer : registry().buffers) bytes += buffer->capacity;
  return static_cast<int64_t>(bytes);
}

}  // namespace torchbp
