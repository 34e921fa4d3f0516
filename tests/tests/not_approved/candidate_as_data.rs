//! E0308 E0308 E0277 E0277 E0624 E0616
// What a generator made is no training data, whatever is called.

use tunesmith::approval::{Approved, Candidate, Content, Item};
use tunesmith::config::RunConfig;
use tunesmith::pipeline::{Admitted, Collected};
use tunesmith::plugins::bindings::types::Example;

pub fn admit_candidates(collected: &mut Collected, config: &RunConfig, candidates: Vec<Candidate>) {
    let _ = collected.admit(config, candidates);
}

pub fn admit_examples(collected: &mut Collected, config: &RunConfig, examples: Vec<Example>) {
    let _ = collected.admit(config, examples);
}

pub fn admit_an_item(item: Item) -> Admitted {
    item.into()
}

pub fn admit_its_content(content: Content) -> Approved<Example> {
    content.into()
}

pub fn call_it_extracted(example: Example) -> Admitted {
    Admitted::extracted(example)
}

pub fn push(collected: &mut Collected, example: Example) {
    collected.examples.push(example);
}
