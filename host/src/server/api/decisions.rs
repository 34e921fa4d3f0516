//! Decisions, one by one or many in one transaction.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::caller::Caller;
use super::problem::{DecisionProblems, Problem};
use super::query::{MOST, number};
use crate::approval::{Channel, Content, Decision, Item, Seen, Verdict};
use crate::people::{Reviewer, Role};
use crate::server::Shared;
use crate::server::body::{self, Compression};

/// Of a body; a decision with an edited content of some pages is a hundredth of it.
const MOST_BYTES: usize = 1 << 20;

/// A decision on the item of the path.
#[derive(ToSchema)]
#[allow(dead_code)] // the document's; what is read is told apart field by field
pub(super) struct NewDecision {
    /// The item's version, as it was seen.
    version: u32,
    /// The item's digest, as it was seen.
    content_sha256: String,
    decision: What,
    /// What it should say: with `edit`, and only there.
    content: Option<Content>,
    /// Why.
    reason: Option<String>,
}

/// A decision on one of many items.
#[derive(ToSchema)]
#[allow(dead_code)] // as above
pub(super) struct ItemDecision {
    /// The item's number.
    item: i64,
    #[schema(inline)]
    #[serde(flatten)]
    decision: NewDecision,
}

/// What is decided.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum What {
    /// It trains as it is.
    Approve,
    /// It does not train.
    Reject,
    /// It trains as `content` says.
    Edit,
    /// What was decided is taken back.
    Undo,
}

/// What became of a decision.
#[derive(Serialize, ToSchema)]
pub(super) struct Outcome {
    /// The item's number.
    item: i64,
    /// The item as it is then, where it took the decision.
    decided: Option<Item>,
    /// Why it did not, elsewhere.
    problem: Option<Problem>,
}

/// Decide on an item: it is on the disk when the answer comes
#[utoipa::path(
    post,
    path = "/items/{id}/decision",
    params(("id" = i64, Path)),
    request_body = NewDecision,
    responses((status = 200, body = Item), DecisionProblems)
)]
pub(super) async fn decide(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
    request: Request,
) -> Result<Json<Item>, Problem> {
    let (caller, reviewer, value) = read(&shared, request).await?;
    let verdict = verdict("", value, Some(number(id)?))?;
    let write = move |store: &mut crate::approval::ApprovalStore| store.decide(&reviewer, Channel::Api, &verdict);
    Ok(Json(caller.tenant.approvals.write(write).await?))
}

/// Decide on up to 200 items at once: those that take it are on the disk when the answer comes, all in one transaction
#[utoipa::path(
    post,
    path = "/decisions",
    request_body = Vec<ItemDecision>,
    responses((status = 200, body = Vec<Outcome>, description = "In the order of the decisions"), DecisionProblems)
)]
pub(super) async fn decide_all(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Json<Vec<Outcome>>, Problem> {
    let (caller, reviewer, value) = read(&shared, request).await?;
    let Value::Array(values) = value else { return Err(Problem::malformed("body", "not a list of decisions")) };
    if values.len() > MOST {
        return Err(Problem::malformed("body", format!("{} decisions are more than {MOST}", values.len())));
    }
    let each = |(index, value)| verdict(&format!("[{index}]."), value, None);
    let verdicts = values.into_iter().enumerate().map(each).collect::<Result<Vec<_>, _>>()?;
    let items: Vec<_> = verdicts.iter().map(|verdict| verdict.seen.item).collect();
    let write = move |store: &mut crate::approval::ApprovalStore| store.decide_all(&reviewer, Channel::Api, &verdicts);
    let outcomes = caller.tenant.approvals.write(write).await?;
    let outcome = |(item, outcome)| match outcome {
        Ok(decided) => Outcome { item, decided: Some(decided), problem: None },
        Err(refused) => Outcome { item, decided: None, problem: Some(Problem::from(refused)) },
    };
    Ok(Json(items.into_iter().zip(outcomes).map(outcome).collect()))
}

/// Who decides, and the body. A client that is refused may still be sending: what it sends is read.
async fn read(shared: &Shared, request: Request) -> Result<(Caller, Reviewer, Value), Problem> {
    let (head, body) = request.into_parts();
    let admitted = || -> Result<_, Problem> {
        let (tenant, person) = shared.tenants.person(&head.headers)?;
        person.check(Role::Reviewer)?;
        let reviewer = person.reviewer()?;
        let compression = Compression::of(&head.headers)?;
        Ok((Caller { tenant, person }, reviewer, compression))
    };
    let (caller, reviewer, compression) = match admitted() {
        Ok(admitted) => admitted,
        Err(problem) => {
            body::discard(body, MOST_BYTES).await;
            return Err(problem);
        }
    };
    let mut room = caller.tenant.budget.room();
    let bytes = body::read(body, MOST_BYTES, shared.config.request_timeout, &mut room).await?;
    let bytes = body::inflate(bytes, compression, MOST_BYTES, &mut room)?;
    let value = serde_json::from_slice(&bytes).map_err(Problem::not_json)?;
    Ok((caller, reviewer, value))
}

/// `place` is where in the body; `item` is what the path says.
fn verdict(place: &str, value: Value, item: Option<i64>) -> Result<Verdict, Problem> {
    let Value::Object(map) = value else {
        let name = place.trim_end_matches('.');
        return Err(Problem::malformed(if name.is_empty() { "body" } else { name }, "not an object of a decision"));
    };
    let mut fields = Fields { place, map };
    let item = match item {
        Some(item) => item,
        None => fields.needed("item")?,
    };
    let seen = Seen { item, version: fields.needed("version")?, content_sha256: fields.needed("content_sha256")? };
    let what = fields.needed("decision")?;
    let (content, reason) = (fields.take("content")?, fields.take("reason")?);
    if let Some(unknown) = fields.map.keys().next() {
        return Err(fields.wrong(unknown, "no field of a decision"));
    }
    let decision = match (what, content) {
        (What::Edit, Some(content)) => Decision::Edit(content),
        (What::Edit, None) => return Err(fields.wrong("content", "not there: what should it say")),
        (_, Some(_)) => return Err(fields.wrong("content", "only with `edit`")),
        (What::Approve, None) => Decision::Approve,
        (What::Reject, None) => Decision::Reject,
        (What::Undo, None) => Decision::Undo,
    };
    Ok(Verdict { seen, decision, reason })
}

/// The fields of an object, each named where it is wrong.
struct Fields<'p> {
    place: &'p str,
    map: Map<String, Value>,
}

impl Fields<'_> {
    fn needed<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Problem> {
        self.take(name)?.ok_or_else(|| self.wrong(name, "not there"))
    }

    /// Null is absent.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let value = self.map.shift_remove(name).filter(|value| !value.is_null());
        value.map(|value| serde_json::from_value(value).map_err(|error| self.wrong(name, error))).transpose()
    }

    fn wrong(&self, name: &str, what: impl std::fmt::Display) -> Problem {
        Problem::malformed(&format!("{}{name}", self.place), what)
    }
}
