// check.cc: the CUDA kernels against those of the CPU, over shapes and inputs that lie where kernels break.
//
//     check [PART...]     such as "arcs float"; without one, all that are linked
//
// With CUDA_ON_CPU_STOP in the environment it ends at the first failure.
//
// Built plainly it finds wrong results; watched (watch.h), races and accesses out of bounds, too.
#include "check.h"

namespace jax_rnnt::check {

int failures = 0, comparisons = 0;
cudaStream_t stream = nullptr;

static std::vector<Part>& Parts() {
  static std::vector<Part> parts;
  return parts;
}

Part::Part(const char* name, void (*run)()) : name(name), run(run) { Parts().push_back(*this); }

void Fail(const std::string& what) {
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
  if (std::getenv("CUDA_ON_CPU_STOP") != nullptr) std::exit(1);
}

void Run(const cuda::LaunchResult& result) {
  if (!result.empty()) Fail(result);
  cuda_on_cpu::Synchronise(stream);
}

void ExpectRefused(const cuda::LaunchResult& result, const std::string& what) {
  ++comparisons;
  if (result.empty()) Fail(what + ": no error, though the launch failed");
}

static int Main(int count, char** names) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  stream = cuda_on_cpu::NewStream();
  for (int i = 1; i < count; ++i) {
    bool known = false;
    for (const Part& part : Parts()) known = known || part.name == std::string(names[i]);
    if (!known) Fail(std::string("there is no part ") + names[i]);
  }
  for (const Part& part : Parts()) {
    bool chosen = count == 1;
    for (int i = 1; i < count; ++i) chosen = chosen || part.name == std::string(names[i]);
    if (chosen) part.run();
  }
  cuda_on_cpu::DeleteStream(stream);
  std::printf("%d comparisons, %d failed\n", comparisons, failures);
  return failures == 0 && comparisons > 0 ? 0 : 1;
}

}  // namespace jax_rnnt::check

int main(int count, char** names) { return jax_rnnt::check::Main(count, names); }
