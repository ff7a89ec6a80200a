// Asks the driver, in the order in which things can be missing.
#include <cuda_runtime.h>

#include "cuda/probe.h"

namespace biasgen {
namespace {

constexpr int kOldestMajor = 8;  // the oldest architecture in CMakeLists.txt is sm_80

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

}  // namespace

std::string probe() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no CUDA driver on this machine";
  // Within a major version every driver runs every build, and a newer major version runs an older build.
  if (driver / 1000 < CUDART_VERSION / 1000)
    return "the driver is too old for this build: it supports CUDA " + version(driver) + ", the build is for CUDA " +
           version(CUDART_VERSION);
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && devices == 0)) return "the CUDA driver sees no device";
  if (error != cudaSuccess) return std::string("the CUDA driver does not start: ") + cudaGetErrorString(error);
  int device = 0, major = 0;
  cudaGetDevice(&device);
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess || major < kOldestMajor)
    return "device " + std::to_string(device) + " has compute capability " + std::to_string(major) +
           ".x, this build needs " + std::to_string(kOldestMajor) + ".0 or newer";
  return "";
}

}  // namespace biasgen
