#include "environment.h"

#include <xmmintrin.h>

namespace emulator {
namespace {

// Bits of MXCSR (Intel SDM 1, 10.2.3).
constexpr unsigned FLUSH_TO_ZERO = 1 << 15, DENORMALS_ARE_ZERO = 1 << 6, ROUNDING_SHIFT = 13;

}  // namespace

uint16_t environment_bits(Rounding rounding, bool flush_to_zero) {
    unsigned mode = 0;
    switch (rounding) {
        case Rounding::Nearest: mode = 0; break;
        case Rounding::Down: mode = 1; break;
        case Rounding::Up: mode = 2; break;
        case Rounding::Zero: mode = 3; break;
    }
    return mode << ROUNDING_SHIFT | (flush_to_zero ? FLUSH_TO_ZERO | DENORMALS_ARE_ZERO : 0);
}

void run_in_environment(Warp& warp, const Instruction& in, Mask lanes) {
    const unsigned usual = _mm_getcsr();
    _mm_setcsr(usual | in.environment);
    in.inner(warp, in, lanes);  // through a pointer, so that the compiler moves nothing out of the mode
    _mm_setcsr(usual);
}

}  // namespace emulator
