//! Decisions, the events that they become, and which of them an item takes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Content;
use super::content::kind_name;

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has decided.
    Pending,
    /// A person approved it as it is.
    Approved,
    /// A person changed it, and so approved what they wrote.
    Edited,
    /// A person rejected it.
    Rejected,
    /// Nobody decided in time.
    Expired,
}

impl State {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Edited, Self::Rejected, Self::Expired];

    /// Its name: `pending`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Edited => "edited",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }

    /// Whether what it is in trains.
    pub fn trains(self) -> bool {
        matches!(self, Self::Approved | Self::Edited)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// What a person saw when they decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The item.
    pub item: i64,
    /// Its version then.
    pub version: u32,
    /// Of its content then.
    pub content_sha256: String,
}

/// What a person decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It trains as it is.
    Approve,
    /// It does not train.
    Reject,
    /// It trains so.
    Edit(Content),
    /// What was decided is taken back; what expired waits again.
    Undo,
}

/// A decision on an item, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// On what.
    pub seen: Seen,
    /// What.
    pub decision: Decision,
    /// Why, in the person's words.
    pub reason: Option<String>,
}

/// By what way a decision came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The pages of `tunesmith serve`.
    Web,
    /// Those of them that were decided many at once, after a sample was looked at.
    WebBulk,
    /// `/api/v1`
    Api,
    /// `tunesmith review`
    Terminal,
    /// Annotations of a Phoenix server.
    Phoenix,
    /// None: the item was generated, or nobody came.
    Tunesmith,
}

impl Channel {
    /// Its name: `web`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::WebBulk => "web_bulk",
            Self::Api => "api",
            Self::Terminal => "terminal",
            Self::Phoenix => "phoenix",
            Self::Tunesmith => "tunesmith",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Web, Self::WebBulk, Self::Api, Self::Terminal, Self::Phoenix, Self::Tunesmith]
            .into_iter()
            .find(|channel| channel.name() == name)
    }
}

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was generated.
    Submitted,
    /// See [`Decision::Approve`].
    Approved,
    /// See [`Decision::Reject`].
    Rejected,
    /// See [`Decision::Edit`].
    Edited,
    /// See [`Decision::Undo`].
    Undone,
    /// Nobody decided in time.
    Expired,
}

impl Action {
    /// All of them.
    const ALL: [Self; 6] = [Self::Submitted, Self::Approved, Self::Rejected, Self::Edited, Self::Undone, Self::Expired];

    /// Its name: `approved`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Edited => "edited",
            Self::Undone => "undone",
            Self::Expired => "expired",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Where an item stands after it.
    pub fn state(self) -> State {
        match self {
            Self::Submitted | Self::Undone => State::Pending,
            Self::Approved => State::Approved,
            Self::Rejected => State::Rejected,
            Self::Edited => State::Edited,
            Self::Expired => State::Expired,
        }
    }
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; later ones are larger.
    pub id: i64,
    /// The item.
    pub item: i64,
    /// The item's version after it.
    pub version: u32,
    /// When; unix milliseconds.
    pub at_ms: i64,
    /// Who; `tunesmith` where nobody did.
    pub who: String,
    /// By what way.
    pub channel: Channel,
    /// What.
    pub action: Action,
    /// Why.
    pub reason: Option<String>,
    /// Of the item's content before; none where there was none.
    pub sha256_before: Option<String>,
    /// And after.
    pub sha256_after: String,
    /// The content after, where it is another than before.
    pub content: Option<Content>,
}

/// Why a decision is not taken. Nothing is stored then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such item.
    #[error("there is no item {item}: list those there are")]
    NoSuchItem {
        /// Its number.
        item: i64,
    },
    /// Somebody was faster.
    #[error("item {item} has changed since you saw it: {who} {did} it; look at it again, then decide")]
    Stale {
        /// The item.
        item: i64,
        /// Who.
        who: String,
        /// What they did: `approved`.
        did: &'static str,
        /// The version that it has now.
        version: u32,
    },
    /// It is decided already.
    #[error("item {item} is {state} already: undo that first", state = state.name())]
    Decided {
        /// The item.
        item: i64,
        /// Where it stands.
        state: State,
    },
    /// There is nothing to take back.
    #[error("item {item} is pending: there is nothing to undo")]
    NothingToUndo {
        /// The item.
        item: i64,
    },
    /// A text of the edited content is blank.
    #[error("`{field}` of item {item} is empty: write what the model should learn, or reject the item")]
    Empty {
        /// The item.
        item: i64,
        /// The field.
        field: &'static str,
    },
    /// Nothing was changed.
    #[error("item {item} is as it was: approve it, or change it")]
    Unchanged {
        /// The item.
        item: i64,
    },
    /// An example of one kind can't become one of another.
    #[error("item {item} is of kind `{is}` and was edited to `{edited}`: keep its kind")]
    OtherKind {
        /// The item.
        item: i64,
        /// Its kind.
        is: &'static str,
        /// The kind that was given.
        edited: &'static str,
    },
    /// The adapter would be judged by what it was trained on.
    #[error(
        "item {item} would be {how} a held-out example, by which the adapter is judged: ask something else, or reject the item"
    )]
    HeldOut {
        /// The item.
        item: i64,
        /// `equal to` or `nearly`.
        how: &'static str,
    },
    /// Both answers of a pair, or both documents of a triplet, are the same.
    #[error("`{one}` and `{other}` of item {item} are the same: nothing is learnt from that")]
    SameSides {
        /// The item.
        item: i64,
        /// A field.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// It is another item's content.
    #[error("item {item} would be a duplicate of item {other}: reject it, or ask something else")]
    Duplicate {
        /// The item.
        item: i64,
        /// The other.
        other: i64,
    },
}

impl Decision {
    /// What it does to an item.
    pub fn action(&self) -> Action {
        match self {
            Self::Approve => Action::Approved,
            Self::Reject => Action::Rejected,
            Self::Edit(_) => Action::Edited,
            Self::Undo => Action::Undone,
        }
    }

    /// Whether an item in that state takes it.
    pub(super) fn check(&self, item: i64, state: State, content: &Content) -> Result<(), Refused> {
        match (self, state) {
            (Self::Undo, State::Pending) => return Err(Refused::NothingToUndo { item }),
            (Self::Undo, _) | (Self::Approve | Self::Reject | Self::Edit(_), State::Pending) => {}
            (_, state) => return Err(Refused::Decided { item, state }),
        }
        let Self::Edit(edited) = self else { return Ok(()) };
        if edited.kind() != content.kind() {
            return Err(Refused::OtherKind { item, is: kind_name(content.kind()), edited: kind_name(edited.kind()) });
        }
        if edited == content {
            return Err(Refused::Unchanged { item });
        }
        check_texts(edited).map_err(|wrong| wrong.of(item))
    }
}

/// What is wrong with an example by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrongTexts {
    Empty(&'static str),
    Same(&'static str, &'static str),
}

impl WrongTexts {
    fn of(self, item: i64) -> Refused {
        match self {
            Self::Empty(field) => Refused::Empty { item, field },
            Self::Same(one, other) => Refused::SameSides { item, one, other },
        }
    }
}

pub(super) fn check_texts(content: &Content) -> Result<(), WrongTexts> {
    if let Some((field, _)) = content.fields().into_iter().find(|(_, text)| text.trim().is_empty()) {
        return Err(WrongTexts::Empty(field));
    }
    let same = |one: &str, other: &str| one.split_whitespace().eq(other.split_whitespace());
    match content {
        Content::Preference { chosen, rejected, .. } if same(chosen, rejected) => {
            Err(WrongTexts::Same("chosen", "rejected"))
        }
        Content::Triplet { positive, negative, .. } if same(positive, negative) => {
            Err(WrongTexts::Same("positive", "negative"))
        }
        _ => Ok(()),
    }
}
