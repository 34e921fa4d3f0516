//! Tables of the rotary embedding.

use crate::config::RopeScaling;
use std::f64::consts::TAU;

/// What rotates a head by its token's position.
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// Width of a head.
    pub head_dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// Cosines and sines, each `[max_position, head_dim / 2]`.
///
/// Frequencies and angles are rounded to f32 where transformers rounds them (`inv_freq`, then
/// `inv_freq * position`): at position 8,191 an f64 angle would differ by up to 2e-4.
pub fn tables(rope: &Rope, max_position: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies = inverse_frequencies(rope);
    let angles = (0..max_position).flat_map(|position| frequencies.iter().map(move |f| f64::from(position as f32 * f)));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}

/// `rope_theta ^ (-2 i / head_dim)`, scaled as the configuration says. `[head_dim / 2]`
fn inverse_frequencies(rope: &Rope) -> Vec<f32> {
    let exponent = |i: usize| (2 * i) as f64 / rope.head_dim as f64;
    let plain = (0..rope.head_dim / 2).map(|i| rope.theta.powf(-exponent(i)));
    let scaled = plain.map(|frequency| match rope.scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            // transformers `_compute_llama3_parameters`: long waves are divided, short ones kept, and the
            // band between is blended.
            let turns = original_max_position_embeddings as f64 * frequency / TAU;
            let blend = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            (1.0 - blend) * frequency / factor + blend * frequency
        }
    });
    scaled.map(|frequency| frequency as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_divides_long_waves_and_keeps_short_ones() {
        let mut rope = Rope { head_dim: 16, theta: 500_000.0, scaling: RopeScaling::None };
        let plain = inverse_frequencies(&rope);
        rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let scaled = inverse_frequencies(&rope);
        assert_eq!(scaled[0], plain[0]); // wavelength 6.3: well below 64 / 4
        assert_eq!(scaled[7], plain[7] / 8.0); // wavelength 608,000: well above 64
        assert!(scaled[1] < plain[1] && scaled[1] > plain[1] / 8.0); // wavelength 32: between
    }
}
