//! What may train, by the log.

use super::{ApprovalStore, Filter};
use crate::approval::{Action, Approval, ApprovalError, Approved, Content, Item, State};
use crate::plugins::bindings::types::{Example, Lineage};

/// Items that are read at once.
const CHUNK: usize = 1000;

impl ApprovalStore {
    /// Every item of a project and agent that a person approved, as they approved it, in the order of their numbers.
    ///
    /// The log decides: an item's last event has to be an approval by a person, and the item's content the one whose digest that
    /// event has.
    ///
    /// # Errors
    /// [`ApprovalError::Tampered`] where it is another; and what keeps the store from being read.
    pub fn approved(&self, project: &str, agent_type: &str) -> Result<Vec<Approved<Example>>, ApprovalError> {
        let mut approved = Vec::new();
        for state in [State::Approved, State::Edited] {
            let filter = Filter {
                state: Some(state),
                project: Some(project.to_owned()),
                agent_type: Some(agent_type.to_owned()),
                ..Filter::default()
            };
            let mut after = None;
            loop {
                let page = self.items(&filter, after, CHUNK)?;
                for item in page.items {
                    approved.push(self.verified(item)?);
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        approved.sort_by_key(|approved: &Approved<Example>| approved.approval().item);
        Ok(approved)
    }

    fn verified(&self, item: Item) -> Result<Approved<Example>, ApprovalError> {
        let last = self.events(item.id)?.pop();
        let tampered =
            |who: &str| ApprovalError::Tampered { path: self.path.clone(), item: item.id, who: who.to_owned() };
        let Some(event) = last else { return Err(tampered("anybody")) };
        let by_person = matches!(event.action, Action::Approved | Action::Edited);
        if !by_person || event.sha256_after != item.content.sha256() || event.version != item.version {
            return Err(tampered(&event.who));
        }
        let approval = Approval {
            item: item.id,
            content_sha256: event.sha256_after,
            approved_by: event.who,
            approved_at_ms: event.at_ms,
            edited: event.action == Action::Edited,
            generator: String::new(),
            model: None,
        };
        let batch = self.batch(item.batch)?;
        let (generator, model) = batch.map(|batch| (batch.generator, batch.model)).unwrap_or_default();
        let example = self.example(&item.content, item.id)?;
        Ok(Approved::new(example, Approval { generator, model, ..approval }))
    }

    /// Its lineage is that of the real examples which the generator was shown: they tie it to their side of the split.
    fn example(&self, content: &Content, item: i64) -> Result<Example, ApprovalError> {
        let parents = self.parents(item)?;
        let lineage = Lineage {
            span_ids: parents.iter().flat_map(|parent| parent.span_ids.iter().cloned()).collect(),
            trace_id: parents.first().map(|parent| parent.trace_id.clone()).unwrap_or_default(),
            session_id: None,
            annotation_names: Vec::new(),
        };
        Ok(content.example(lineage))
    }
}
