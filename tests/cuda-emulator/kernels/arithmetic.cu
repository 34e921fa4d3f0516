// Each thread computes a column of results for its own operands: one row of `out` an operation, so that a test reads
// the row beside the same expression. Operations that CUDA C++ has no expression for are written as PTX.
#include "bf16.cuh"

#define PTX2(row, opcode, constraint, T)                                               \
    {                                                                                  \
        T r;                                                                           \
        asm(opcode " %0, %1, %2;" : "=" constraint(r) : constraint(x), constraint(y)); \
        out[(row) * n + i] = r;                                                        \
    }
#define PTX1(row, opcode, constraint, T)                            \
    {                                                               \
        T r;                                                        \
        asm(opcode " %0, %1;" : "=" constraint(r) : constraint(x)); \
        out[(row) * n + i] = r;                                     \
    }

extern "C" __global__ void integers(unsigned* out /* [40, n] */, const unsigned* a, const unsigned* b,
                                    const unsigned* c, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const unsigned x = a[i], y = b[i], z = c[i];
    const int sx = x, sy = y;
    out[0 * n + i] = x + y;
    out[1 * n + i] = x - y;
    out[2 * n + i] = x * y;
    out[3 * n + i] = __umulhi(x, y);
    out[4 * n + i] = __mulhi(sx, sy);
    out[5 * n + i] = x * y + z;
    out[6 * n + i] = y ? x / y : 0;
    out[7 * n + i] = y ? x % y : 0;
    out[8 * n + i] = y ? sx / sy : 0;
    out[9 * n + i] = y ? sx % sy : 0;
    out[10 * n + i] = min(sx, sy);
    out[11 * n + i] = max(x, y);
    out[12 * n + i] = abs(sx);
    out[13 * n + i] = __popc(x);
    out[14 * n + i] = __clz(x);
    out[15 * n + i] = __brev(x);
    out[16 * n + i] = __ffs(x);
    out[17 * n + i] = __byte_perm(x, y, z);
    out[18 * n + i] = __funnelshift_l(x, y, z);
    out[19 * n + i] = __funnelshift_rc(x, y, z);
    out[20 * n + i] = (x & y) | (~x & z);
    PTX2(21, "shl.b32", "r", unsigned)
    PTX2(22, "shr.u32", "r", unsigned)
    PTX2(23, "shr.s32", "r", unsigned)
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(out[24 * n + i]) : "r"(x), "r"(y), "r"(z));
    asm("bfe.u32 %0, %1, %2, %3;" : "=r"(out[25 * n + i]) : "r"(x), "r"(y % 40), "r"(z % 40));
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(out[26 * n + i]) : "r"(x), "r"(y % 40), "r"(z % 40));
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(out[27 * n + i]) : "r"(x), "r"(z), "r"(y % 40), "r"(z % 40));
    asm("add.sat.s32 %0, %1, %2;" : "=r"(out[28 * n + i]) : "r"(x), "r"(y));
    asm("sad.s32 %0, %1, %2, %3;" : "=r"(out[29 * n + i]) : "r"(x), "r"(y), "r"(z));
    asm("bfind.s32 %0, %1;" : "=r"(out[30 * n + i]) : "r"(x));
    asm("mul24.lo.u32 %0, %1, %2;" : "=r"(out[31 * n + i]) : "r"(x), "r"(y));
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(out[32 * n + i]) : "r"(x), "r"(y), "r"(z));
    const unsigned long long wide = (unsigned long long)x * y + ((unsigned long long)z << 32);
    out[33 * n + i] = (unsigned)(wide >> 32);
    const long long signed_wide = (long long)sx * sy;
    out[34 * n + i] = (unsigned)(signed_wide >> 32);
    asm("{ .reg .u32 lo, hi; add.cc.u32 lo, %1, %2; addc.u32 hi, %1, %3; xor.b32 %0, lo, hi; }"
        : "=r"(out[35 * n + i])
        : "r"(x), "r"(y), "r"(z));
    asm("{ .reg .pred p, q; setp.lt.s32 p|q, %1, %2; selp.b32 %0, 1, 2, p; @q add.u32 %0, %0, 4; }"
        : "=r"(out[36 * n + i])
        : "r"(x), "r"(y));
    out[37 * n + i] = (x > y) != (sx > sy);
    out[38 * n + i] = (unsigned short)x * (unsigned short)y;
    out[39 * n + i] = (int)(short)x * (int)(signed char)y;
}

extern "C" __global__ void longs(unsigned long long* out /* [14, n] */, const unsigned long long* a,
                                 const unsigned long long* b, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const unsigned long long x = a[i], y = b[i];
    const long long sx = x, sy = y;
    out[0 * n + i] = x + y;
    out[1 * n + i] = x * y;
    out[2 * n + i] = __umul64hi(x, y);
    out[3 * n + i] = __mul64hi(sx, sy);
    out[4 * n + i] = x / (y | 1);
    out[5 * n + i] = sx % (sy | 1);
    out[6 * n + i] = __clzll(x);
    out[7 * n + i] = __popcll(x);
    out[8 * n + i] = __brevll(x);
    out[9 * n + i] = x << (y & 63);
    out[10 * n + i] = sx >> (y & 63);
    out[11 * n + i] = min(sx, sy);
    out[12 * n + i] = x < y ? 1 : 0;
    out[13 * n + i] = (unsigned)x + ((unsigned long long)(int)y);
}

extern "C" __global__ void floats(float* out /* [44, n] */, const float* a, const float* b, const float* c, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const float x = a[i], y = b[i], z = c[i];
    out[0 * n + i] = __fadd_rn(x, y);
    out[1 * n + i] = __fsub_rn(x, y);
    out[2 * n + i] = __fmul_rn(x, y);
    out[3 * n + i] = x / y;
    out[4 * n + i] = __fmaf_rn(x, y, z);
    out[5 * n + i] = fminf(x, y);
    out[6 * n + i] = fmaxf(x, y);
    out[7 * n + i] = fabsf(x);
    out[8 * n + i] = sqrtf(fabsf(x));
    out[9 * n + i] = __saturatef(x);
    out[10 * n + i] = __fadd_rz(x, y);
    out[11 * n + i] = __fadd_ru(x, y);
    out[12 * n + i] = __fmul_rd(x, y);
    out[13 * n + i] = copysignf(x, y);
    out[14 * n + i] = floorf(x);
    out[15 * n + i] = ceilf(x);
    out[16 * n + i] = truncf(x);
    out[17 * n + i] = rintf(x);
    out[18 * n + i] = (float)__float2int_rn(x);
    out[19 * n + i] = (float)__float2int_rz(x);
    out[20 * n + i] = (float)__float2uint_rz(x);
    out[21 * n + i] = isnan(x) ? 1.0f : isinf(x) ? 2.0f : 0.0f;
    out[22 * n + i] = x < y ? 1.0f : 0.0f;
    out[23 * n + i] = !(x < y) ? 1.0f : 0.0f;
    out[24 * n + i] = x != y ? 1.0f : 0.0f;
    // what a GPU approximates
    out[25 * n + i] = exp2f(x);
    out[26 * n + i] = __expf(x);
    out[27 * n + i] = expf(x);
    out[28 * n + i] = logf(fabsf(x));
    out[29 * n + i] = __logf(fabsf(x));
    out[30 * n + i] = rsqrtf(fabsf(x));
    out[31 * n + i] = tanhf(x);
    out[32 * n + i] = sinf(x);
    out[33 * n + i] = cosf(x);
    out[34 * n + i] = __sinf(x);
    out[35 * n + i] = __cosf(x);
    out[36 * n + i] = __fdividef(x, y);
    out[37 * n + i] = erff(x);
    out[38 * n + i] = log1pf(fabsf(x));
    out[39 * n + i] = powf(fabsf(x), y);
    asm("tanh.approx.f32 %0, %1;" : "=f"(out[40 * n + i]) : "f"(x));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out[41 * n + i]) : "f"(x));
    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(out[42 * n + i]) : "f"(x), "f"(1e-30f));
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(out[43 * n + i]) : "f"(x), "f"(y));
}

extern "C" __global__ void doubles(double* out /* [12, n] */, const double* a, const double* b, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const double x = a[i], y = b[i];
    out[0 * n + i] = x + y;
    out[1 * n + i] = x * y;
    out[2 * n + i] = x / y;
    out[3 * n + i] = fma(x, y, x);
    out[4 * n + i] = sqrt(fabs(x));
    out[5 * n + i] = fmin(x, y);
    out[6 * n + i] = (double)(float)x;
    out[7 * n + i] = (double)(long long)x;
    out[8 * n + i] = floor(x);
    out[9 * n + i] = exp(x);
    out[10 * n + i] = log(fabs(x));
    out[11 * n + i] = __dmul_rz(x, y);
}

// 16-bit floats: the bits of the results.
extern "C" __global__ void halves(unsigned* out /* [19, n] */, const float* a, const float* b, const float* c, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const float x = a[i], y = b[i], z = c[i];
    unsigned xy, yz, zx;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(xy) : "f"(x), "f"(y));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(yz) : "f"(y), "f"(z));
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(zx) : "f"(z), "f"(x));
    out[0 * n + i] = to_bf16(x).bits;
    out[1 * n + i] = xy;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out[2 * n + i]) : "r"(xy), "r"(yz), "r"(zx));
    asm("max.bf16x2 %0, %1, %2;" : "=r"(out[3 * n + i]) : "r"(xy), "r"(yz));
    asm("neg.bf16x2 %0, %1;" : "=r"(out[4 * n + i]) : "r"(xy));
    asm("abs.bf16x2 %0, %1;" : "=r"(out[5 * n + i]) : "r"(xy));
    unsigned short h, k, r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(k) : "f"(y));
    out[6 * n + i] = h;
    asm("add.f16 %0, %1, %2;" : "=h"(r) : "h"(h), "h"(k));
    out[7 * n + i] = r;
    asm("mul.f16 %0, %1, %2;" : "=h"(r) : "h"(h), "h"(k));
    out[8 * n + i] = r;
    asm("fma.rn.f16 %0, %1, %2, %1;" : "=h"(r) : "h"(h), "h"(k));
    out[9 * n + i] = r;
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(h));
    out[10 * n + i] = __float_as_uint(wide);
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(x), "f"(y));
    out[11 * n + i] = pair;
    asm("add.f16x2 %0, %1, %1;" : "=r"(out[12 * n + i]) : "r"(pair));
    asm("mul.f16x2 %0, %1, %1;" : "=r"(out[13 * n + i]) : "r"(pair));
    asm("cvt.rz.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    out[14 * n + i] = r;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(out[15 * n + i]) : "f"(x), "f"(y));
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out[16 * n + i]) : "f"(x));
    asm("{ .reg .pred p; setp.lt.f16 p, %1, %2; selp.u32 %0, 1, 0, p; }" : "=r"(out[17 * n + i]) : "h"(h), "h"(k));
    asm("fma.rn.bf16 %0, %1, %2, %1;" : "=h"(r) : "h"(to_bf16(x).bits), "h"(to_bf16(y).bits));
    out[18 * n + i] = r;
}

// Between integers of all widths and floats.
extern "C" __global__ void conversions(long long* out /* [18, n] */, const float* a, const long long* b, int n) {
    const int i = threadIdx.x;
    if (i >= n) return;
    const float x = a[i];
    const long long y = b[i];
    out[0 * n + i] = (int)x;
    out[1 * n + i] = (unsigned)x;
    out[2 * n + i] = (long long)x;
    out[3 * n + i] = (unsigned long long)x;
    out[4 * n + i] = (short)x;
    out[5 * n + i] = (signed char)y;
    out[6 * n + i] = (unsigned char)y;
    out[7 * n + i] = (short)y;
    out[8 * n + i] = (unsigned short)y;
    out[9 * n + i] = (int)y;
    out[10 * n + i] = (unsigned)y;
    out[11 * n + i] = __float_as_int((float)y);
    out[12 * n + i] = __float_as_int((float)(unsigned)y);
    out[13 * n + i] = __double_as_longlong((double)y);
    out[14 * n + i] = __float_as_int(__int2float_rz((int)y));
    out[15 * n + i] = __float_as_int(__ull2float_ru((unsigned long long)y));
    int saturated;
    asm("cvt.sat.s8.s64 %0, %1;" : "=r"(saturated) : "l"(y));
    out[16 * n + i] = saturated;
    asm("cvt.rpi.s32.f32 %0, %1;" : "=r"(saturated) : "f"(x));
    out[17 * n + i] = saturated;
}
