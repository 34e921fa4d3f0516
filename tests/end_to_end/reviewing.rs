//! An approval store with something to review in it.

use tunesmith::approval::{ApprovalStore, Candidate, Content, Near, NearTo, NewBatch, Parent};

use crate::home::Home;

pub(crate) const STORE: &str = "approvals.sqlite";

/// What item `index` of a batch says.
pub(crate) fn generated(index: usize) -> Content {
    Content::Instruction {
        instruction: "Route the following query to the appropriate agent".to_owned(),
        input: format!("generated question {index} on the weather in town {index}"),
        output: "weather_agent".to_owned(),
    }
}

fn real(index: usize) -> Content {
    Content::Instruction {
        instruction: "Route the following query to the appropriate agent".to_owned(),
        input: format!("real question {index}"),
        output: "weather_agent".to_owned(),
    }
}

/// The input that the adapter will be judged by.
pub(crate) const HELD_OUT: &str = "what is held out to judge the adapter by, word for word";

/// A batch of `n` items of project `default` for the agent `routing`.
pub(crate) fn batch(n: usize) -> NewBatch {
    let parent = |index| Parent {
        span_ids: vec![crate::spans::span_id(index)],
        trace_id: format!("{index:032x}"),
        content: real(index),
    };
    let candidate = |index| Candidate {
        content: generated(index),
        parents: vec![index % 3, (index + 1) % 3],
        prompt_sha256: format!("{index:064x}"),
        seed: index as u64,
        near: vec![Near { to: NearTo::Training, text: format!("real question {index}"), similarity: 0.25 }],
    };
    let Content::Instruction { instruction, output, .. } = real(0) else { unreachable!() };
    NewBatch {
        project: "default".to_owned(),
        agent_type: "routing".to_owned(),
        run: None,
        generator: "endpoint".to_owned(),
        model: Some("some-model".to_owned()),
        parents: (0..3).map(parent).collect(),
        held_out: vec![Content::Instruction { instruction, input: HELD_OUT.to_owned(), output }],
        candidates: (0..n).map(candidate).collect(),
        expires_at_ms: None,
    }
}

/// A home with a batch of `n` items, numbered from 1.
pub(crate) fn filled(n: usize) -> Home {
    let home = Home::empty();
    ApprovalStore::open_or_create(&home.path(STORE)).unwrap().submit(batch(n)).unwrap();
    home
}

pub(crate) fn store(home: &Home) -> ApprovalStore {
    ApprovalStore::open(&home.path(STORE)).unwrap()
}
