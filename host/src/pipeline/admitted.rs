use std::borrow::Borrow;

use crate::approval::{Approval, Approved};
use crate::plugins::bindings::types::Example;

/// An example that may train: the extractor gave it from spans that people judged, or it was generated and a person approved it.
///
/// There is no other way into a training set: the trainer takes nothing but these.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    example: Example,
    approval: Option<Approval>,
}

impl Admitted {
    /// Of the extractor, from spans.
    pub(super) fn extracted(example: Example) -> Self {
        Self { example, approval: None }
    }

    /// The example.
    pub fn example(&self) -> &Example {
        &self.example
    }

    /// Who approved it, where it was generated.
    pub fn approval(&self) -> Option<&Approval> {
        self.approval.as_ref()
    }
}

impl From<Approved<Example>> for Admitted {
    fn from(approved: Approved<Example>) -> Self {
        let (example, approval) = approved.into_parts();
        Self { example, approval: Some(approval) }
    }
}

impl Borrow<Example> for Admitted {
    fn borrow(&self) -> &Example {
        &self.example
    }
}
