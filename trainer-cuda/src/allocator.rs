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

    pub(crate) fn device(&self) -> &'a D {
        self.device
    }

    /// True where the plan has the buffer.
    pub(crate) fn plans(&self, name: &str) -> bool {
        self.plan.find(name).is_some()
    }

    /// Values of a buffer that has one part.
    fn len(&mut self, name: &str, kind: Kind) -> usize {
        let (buffer, _) = self.plan.find(name).unwrap_or_else(|| panic!("the plan lacks `{name}`"));
        assert_eq!((buffer.kind, buffer.parts.len()), (kind, 1), "`{name}` is planned as another kind");
        self.taken += 1;
        buffer.len()
    }

    /// Activations that the plan has side by side, all of them.
    pub(crate) fn acts<const N: usize>(&mut self, names: [&str; N]) -> [D::Act; N] {
        self.acts_if_planned(names).map(|act| act.unwrap_or_else(|| panic!("the plan lacks one of {names:?}")))
    }

    /// Those of the named activations that the plan has, side by side.
    pub(crate) fn acts_if_planned<const N: usize>(&mut self, names: [&str; N]) -> [Option<D::Act>; N] {
        let Some((buffer, _)) = names.iter().find_map(|name| self.plan.find(name)) else {
            return [const { None }; N];
        };
        assert_eq!(buffer.kind, Kind::Act, "{names:?} are planned as another kind");
        self.taken += 1;
        let part = |name: &str| buffer.parts.iter().find(|part| part.name == name);
        let planned = names.map(|name| part(name).is_some());
        assert_eq!(
            planned.iter().filter(|&&planned| planned).count(),
            buffer.parts.len(),
            "{names:?} are not the whole"
        );
        let widths = names.map(|name| part(name).map_or(0, |part| part.width()));
        let mut planned = planned.into_iter();
        let acts = self.device.alloc_acts(buffer.n_rows, widths, buffer.tail);
        acts.map(|act| planned.next().unwrap_or(false).then_some(act))
    }

    pub(crate) fn act(&mut self, name: &str) -> D::Act {
        let [act] = self.acts([name]);
        act
    }

    pub(crate) fn act_if_planned(&mut self, name: &str) -> Option<D::Act> {
        let [act] = self.acts_if_planned([name]);
        act
    }

    pub(crate) fn f32(&mut self, name: &str) -> D::F32 {
        let len = self.len(name, Kind::F32);
        self.device.alloc_f32(len)
    }

    pub(crate) fn f64(&mut self, name: &str) -> D::F64 {
        let len = self.len(name, Kind::F64);
        self.device.alloc_f64(len)
    }

    pub(crate) fn index(&mut self, name: &str) -> D::Index {
        let len = self.len(name, Kind::Index);
        self.device.alloc_index(len)
    }

    pub(crate) fn mask(&mut self, name: &str) -> D::Mask {
        let len = self.len(name, Kind::Mask);
        self.device.alloc_mask(len)
    }
}
