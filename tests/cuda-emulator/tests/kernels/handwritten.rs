//! PTX that NVRTC does not make of our kernels, but may.

use half::bf16;

use crate::common::*;

/// A kernel of one pointer, which is in `%rd1`.
fn module(target: u32, body: &str) -> String {
    format!(
        ".version 8.0
.target sm_{target}
.address_size 64
.visible .entry k(.param .u64 out)
{{
.reg .pred %p<4>;
.reg .b32 %r<9>;
.reg .b64 %rd<4>;
ld.param.u64 %rd0, [out];
cvta.to.global.u64 %rd1, %rd0;
mov.u32 %r0, %tid.x;
{body}
ret;
}}
"
    )
}

/// What the kernel makes of zeros, a number a thread.
fn run<const THREADS: usize>(target: u32, body: &str) -> [u32; THREADS] {
    let gpu = Gpu::new();
    let out = gpu.zeros::<u32>(THREADS);
    gpu.kernel(&module(target, body), "k").run(&gpu, 1, THREADS as u32, &[&out]);
    out.download().try_into().unwrap()
}

const STORE: &str = "mul.wide.u32 %rd2, %r0, 4;\nadd.u64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r5;";

/// `%r5` is the number of the last round that went on, which a thread leaves in the next one.
#[test]
fn a_copy_outlives_what_it_was_copied_from() {
    let body = format!(
        "mov.u32 %r1, 100;
NEXT:
add.u32 %r1, %r1, 1;
mul.lo.u32 %r2, %r1, 10;
sub.u32 %r3, %r1, %r0;
setp.gt.u32 %p1, %r3, 101;
@%p1 bra DONE;
mov.u32 %r5, %r2;
bra NEXT;
DONE:
{STORE}"
    );
    assert_eq!(run(80, &body), [1010, 1020, 1030, 1040]);
}

#[test]
fn pairs_of_bf16_are_added_atomically() {
    let pair = |x: f32, y: f32| u32::from(bf16::from_f32(x).to_bits()) | u32::from(bf16::from_f32(y).to_bits()) << 16;
    let body = format!("mov.b32 %r1, {};\nred.global.add.noftz.bf16x2 [%rd1], %r1;", pair(0.5, -2.0));
    assert_eq!(run::<20>(90, &body)[0], pair(10.0, -40.0));
    let refused = Gpu::new().module(&module(80, &body)).err().unwrap();
    assert!(message(&refused).contains("it needs .target sm_90, not sm_80"), "{refused:?}");
}
