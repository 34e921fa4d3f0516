//! Distances of two embeddings and their gradients, in f64.

use crate::config::{Distance, TripletConfig};

/// Below this length a vector is not scaled: torch's `F.normalize`.
const MIN_LENGTH: f64 = 1e-12;

impl Distance {
    /// How far `a` and `b` are apart.
    pub(crate) fn between(self, a: &[f32], b: &[f32]) -> f64 {
        match self {
            Self::Cosine => 1.0 - Cosine::of(a, b).cos,
            Self::Euclidean => euclidean(a, b),
        }
    }

    /// Adds `scale` times the gradient of [`Distance::between`].
    pub(crate) fn add_gradient(self, scale: f64, a: &[f32], b: &[f32], d_a: &mut [f64], d_b: &mut [f64]) {
        match self {
            Self::Cosine => {
                let Cosine { cos, a: length_a, b: length_b } = Cosine::of(a, b);
                let both = length_a.max(MIN_LENGTH) * length_b.max(MIN_LENGTH);
                // A vector that is not scaled has no term of its own length.
                let own = |length: f64| if length > MIN_LENGTH { cos / (length * length) } else { 0.0 };
                let (own_a, own_b) = (own(length_a), own(length_b));
                for (((d_a, d_b), &a), &b) in d_a.iter_mut().zip(d_b).zip(a).zip(b) {
                    let (a, b) = (f64::from(a), f64::from(b));
                    *d_a -= scale * (b / both - own_a * a);
                    *d_b -= scale * (a / both - own_b * b);
                }
            }
            Self::Euclidean => {
                let distance = euclidean(a, b);
                // Equal points have no direction; torch takes the subgradient 0 too.
                let scale = if distance > 0.0 { scale / distance } else { 0.0 };
                for (((d_a, d_b), &a), &b) in d_a.iter_mut().zip(d_b).zip(a).zip(b) {
                    let difference = scale * (f64::from(a) - f64::from(b));
                    *d_a += difference;
                    *d_b -= difference;
                }
            }
        }
    }
}

impl TripletConfig {
    /// Loss of a triplet, whether its positive is nearer than its negative, and how far each is.
    pub(crate) fn figures(self, anchor: &[f32], positive: &[f32], negative: &[f32]) -> [f64; 4] {
        let (to_positive, to_negative) =
            (self.distance.between(anchor, positive), self.distance.between(anchor, negative));
        // Not `max`, which would turn a NaN into 0.
        let slack = f64::from(self.margin) + to_positive - to_negative;
        let loss = if slack < 0.0 { 0.0 } else { slack };
        [loss, f64::from(u8::from(to_positive < to_negative)), to_positive, to_negative]
    }
}

struct Cosine {
    cos: f64,
    /// Lengths.
    a: f64,
    b: f64,
}

impl Cosine {
    fn of(a: &[f32], b: &[f32]) -> Self {
        let (length_a, length_b) = (dot(a, a).sqrt(), dot(b, b).sqrt());
        Self { cos: dot(a, b) / (length_a.max(MIN_LENGTH) * length_b.max(MIN_LENGTH)), a: length_a, b: length_b }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn euclidean(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        let (a, b) = ([3.0, 0.0], [3.0, 4.0]);
        assert!((Distance::Cosine.between(&a, &b) - 0.4).abs() < 1e-15); // cos = 3 / 5
        assert_eq!(Distance::Euclidean.between(&a, &b), 4.0);
        assert_eq!(Distance::Cosine.between(&[0.0, 0.0], &b), 1.0); // torch: a zero vector stays zero
    }

    #[test]
    fn equal_points_have_no_euclidean_gradient() {
        let (mut d_a, mut d_b) = ([0.0; 2], [0.0; 2]);
        Distance::Euclidean.add_gradient(1.0, &[1.0, 2.0], &[1.0, 2.0], &mut d_a, &mut d_b);
        assert_eq!((d_a, d_b), ([0.0; 2], [0.0; 2]));
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let a = [0.5f32, -1.25, 2.0, 0.75];
        let b = [-0.25f32, 1.5, 1.0, 0.5];
        let step = 2f32.powi(-10); // exact in every element
        for distance in [Distance::Cosine, Distance::Euclidean] {
            let (mut d_a, mut d_b) = ([0.0; 4], [0.0; 4]);
            distance.add_gradient(3.0, &a, &b, &mut d_a, &mut d_b);
            for i in 0..4 {
                let moved =
                    |x: [f32; 4], by: f32| std::array::from_fn::<f32, 4, _>(|j| x[j] + if i == j { by } else { 0.0 });
                let slope = |f: &dyn Fn(f32) -> f64| 3.0 * (f(step) - f(-step)) / f64::from(2.0 * step);
                let by_a = slope(&|by| distance.between(&moved(a, by), &b));
                let by_b = slope(&|by| distance.between(&a, &moved(b, by)));
                // The error of a central difference is step^2 = 1e-6 times the third derivative over 6.
                assert!((d_a[i] - by_a).abs() < 3e-6 && (d_b[i] - by_b).abs() < 3e-6, "{distance:?} {i}");
            }
        }
    }
}
