//! Limits as people write them, in manifests, configurations and grants: each is there or not, in its own unit.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Limits;

/// Limits of a call, where they are set; `[limits]` of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Wall time of a call.
    pub deadline_ms: Option<NonZeroU32>,
    /// Instructions of a call.
    pub fuel: Option<NonZeroU64>,
    /// Memory of an instance.
    pub memory_mib: Option<NonZeroU32>,
    /// Elements of a table.
    pub table_elements: Option<NonZeroU32>,
    /// What a call may hand back.
    pub output_mib: Option<NonZeroU32>,
    /// Examples for each span of a batch.
    pub records_per_span: Option<NonZeroU32>,
    /// What a call may log.
    pub log_kib: Option<u32>,
    /// The component's size.
    pub component_mib: Option<NonZeroU32>,
    /// Call stack: one for all plugins of an engine, and so no plugin's to ask for.
    #[serde(skip)]
    pub stack_kib: Option<NonZeroU32>,
}

impl LimitSettings {
    /// These, and where one is not set, that of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            deadline_ms: self.deadline_ms.or(other.deadline_ms),
            fuel: self.fuel.or(other.fuel),
            memory_mib: self.memory_mib.or(other.memory_mib),
            table_elements: self.table_elements.or(other.table_elements),
            output_mib: self.output_mib.or(other.output_mib),
            records_per_span: self.records_per_span.or(other.records_per_span),
            log_kib: self.log_kib.or(other.log_kib),
            component_mib: self.component_mib.or(other.component_mib),
            stack_kib: self.stack_kib.or(other.stack_kib),
        }
    }

    /// `base`, with what is set here in its place.
    pub fn over(self, base: Limits) -> Limits {
        Limits {
            deadline: self.deadline_ms.map_or(base.deadline, |ms| Duration::from_millis(ms.get().into())),
            fuel: self.fuel.map(NonZeroU64::get).or(base.fuel),
            memory_bytes: self.memory_mib.map_or(base.memory_bytes, mib),
            table_elements: self.table_elements.map_or(base.table_elements, count),
            output_bytes: self.output_mib.map_or(base.output_bytes, mib),
            records_per_span: self.records_per_span.map_or(base.records_per_span, count),
            log_bytes: self.log_kib.map_or(base.log_bytes, |kib| (kib as usize) << 10),
            component_bytes: self.component_mib.map_or(base.component_bytes, mib),
            stack_bytes: self.stack_kib.map_or(base.stack_bytes, |kib| count(kib) << 10),
        }
    }

    /// `limits`, none of them above what is set here. Where fuel is capped, it is counted.
    pub fn cap(self, limits: Limits) -> Limits {
        let cap = self.over(limits);
        Limits {
            deadline: cap.deadline.min(limits.deadline),
            fuel: cap.fuel.map(|cap| limits.fuel.map_or(cap, |fuel| fuel.min(cap))),
            memory_bytes: cap.memory_bytes.min(limits.memory_bytes),
            table_elements: cap.table_elements.min(limits.table_elements),
            output_bytes: cap.output_bytes.min(limits.output_bytes),
            records_per_span: cap.records_per_span.min(limits.records_per_span),
            log_bytes: cap.log_bytes.min(limits.log_bytes),
            component_bytes: cap.component_bytes.min(limits.component_bytes),
            stack_bytes: cap.stack_bytes.min(limits.stack_bytes),
        }
    }
}

fn mib(mib: NonZeroU32) -> usize {
    count(mib) << 20
}

fn count(number: NonZeroU32) -> usize {
    number.get() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_replaces_or_caps_and_what_is_not_changes_nothing() {
        let set = LimitSettings {
            deadline_ms: NonZeroU32::new(9000),
            memory_mib: NonZeroU32::new(8),
            log_kib: Some(0),
            ..LimitSettings::default()
        };
        let base = Limits::default();
        assert_eq!(
            set.over(base),
            Limits { deadline: Duration::from_secs(9), memory_bytes: 8 << 20, log_bytes: 0, ..base }
        );
        assert_eq!(set.cap(base), Limits { memory_bytes: 8 << 20, log_bytes: 0, ..base });
        assert_eq!(LimitSettings::default().over(base), base);
        assert_eq!(LimitSettings::default().cap(base), base);
        let other = LimitSettings { memory_mib: NonZeroU32::new(1), output_mib: NonZeroU32::new(2), ..set };
        assert_eq!(set.or(other), LimitSettings { output_mib: NonZeroU32::new(2), ..set });
    }

    #[test]
    fn fuel_that_is_capped_is_counted_and_never_more_than_the_cap() {
        let set = |fuel| LimitSettings { fuel: NonZeroU64::new(fuel), ..LimitSettings::default() };
        let base = Limits::default();
        assert_eq!(base.fuel, None);
        assert_eq!(set(100).cap(base).fuel, Some(100));
        assert_eq!(set(100).cap(set(30).over(base)).fuel, Some(30));
        assert_eq!(set(100).cap(set(300).over(base)).fuel, Some(100));
        assert_eq!(set(0).cap(set(300).over(base)).fuel, Some(300));
    }
}
