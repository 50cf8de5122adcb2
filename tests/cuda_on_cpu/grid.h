// grid.h: what streams ask of grids.
#pragma once

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;

void RunGrid(const Launch& launch);

}  // namespace cuda_on_cpu
