// Scratch memory of the kernels. Every thread keeps one buffer between calls, so that a call neither allocates nor
// touches fresh pages.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchbp {

// Most bytes that a thread keeps; a larger workspace is freed after use.
constexpr size_t kKeptWorkspace = size_t{4} << 20;

// Bytes of scratch, aligned to 64, for as long as this object lives; the calling thread's kept buffer where it is
// free and large enough. Contents are undefined: NaN where PyTorch is asked to fill uninitialised memory. Not to be
// handed to another thread.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return data_; }
  // Undefined again.
  void renew() const;

 private:
  void* data_ = nullptr;
  size_t bytes_;
  void* buffer_ = nullptr;  // the kept buffer in use, if it is one
};

// Frees what the threads keep; a buffer in use is freed when its user is done.
void release_workspaces();

// How many bytes the threads keep.
int64_t workspace_bytes();

}  // namespace torchbp
