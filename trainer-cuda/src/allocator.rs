//! Allocates what a memory plan lists, each buffer once.

use crate::device::Device;
use crate::plan::{Kind, MemoryPlan};

/// Takes buffers out of the plan by name.
pub(crate) struct Allocator<'a, D: Device> {
    device: &'a D,
    plan: &'a MemoryPlan,
    taken: usize,
}

impl<'a, D: Device> Allocator<'a, D> {
    pub(crate) fn new(device: &'a D, plan: &'a MemoryPlan) -> Self {
        Self { device, plan, taken: 0 }
    }

    /// Every planned buffer was taken.
    pub(crate) fn finish(self) {
        assert_eq!(self.taken, self.plan.buffers.len(), "the plan lists a buffer that nobody allocates");
    }

    /// True where the plan has the buffer.
    pub(crate) fn plans(&self, name: &str) -> bool {
        self.plan.get(name).is_some()
    }

    fn planned(&mut self, name: &str, kind: Kind) -> Option<usize> {
        let buffer = self.plan.get(name)?;
        assert_eq!(buffer.kind, kind, "`{name}` is planned as another kind");
        self.taken += 1;
        Some(buffer.len())
    }

    fn len(&mut self, name: &str, kind: Kind) -> usize {
        self.planned(name, kind).unwrap_or_else(|| panic!("the plan lacks `{name}`"))
    }

    pub(crate) fn act(&mut self, name: &str) -> D::Act {
        let len = self.len(name, Kind::Act);
        self.device.alloc_act(len)
    }

    pub(crate) fn act_if_planned(&mut self, name: &str) -> Option<D::Act> {
        let len = self.planned(name, Kind::Act)?;
        Some(self.device.alloc_act(len))
    }

    pub(crate) fn f32(&mut self, name: &str) -> D::F32 {
        let len = self.len(name, Kind::F32);
        self.device.alloc_f32(len)
    }

    pub(crate) fn index(&mut self, name: &str) -> D::Index {
        let len = self.len(name, Kind::Index);
        self.device.alloc_index(len)
    }
}
