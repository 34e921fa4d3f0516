//! Dropout.

use trainer_cuda::cpu::Cpu;
use trainer_cuda::device::{Device, Dropout};

use crate::support::{Random, on_every_device, output, take};

/// Seeds of three modules, of which the second one's counts.
fn seeds(seed: u64) -> Vec<u32> {
    vec![17, 4, seed as u32, (seed >> 32) as u32, 8, 0]
}

/// Of the second module.
fn dropout(probability: f32, seeds: &Vec<u32>) -> Dropout<'_, Cpu> {
    Dropout { probability, seeds, module: 1 }
}

/// The mask as [`Dropout`] describes it.
fn keep(probability: f32, seed: u64, i: usize) -> bool {
    let mix = |z: u64| {
        let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let bits = mix(mix(seed).wrapping_add((i as u64 / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let half = if i.is_multiple_of(2) { bits as u32 } else { (bits >> 32) as u32 };
    f64::from(half) >= f64::from(probability) * 2f64.powi(32)
}

#[test]
fn forward_zeroes_the_documented_activations_and_backward_the_same() {
    // The third is one value longer than a task.
    for [width, n_tokens] in [[1, 1], [5, 3], [5, 3277], [515, 123]] {
        let len = width * n_tokens;
        let (probability, seed) = (0.3, 90 << 40 | 7);
        let mut random = Random(91);
        let (x, dy, before) = (random.values(len), random.values(len), random.values(len));
        let scale = 1.0 / (1.0 - probability);
        let factor = |i| if keep(probability, seed, i) { scale } else { 0.0 };
        let want_y: Vec<f32> = (0..len).map(|i| x[i] * factor(i)).collect();
        let want_dx: Vec<f32> = (0..len).map(|i| before[i] + dy[i] * factor(i)).collect();
        for result in on_every_device(|cpu| {
            let (mut y, mut dx) = (output(len), before.clone());
            cpu.dropout_forward(&mut y, &x, dropout(probability, &seeds(seed)), width, n_tokens);
            cpu.dropout_backward(&mut dx, &dy, dropout(probability, &seeds(seed)), width, n_tokens);
            vec![take(y, len), take(dx, len)]
        }) {
            assert_eq!(result[0], want_y);
            assert_eq!(result[1], want_dx);
        }
    }
}

/// Which of `len` activations are kept.
fn mask(probability: f32, seed: u64, len: usize) -> Vec<bool> {
    let cpu = Cpu::new(Some(2));
    let mut y = output(len);
    cpu.dropout_forward(&mut y, &vec![1.0; len], dropout(probability, &seeds(seed)), len, 1);
    take(y, len).iter().map(|&y| y != 0.0).collect()
}

#[test]
fn the_share_of_zeroes_is_the_probability() {
    let len = 1_000_000;
    for probability in [0.0, 0.05, 0.1, 0.5, 0.9] {
        let kept = mask(probability, 92, len).iter().filter(|&&kept| kept).count();
        let expected = (1.0 - f64::from(probability)) * len as f64;
        // Five standard deviations: one seed in two million lies outside.
        let deviation = (len as f64 * f64::from(probability) * (1.0 - f64::from(probability))).sqrt();
        assert!((kept as f64 - expected).abs() <= 5.0 * deviation, "{probability}: kept {kept} of {len}");
    }
}

#[test]
fn masks_of_neighbours_and_of_neighbouring_seeds_are_independent() {
    let len = 1_000_000;
    let [a, b] = [93, 94].map(|seed| mask(0.5, seed, len));
    let agree = |x: &[bool], y: &[bool]| x.iter().zip(y).filter(|(x, y)| x == y).count() as f64;
    // Half of them by chance, with a standard deviation of 500; five of those.
    for (what, agreeing) in [
        ("the next seed", agree(&a, &b)),
        ("the next activation", agree(&a, &a[1..])),
        ("the next pair", agree(&a, &a[2..])),
        ("a row of 576 on", agree(&a[576..], &a)),
        ("the next seed, shifted by a pair", agree(&a[2..], &b)),
    ] {
        assert!((agreeing - 500_000.0).abs() < 2_500.0 + 300.0, "{what}: {agreeing} of {len} agree");
    }
}

#[test]
#[should_panic(expected = "a dropout probability of 1")]
fn a_probability_of_one_is_refused() {
    mask(1.0, 0, 1);
}
