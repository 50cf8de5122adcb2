// check.h: what the parts of the check share. A part is an operation in one type; a program has those that are linked
// into it, and runs those that it is told to.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../cpp/float16.h"
#include "../../cuda/launch.h"
#include "watch.h"

extern "C" void cuda_on_cpu_fail(int launch);
extern "C" void cuda_on_cpu_only_ends(int64_t blocks);
extern "C" void cuda_on_cpu_shared(int bytes);
extern "C" int64_t cuda_on_cpu_barriers(int64_t* to, int64_t room);

#define CHECK_STRING(x) #x
#define CHECK_EXPANDED(x) CHECK_STRING(x)
#define CHECK_NAME CHECK_EXPANDED(CHECK_TYPE)

namespace jax_rnnt::check {

struct Part {
  const char* name;
  void (*run)();
  Part(const char* name, void (*run)());
};

extern int failures, comparisons;
extern cudaStream_t stream;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();
constexpr int32_t kTiny = std::numeric_limits<int32_t>::min();

// Memory of the device: kernels may touch it from element `first` on, up to its very end. NaN at first, or, where it is
// sparse and may be far larger than the machine's memory, 0.
template <class T>
class Array {
 public:
  explicit Array(int64_t n, bool sparse = false, int64_t first = 0)
      : bytes_(static_cast<size_t>(n) * sizeof(T)), sparse_(sparse), data_(static_cast<T*>(Allocate())), first_(first) {
    cuda_on_cpu::AddDeviceMemory(data_ + first_, bytes_ - static_cast<size_t>(first_) * sizeof(T));
  }
  Array(Array&& other) = delete;
  ~Array() {
    cuda_on_cpu::RemoveDeviceMemory(data_ + first_);
    if (sparse_) {
      munmap(data_, bytes_);
    } else {
      ::operator delete(data_);
    }
  }
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  void* Allocate() const {
    if (sparse_) {
      void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (data != MAP_FAILED) return data;
      std::printf("FAILED: no room for %zu bytes among the addresses\n", bytes_);
      std::exit(1);
    }
    return std::memset(::operator new(bytes_), 0xff, bytes_);
  }

  size_t bytes_;
  bool sparse_;
  T* data_;
  int64_t first_;
};

// What a kernel's result in T may differ from the true value e: what float has lost, and half a unit in the last place.
// Rounding toward zero loses up to a whole one.
template <class T>
double Allowed(double e, double tolerance) {
  const double lost = tolerance * (1 + std::fabs(e));
  if (sizeof(T) > 2 || !std::isfinite(e)) return lost;
  constexpr int kDigits = std::is_same_v<T, Half> ? 11 : 8, kLeast = std::is_same_v<T, Half> ? -24 : -133;
  const int exponent = e == 0 ? kLeast : std::max(std::ilogb(e) - kDigits + 1, kLeast);
  return lost + std::ldexp(0.5, exponent);
}

void Fail(const std::string& what);

// Elementwise; NaN must meet NaN and infinity infinity. The first difference of a call is printed.
template <class T, class E>
void Compare(const T* got, const E* expected, int64_t n, double tolerance, const std::string& what) {
  ++comparisons;
  for (int64_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(Widen(got[i])), e = static_cast<double>(Widen(expected[i]));
    if ((std::isnan(g) && std::isnan(e)) || g == e) continue;
    if (tolerance > 0 && std::fabs(g - e) <= Allowed<T>(e, tolerance)) continue;
    char difference[100];
    std::snprintf(difference, sizeof difference, ", element %lld: %.9g, on the CPU %.9g", static_cast<long long>(i), g,
                  e);
    return Fail(what + difference);
  }
}

void Run(const cuda::LaunchResult& result);  // of a launch on `stream`: it must have succeeded
void ExpectRefused(const cuda::LaunchResult& result, const std::string& what);

// Only so many blocks at the beginning and at the end of each launch are run, while this lives.
struct OnlyEnds {
  explicit OnlyEnds(int64_t blocks) { cuda_on_cpu_only_ends(blocks); }
  ~OnlyEnds() { cuda_on_cpu_only_ends(0); }
};

}  // namespace jax_rnnt::check
