//! How often, and after which pauses, a request is tried again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Before attempt `attempt`, counted from 1: none before the first; then doubling, of which a random half to whole, so that
/// hosts that failed together do not come back together. A server that names a pause (`Retry-After`) gets it.
pub(crate) fn pause(attempt: u32, named: Option<Duration>) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let whole = FIRST_PAUSE * 2u32.saturating_pow(attempt - 2);
    named.unwrap_or_else(|| whole.mul_f64(0.5 + random() / 2.0)).min(LONGEST_PAUSE)
}

/// In 0..1: the standard library seeds each hasher anew.
fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_within_their_jitter_and_end_at_the_longest() {
        assert_eq!(pause(1, None), Duration::ZERO);
        for (attempt, whole) in [(2, 0.5), (3, 1.0), (4, 2.0), (5, 4.0), (40, 30.0)] {
            let pause = pause(attempt, None).as_secs_f64();
            assert!((whole / 2.0..=whole).contains(&pause), "attempt {attempt}: {pause}");
        }
        assert_eq!(pause(2, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(2, Some(Duration::from_secs(700))), LONGEST_PAUSE);
    }
}
