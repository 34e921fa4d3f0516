//! The agents that are known without configuration, and the default verdict rules.

use super::options::{AgentOptions, Match};

/// Labels that approve, compared without regard to case.
pub(super) const APPROVED_LABELS: [&str; 9] =
    ["approved", "approve", "accepted", "correct", "good", "thumbs_up", "thumbs-up", "👍", "✅"];
/// Labels that reject.
pub(super) const REJECTED_LABELS: [&str; 10] =
    ["rejected", "reject", "declined", "incorrect", "wrong", "bad", "thumbs_down", "thumbs-down", "👎", "❌"];
/// Keys of annotation metadata that hold a corrected output, the first that is there winning. `response` is last: review
/// tools put the judged output itself there as often as a better one, and an equal one is no correction.
pub(super) const CORRECTION_KEYS: [&str; 5] =
    ["corrected_output", "correction", "corrected_response", "expected_output", "response"];
/// The annotation that is a verdict.
pub(super) const ANNOTATION_NAMES: [&str; 1] = ["human_approval"];
/// What our own training and evaluation runs put on their spans, and what reviews in Phoenix do.
pub(super) const OWN_SPAN_ATTRIBUTES: [&str; 3] = ["tunesmith.run", "tunesmith.evaluation", "tunesmith.item"];

/// The agent that an embedding model is trained for where none is named.
pub(super) const SEARCH: &str = "search";

/// The built-in rules of an agent type, where it has some.
pub(super) fn built_in(agent_type: &str) -> Option<AgentOptions> {
    if agent_type == SEARCH {
        return Some(search());
    }
    let (instruction, agent_name, span_name) = match agent_type {
        "routing" => ("Route the following query to the appropriate agent", "routing_agent", "RoutingAgent.route"),
        "profile_selection" => (
            "Select the most suitable profile for the following query",
            "profile_selection_agent",
            "ProfileSelectionAgent.select_profiles",
        ),
        "entity_extraction" => (
            "Extract the entities from the following query",
            "entity_extraction_agent",
            "EntityExtractionAgent.extract",
        ),
        _ => return None,
    };
    Some(AgentOptions {
        instruction: Some(instruction.to_owned()),
        matches: Some(vec![
            Match::Attribute { attribute: "agent.name".to_owned(), equals: agent_name.to_owned() },
            Match::Name { name: agent_name.to_owned() },
            Match::NameSuffix { name_suffix: span_name.to_owned() },
        ]),
        ..AgentOptions::default()
    })
}

/// Triplets have no instruction, but a search agent's answers may train a language model too.
fn search() -> AgentOptions {
    let attribute = |key: &str, value: &str| Match::Attribute { attribute: key.to_owned(), equals: value.to_owned() };
    AgentOptions {
        instruction: Some("Answer the following query from what was found".to_owned()),
        matches: Some(vec![
            attribute("agent.name", "search_agent"),
            attribute("openinference.span.kind", "RETRIEVER"),
            Match::Name { name: "search_agent".to_owned() },
            Match::NameSuffix { name_suffix: "SearchAgent.search".to_owned() },
            Match::NameSuffix { name_suffix: "search_service.search".to_owned() },
        ]),
        ..AgentOptions::default()
    }
}
