//! Bugs planted in a kernel that ships: the emulated GPU says what is wrong, and where, in the tests as they always run.

use crate::child::run;

const SFT_LOSS: &str = include_str!("../../kernels/ptx/sft_loss.ptx");
const SOURCE: &str = include_str!("../../kernels/sft_loss.cu");
const HEADER: &str = include_str!("../../kernels/common.cuh");

/// The line of `code` in a source, from 1.
fn line(source: &str, code: &str) -> usize {
    1 + source.lines().position(|line| line.contains(code)).expect("the code")
}

/// What the emulated GPU says of `sft_loss` with `ptx` in the place of its own; the test of its numbers has to fail.
fn message(ptx: &str, checks: &str) -> String {
    assert_ne!(ptx, SFT_LOSS, "nothing is planted");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("sft_loss.ptx"), ptx).expect("written");
    let folder = folder.path().to_str().expect("its name");
    let (passed, output) =
        run(&["sft_losses_agree"], &[("CUDA_EMULATOR_OVERRIDE", folder), ("CUDA_EMULATOR_CHECK", checks)]);
    assert!(!passed, "{output}");
    let message = output.lines().find_map(|line| line.split_once("cuda-emulator: ")).expect(&output).1;
    assert!(output.contains(&format!("message: \"{message}\"")), "the device's failure is not that: {output}");
    message.to_owned()
}

#[test]
fn nothing_planted_is_no_failure() {
    let (passed, output) = run(&["sft_losses_agree"], &[]);
    assert!(passed, "{output}");
}

#[test]
fn a_write_out_of_bounds_is_found() {
    // Eight sums further.
    let (before, after) = SFT_LOSS.split_once("st.global.f64 \t[%rd").expect("the store of the sum");
    let (register, after) = after.split_once(']').expect("its address");
    let expected = format!(
        "kernel `sft_loss`, block (0,0,0), thread (0,0,0), sft_loss.cu:{}: out-of-bounds write of 8 bytes: byte 64 of `f64 values` \
         (64 bytes)",
        line(SOURCE, ") sums[0] += loss;")
    );
    assert_eq!(message(&format!("{before}st.global.f64 \t[%rd{register}+64]{after}"), "all"), expected);
}

#[test]
fn a_missing_barrier_is_found() {
    // The one behind the warps' sums: the first warp reads that of the second before it is written. With all checks on, the
    // first thing that is said is that it has no value yet.
    let expected = format!(
        "kernel `sft_loss`, block (0,0,0), thread (32,0,0), common.cuh:{}: data race: byte 8 of shared `partial` (256 bytes) is \
         written, and thread (1,0,0) read it, with nothing between that orders them",
        line(HEADER, "if (lane == 0) partial[warp] = x;")
    );
    assert_eq!(message(&SFT_LOSS.replacen("bar.sync", "// bar.sync", 1), "races"), expected);
}
