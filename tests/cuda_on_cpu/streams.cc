// streams.cc: streams of launches, limits of a launch, and what the host asks of a device.
#include <atomic>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cuda_on_cpu.h"
#include "grid.h"

struct CudaStream {
  std::deque<cuda_on_cpu::Launch> waiting;
};

namespace cuda_on_cpu {
namespace {

constexpr unsigned kMaxBlocks = 0x7fffffff;
constexpr size_t kMaxShared = size_t{48} << 10;  // of a kernel that has not asked for more

std::atomic<int> failing{0};
std::atomic<int> shared_of_block{99 << 10};  // at most
std::mutex allowed_mutex;
std::unordered_map<void (*)(), size_t> allowed;  // bytes of shared memory, by kernel
thread_local CudaStream no_stream;

}  // namespace

cudaError_t PutOnStream(cudaStream_t stream, const Launch& launch) {
  if (failing > 0 && --failing == 0) return cudaErrorLaunchOutOfResources;
  if (launch.blocks == 0 || launch.blocks > kMaxBlocks || launch.threads == 0 || launch.threads > kMaxThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (launch.shared > kMaxShared) {
    std::lock_guard<std::mutex> lock(allowed_mutex);
    const auto found = allowed.find(launch.kernel);
    if (found == allowed.end() || launch.shared > found->second) return cudaErrorInvalidValue;
  }
  if (launch.threads % kWarp != 0) {
    Die("a block of " + std::to_string(launch.threads) + " threads, which is no number of warps");
  }
  (stream == nullptr ? no_stream : *stream).waiting.push_back(launch);
  return cudaSuccess;
}

cudaError_t AllowShared(void (*kernel)(), int bytes) {
  if (bytes < 0 || bytes > shared_of_block) return cudaErrorInvalidValue;
  std::lock_guard<std::mutex> lock(allowed_mutex);
  allowed[kernel] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

cudaError_t BlocksAtOnce(int* blocks, void (*kernel)(), size_t shared) {
  constexpr size_t kReserved = 1 << 10;
  std::lock_guard<std::mutex> lock(allowed_mutex);
  const auto found = allowed.find(kernel);
  const size_t most = found == allowed.end() ? kMaxShared : found->second;
  *blocks = shared > most ? 0 : static_cast<int>((shared_of_block + kReserved) / (shared + kReserved));
  return cudaSuccess;
}

void Synchronise(cudaStream_t stream) {
  while (!stream->waiting.empty()) {
    RunGrid(stream->waiting.front());
    stream->waiting.pop_front();
  }
  if (!no_stream.waiting.empty()) Die("a kernel was put on no stream, or the default one, where nobody waits for it");
}

cudaStream_t NewStream() { return new CudaStream; }
void DeleteStream(cudaStream_t stream) {
  if (!stream->waiting.empty()) Die("a stream ends while kernels wait in it");
  delete stream;
}

}  // namespace cuda_on_cpu

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  constexpr int kMultiprocessors = 132;
  *value = attribute == cudaDevAttrMultiProcessorCount ? kMultiprocessors : cuda_on_cpu::shared_of_block.load();
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
  }
  return "unknown error";
}

// For tests: the launch_th launch from now on fails; 0: none does.
extern "C" void cuda_on_cpu_fail(int launch) { cuda_on_cpu::failing = launch; }

// For tests: how many bytes of shared memory a block may have at most.
extern "C" void cuda_on_cpu_shared(int bytes) { cuda_on_cpu::shared_of_block = bytes; }
