//! Items with all that is known of them, to be kept elsewhere.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use serde::Serialize;
use utoipa::ToSchema;

use super::{ApprovalStore, Cursor, Filter, Page};
use crate::approval::{ApprovalError, Batch, Event, Item};

/// An item, what made it and of what, and everything that happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Exported {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// `endpoint`, `base_model` or `templates`.
    pub generator: String,
    /// The model that answered, where one did.
    pub model: Option<String>,
    /// The run that waited for it.
    pub run: Option<String>,
    /// Of the real examples that the generator was shown.
    pub parent_span_ids: Vec<String>,
    /// In order; the last one says where the item stands.
    pub events: Vec<Event>,
}

impl ApprovalStore {
    /// The items of `filter` after `after`, with all that is known of them.
    ///
    /// # Errors
    /// [`ApprovalError`].
    pub fn export(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<Exported>, ApprovalError> {
        let Page { items, next } = self.items(filter, after, limit)?;
        let mut batches: BTreeMap<i64, Option<Batch>> = BTreeMap::new();
        let mut exported = Vec::with_capacity(items.len());
        for item in items {
            let batch = match batches.entry(item.batch) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => new.insert(self.batch(item.batch)?).clone(),
            };
            let parents = self.parents(item.id)?;
            let spans: BTreeSet<_> = parents.into_iter().flat_map(|parent| parent.span_ids).collect();
            exported.push(Exported {
                generator: batch.as_ref().map(|batch| batch.generator.clone()).unwrap_or_default(),
                model: batch.as_ref().and_then(|batch| batch.model.clone()),
                run: batch.and_then(|batch| batch.run),
                parent_span_ids: spans.into_iter().collect(),
                events: self.events(item.id)?,
                item,
            });
        }
        Ok(Page { items: exported, next })
    }
}
