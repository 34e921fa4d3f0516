//! What a generator made is no training data, whatever is called.

use tunesmith::approval::{Approved, Candidate, Content, Item};
use tunesmith::config::RunConfig;
use tunesmith::pipeline::{Admitted, Collected};
use tunesmith::plugins::bindings::types::Example;

fn admit_candidates(collected: &mut Collected, config: &RunConfig, candidates: Vec<Candidate>) {
    collected.admit(config, candidates).unwrap();
}

fn admit_examples(collected: &mut Collected, config: &RunConfig, examples: Vec<Example>) {
    collected.admit(config, examples).unwrap();
}

fn admit_an_item(item: Item) -> Admitted {
    Admitted::from(item)
}

fn admit_its_content(content: Content) -> Approved<Example> {
    content.into()
}

fn call_it_extracted(example: Example) -> Admitted {
    Admitted::extracted(example)
}

fn push(collected: &mut Collected, example: Example) {
    collected.examples.push(example);
}

fn main() {}
