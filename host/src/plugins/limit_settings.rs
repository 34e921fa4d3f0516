//! Limits as people write them, in manifests, configurations and grants: each is there or not, in its own unit.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Limits;

/// Limits of a call, where they are set; `[limits]` of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Wall time of a call.
    pub deadline_ms: Option<NonZeroU32>,
    /// Memory of an instance.
    pub memory_mib: Option<NonZeroU32>,
    /// What a call may hand back.
    pub output_mib: Option<NonZeroU32>,
}

impl LimitSettings {
    /// These, and where one is not set, that of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            deadline_ms: self.deadline_ms.or(other.deadline_ms),
            memory_mib: self.memory_mib.or(other.memory_mib),
            output_mib: self.output_mib.or(other.output_mib),
        }
    }

    /// `base`, with what is set here in its place.
    pub fn over(self, base: Limits) -> Limits {
        Limits {
            deadline: self.deadline_ms.map_or(base.deadline, milliseconds),
            memory_bytes: self.memory_mib.map_or(base.memory_bytes, bytes),
            output_bytes: self.output_mib.map_or(base.output_bytes, bytes),
            ..base
        }
    }

    /// `limits`, none of them above what is set here.
    pub fn cap(self, limits: Limits) -> Limits {
        let set = self.over(limits);
        Limits {
            deadline: set.deadline.min(limits.deadline),
            memory_bytes: set.memory_bytes.min(limits.memory_bytes),
            output_bytes: set.output_bytes.min(limits.output_bytes),
            ..limits
        }
    }
}

fn milliseconds(ms: NonZeroU32) -> Duration {
    Duration::from_millis(ms.get().into())
}

fn bytes(mib: NonZeroU32) -> usize {
    (mib.get() as usize) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_replaces_or_caps_and_what_is_not_changes_nothing() {
        let set =
            LimitSettings { deadline_ms: NonZeroU32::new(9000), memory_mib: NonZeroU32::new(8), output_mib: None };
        let base = Limits::default();
        let want = Limits { deadline: Duration::from_secs(9), memory_bytes: 8 << 20, ..base };
        assert_eq!(set.over(base), want);
        assert_eq!(set.cap(base), Limits { memory_bytes: 8 << 20, ..base });
        assert_eq!(LimitSettings::default().over(base), base);
        let other = LimitSettings { memory_mib: NonZeroU32::new(1), output_mib: NonZeroU32::new(2), ..set };
        assert_eq!(set.or(other), LimitSettings { output_mib: NonZeroU32::new(2), ..set });
    }
}
