//! A review in Phoenix: what is pending is shown there, and what people say of it there is decided here.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::approval::{
    ApprovalError, ApprovalStore, Channel, Content, Decision, Filter, Item, Refused, Seen, State, Verdict,
};
use crate::error::HostError;
use crate::people::Reviewer;
use crate::phoenix::{self, HumanVerdict, Phoenix, PushReport, ReviewSpan};

/// Items that are read at once.
const CHUNK: usize = 1000;

/// What became of what people said.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Polled {
    /// Decisions that were taken.
    pub decided: u64,
    /// Those that had been taken before.
    pub known: u64,
    /// What was not taken, and why.
    pub left: Vec<Left>,
}

/// Something that a person said, and that is no decision.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// On this item.
    pub item: i64,
    /// Why it was left.
    pub why: String,
}

/// Shows what is pending, of one batch or of all.
///
/// # Errors
/// [`HostError::Approval`], [`HostError::Phoenix`].
pub fn push(
    store: &ApprovalStore,
    phoenix: &Phoenix,
    project: &str,
    batch: Option<i64>,
) -> Result<PushReport, HostError> {
    let filter = Filter { state: Some(State::Pending), batch, ..Filter::default() };
    let (mut spans, mut after) = (Vec::new(), None);
    loop {
        let page = store.items(&filter, after, CHUNK)?;
        spans.extend(page.items.iter().map(span));
        after = page.next;
        if after.is_none() {
            return Ok(phoenix::push(phoenix, project, &spans)?);
        }
    }
}

/// One span for one version of one text: what is shown again is the same span.
fn span(item: &Item) -> ReviewSpan {
    let id: String = Sha256::digest(format!("{} {} {}", item.id, item.version, item.content_sha256))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (instruction, output) = match &item.content {
        Content::Instruction { instruction, output, .. } => (instruction.clone(), output.clone()),
        Content::Preference { instruction, chosen, rejected, .. } => {
            (instruction.clone(), format!("better:\n{chosen}\n\nworse:\n{rejected}"))
        }
        Content::Triplet { positive, negative, .. } => {
            (String::new(), format!("answers it:\n{positive}\n\ndoes not:\n{negative}"))
        }
    };
    ReviewSpan {
        span_id: id[..16].to_owned(),
        trace_id: id[16..48].to_owned(),
        item: item.id,
        version: item.version,
        content_sha256: item.content_sha256.clone(),
        input: item.content.input().to_owned(),
        output,
        instruction,
    }
}

/// Decides as people said in Phoenix, on what they saw there. Doing it again changes nothing.
///
/// # Errors
/// [`HostError::Approval`], [`HostError::Phoenix`].
pub fn poll(store: &mut ApprovalStore, phoenix: &Phoenix, project: &str) -> Result<Polled, HostError> {
    let mut polled = Polled::default();
    for said in phoenix::poll(phoenix, project)? {
        let item = said.seen.0;
        match take(store, said)? {
            Taken::Decided => polled.decided += 1,
            Taken::Known => polled.known += 1,
            Taken::Left(why) => polled.left.push(Left { item, why }),
        }
    }
    Ok(polled)
}

enum Taken {
    Decided,
    Known,
    Left(String),
}

fn take(store: &mut ApprovalStore, said: HumanVerdict) -> Result<Taken, ApprovalError> {
    let HumanVerdict { seen: (item, version, content_sha256), user, label, correction, explanation } = said;
    let Some(user) = user else {
        return Ok(Taken::Left(
            "the annotation names nobody: sign in to Phoenix (and poll with a key that may list its users), or give it the \
             person's name as its `identifier`"
                .to_owned(),
        ));
    };
    let who = Reviewer::of_phoenix(&user);
    let decision = match (label.to_lowercase().as_str(), correction) {
        ("rejected", None) => Decision::Reject,
        ("approved", None) => Decision::Approve,
        ("approved" | "rejected", Some(correction)) => {
            let Some(now) = store.item(item)? else { return Ok(Taken::Left(Refused::NoSuchItem { item }.to_string())) };
            match corrected(&now.content, correction) {
                Some(content) if content == now.content => Decision::Approve,
                Some(content) => Decision::Edit(content),
                None => return Ok(Taken::Left("a triplet has no answer to correct: edit it in Tunesmith".to_owned())),
            }
        }
        _ => return Ok(Taken::Left(format!("`{label}` is neither `approved` nor `rejected`"))),
    };
    // By this very annotation, at an earlier time.
    let known = store.events(item)?.iter().any(|event| {
        event.version == version + 1
            && event.channel == Channel::Phoenix
            && event.who == who.name()
            && (event.action == decision.action()
                || matches!(decision, Decision::Approve | Decision::Edit(_)) && event.action.state().trains())
    });
    if known {
        return Ok(Taken::Known);
    }
    let verdict = Verdict { seen: Seen { item, version, content_sha256 }, decision, reason: explanation };
    match store.decide(&who, Channel::Phoenix, &verdict) {
        Ok(_) => Ok(Taken::Decided),
        Err(ApprovalError::Refused(refused)) => Ok(Taken::Left(refused.to_string())),
        Err(error) => Err(error),
    }
}

/// With the answer that it should have had.
fn corrected(content: &Content, correction: String) -> Option<Content> {
    match content.clone() {
        Content::Instruction { instruction, input, .. } => {
            Some(Content::Instruction { instruction, input, output: correction })
        }
        Content::Preference { instruction, input, rejected, .. } => {
            Some(Content::Preference { instruction, input, chosen: correction, rejected })
        }
        Content::Triplet { .. } => None,
    }
}
