//! What calls of a plugin took.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// What one call took, or the sum or the largest of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CallCost {
    /// Instantiation, copies in and out, and the plugin's own work.
    #[serde(rename = "wall_s", serialize_with = "seconds")]
    pub wall: Duration,
    /// WebAssembly instructions, about; counted only where [`Limits::fuel`](super::Limits::fuel) is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Linear memory at its largest, over all memories of the instance.
    pub memory_bytes: usize,
    /// Log lines, as they were kept.
    pub log_bytes: usize,
}

/// What all calls of a plugin took so far, those that failed included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// How many calls there were.
    pub calls: u64,
    /// Of all of them.
    pub total: CallCost,
    /// The largest of each figure; they may be of different calls.
    pub max: CallCost,
}

impl Costs {
    pub(super) fn add(&mut self, call: CallCost) {
        let both = |a: Option<u64>, b: Option<u64>, f: fn(u64, u64) -> u64| a.zip(b).map(|(a, b)| f(a, b)).or(a).or(b);
        let Self { calls, total, max } = self;
        *calls += 1;
        *total = CallCost {
            wall: total.wall + call.wall,
            fuel: both(total.fuel, call.fuel, u64::saturating_add),
            memory_bytes: total.memory_bytes.saturating_add(call.memory_bytes),
            log_bytes: total.log_bytes.saturating_add(call.log_bytes),
        };
        *max = CallCost {
            wall: max.wall.max(call.wall),
            fuel: both(max.fuel, call.fuel, u64::max),
            memory_bytes: max.memory_bytes.max(call.memory_bytes),
            log_bytes: max.log_bytes.max(call.log_bytes),
        };
    }
}

fn seconds<S: Serializer>(wall: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(wall.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_summed_and_their_largest_kept() {
        let call = |millis, fuel, memory_bytes| CallCost {
            wall: Duration::from_millis(millis),
            fuel: Some(fuel),
            memory_bytes,
            log_bytes: 1,
        };
        let mut costs = Costs::default();
        costs.add(call(3, 100, 10));
        costs.add(call(2, 300, 5));
        assert_eq!(costs.calls, 2);
        assert_eq!(costs.total, CallCost { log_bytes: 2, ..call(5, 400, 15) });
        assert_eq!(costs.max, call(3, 300, 10));
        assert_eq!(
            serde_json::to_string(&costs.max).unwrap(),
            r#"{"wall_s":0.003,"fuel":300,"memory_bytes":10,"log_bytes":1}"#
        );
    }
}
