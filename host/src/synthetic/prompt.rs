//! What a model is asked, and what it may be shown: the agent's instruction, and real examples.

use std::collections::HashSet;

use serde_json::Value;

use super::Wanted;
use super::answers::{Answers, folded};
use super::draw::{Draw, mixed};
use super::proposal::{Proposal, serving, sha256};
use super::reply::{self, Item};
use crate::approval::Content;
use crate::dataset;
use crate::plugins::bindings::types::{Example, ExampleKind};

/// Examples that one request asks for: more make answers that small models do not finish.
const PER_REQUEST: usize = 4;

/// Writes the prompts of one generation.
pub(super) struct Writer<'a> {
    wanted: &'a Wanted<'a>,
    answers: Answers,
    /// What the worse of two answers may be.
    worse: Answers,
    few_shot: usize,
    seed: u64,
    /// Parents that serve.
    serving: Vec<usize>,
    /// For pairs: parents whose approved answer has no worse one beside it yet.
    unpaired: Vec<usize>,
}

/// A prompt, and what its answer is to be.
#[derive(Debug, Clone)]
pub(super) struct Prompt {
    /// Who the model is.
    pub(super) system: String,
    /// What is asked.
    pub(super) user: String,
    /// JSON schema of the answer, as text: its properties are in the order in which they are to be written.
    pub(super) schema: String,
    /// What is shown, by index of [`Wanted::parents`].
    pub(super) parents: Vec<usize>,
    /// Of the draw, and of the model's.
    pub(super) seed: u64,
    /// How many examples it asks for.
    pub(super) n: usize,
    /// Characters that the answer may take.
    pub(super) answer_chars: usize,
    ask: Ask,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ask {
    /// Examples.
    Whole(ExampleKind),
    /// A worse answer than that of this parent.
    Worse(usize),
}

impl<'a> Writer<'a> {
    pub(super) fn new(wanted: &'a Wanted<'a>, [answers, worse]: [Answers; 2], few_shot: usize, seed: u64) -> Self {
        let serving = serving(wanted.parents, wanted.kind);
        let pairs = wanted.parents.iter().chain(wanted.existing).filter(|e| matches!(e, Example::Preference(_)));
        let paired: HashSet<String> = pairs.map(|pair| folded(dataset::input(pair))).collect();
        let lone = |parent: &usize| !paired.contains(&folded(dataset::input(&wanted.parents[*parent])));
        let unpaired = match wanted.kind {
            ExampleKind::PreferencePair => serving.iter().copied().filter(lone).collect(),
            ExampleKind::ApprovedExample | ExampleKind::Triplet => Vec::new(),
        };
        let unpaired = Draw::new(seed).some(&unpaired, usize::MAX);
        Self { wanted, answers, worse, few_shot, seed, serving, unpaired }
    }

    /// Prompt number `number`, for at most `missing` examples.
    pub(super) fn write(&self, number: u64, missing: usize) -> Prompt {
        let seed = mixed(self.seed, number);
        let mut draw = Draw::new(seed);
        match self.unpaired.get(number as usize) {
            Some(&target) => self.worse(target, seed, &mut draw),
            None => self.whole(missing.clamp(1, PER_REQUEST), seed, &mut draw),
        }
    }

    fn whole(&self, n: usize, seed: u64, draw: &mut Draw) -> Prompt {
        let kind = self.wanted.kind;
        let shots = draw.some(&self.shown_whole(), self.few_shot);
        let focus = self.answers.choices().map(|choices| draw.some(choices_by_index(choices).as_slice(), n));
        let focus = focus.iter().flatten().map(|&choice| &self.answers.choices().unwrap_or_default()[choice]);
        let focus: Vec<String> = focus.map(|choice| quoted(choice)).collect();
        let mut user = self.opening();
        user.push_str("Real examples, one JSON object a line:\n");
        for &shot in &shots {
            user.push_str(&line(kind, &self.wanted.parents[shot]));
            user.push('\n');
        }
        user.push_str(&format!("\nWrite {n} new example{}.\n", if n == 1 { "" } else { "s" }));
        user.push_str(&self.rules(kind, &focus));
        user.push_str(
            "- Subjects and wording differ from those above and from each other; language and style are the same.\n\
             - Make up every name and number. Words in brackets, such as [EMAIL], stand for what was taken out.\n",
        );
        let keys: Vec<String> = fields(kind).iter().map(|field| format!("{}: ...", quoted(field))).collect();
        user.push_str(&format!("Answer with JSON alone: {{\"examples\": [{{{}}}]}}\n", keys.join(", ")));
        let longest = shots.iter().map(|&shot| line(kind, &self.wanted.parents[shot]).chars().count()).max();
        Prompt {
            system: self.system(),
            user,
            schema: schema_of_examples(kind, &self.answers, &self.worse, n),
            parents: shots,
            seed,
            n,
            answer_chars: n * (2 * longest.unwrap_or(0) + 100),
            ask: Ask::Whole(kind),
        }
    }

    /// Parents that can be shown as they are; without one that has both answers, those that have the better one.
    fn shown_whole(&self) -> Vec<usize> {
        let parents = self.wanted.parents;
        let whole: Vec<usize> = self
            .serving
            .iter()
            .copied()
            .filter(|&parent| dataset::kind(&parents[parent]) == self.wanted.kind)
            .collect();
        if whole.is_empty() { self.serving.clone() } else { whole }
    }

    fn worse(&self, target: usize, seed: u64, draw: &mut Draw) -> Prompt {
        let parents = self.wanted.parents;
        let pairs: Vec<usize> =
            self.serving.iter().copied().filter(|&p| matches!(parents[p], Example::Preference(_))).collect();
        let shots = draw.some(&pairs, self.few_shot);
        let mut user = self.opening();
        if !shots.is_empty() {
            user.push_str("Real mistakes of that agent, one JSON object a line:\n");
        }
        for &shot in &shots {
            user.push_str(&line(ExampleKind::PreferencePair, &parents[shot]));
            user.push('\n');
        }
        let (input, chosen) = (dataset::input(&parents[target]), dataset::output(&parents[target]));
        user.push_str(&format!(
            "Input: {}\nRight answer: {}\n\nWrite a wrong answer that a careless agent could give: plausible, in the same \
             format, and not right in any reading.\n",
            quoted(input),
            quoted(chosen)
        ));
        let wrong: Vec<String> = self
            .answers
            .choices()
            .unwrap_or_default()
            .iter()
            .filter(|c| folded(c) != folded(chosen))
            .cloned()
            .collect();
        if !wrong.is_empty() {
            user.push_str(&format!("It is one of: {}\n", listed(&wrong)));
        }
        user.push_str("Answer with JSON alone: {\"rejected\": ...}\n");
        let wrong = if wrong.is_empty() { self.worse.clone() } else { Answers::Choice(wrong) };
        let shown = std::iter::once(target).chain(shots).collect();
        Prompt {
            system: self.system(),
            user,
            schema: object(&[("rejected", text_schema(&wrong))]),
            parents: shown,
            seed,
            n: 1,
            answer_chars: 2 * chosen.chars().count() + 100,
            ask: Ask::Worse(target),
        }
    }

    fn system(&self) -> String {
        let agent = match (self.wanted.agent_type, self.wanted.kind) {
            (_, ExampleKind::Triplet) => {
                "an embedding model of a search engine: it has to bring a query near to the documents that answer it"
            }
            ("routing", _) => "an agent that routes a query to the agent that can answer it",
            ("profile_selection", _) => "an agent that selects the profile that suits a query",
            ("entity_extraction", _) => "an agent that extracts the entities that a query names",
            ("search", _) => "an agent that answers a query from what was found",
            (own, _) => return format!("You write training examples for an agent named {}. {TONE}", quoted(own)),
        };
        format!("You write training examples for {agent}. {TONE}")
    }

    fn opening(&self) -> String {
        match self.wanted.kind {
            ExampleKind::Triplet => String::new(),
            _ => format!("The agent is told: {}\n\n", quoted(self.wanted.instruction)),
        }
    }

    fn rules(&self, kind: ExampleKind, focus: &[String]) -> String {
        let of_choice = |field: &str| match self.answers.choices() {
            Some(choices) => format!("- `{field}` is one of: {}\n", listed(choices)),
            None => format!("- `{field}` has the format of those above.\n"),
        };
        let this_time = match focus {
            [] => String::new(),
            focus => format!("- This time write inputs for: {}\n", focus.join(", ")),
        };
        let word_for_word = match self.wanted.agent_type {
            "entity_extraction" => "- It names what stands in `input`, word for word, and nothing else.\n",
            _ => "",
        };
        match kind {
            ExampleKind::ApprovedExample => of_choice("output") + word_for_word + &this_time,
            ExampleKind::PreferencePair => {
                let worse = "- `rejected` is a wrong answer that a careless agent could give: plausible, and not right in \
                             any reading.\n";
                of_choice("chosen") + word_for_word + worse + &this_time
            }
            ExampleKind::Triplet => {
                "- `positive` answers `anchor`. `negative` is about the same subject in similar words, \
                                     and does not answer it.\n"
                    .to_owned()
            }
        }
    }
}

const TONE: &str = "A person reviews each of them before it is used. You answer with JSON and nothing else.";

impl Prompt {
    /// Names what was asked, in hexadecimal.
    pub(super) fn sha256(&self) -> String {
        sha256(&format!("{}\n{}\n{}", self.system, self.user, self.schema))
    }

    /// What an answer's text holds: proposals, and reasons of what is none.
    pub(super) fn read(&self, wanted: &Wanted<'_>, text: &str) -> Vec<Result<Proposal, &'static str>> {
        let items = match reply::items(text) {
            Ok(items) => items,
            Err(reason) => return vec![Err(reason)],
        };
        let digest = self.sha256();
        let proposal = |item: &Item| {
            let content = self.content(wanted, item)?;
            let (parents, prompt_sha256) = (self.parents.clone(), digest.clone());
            Ok(Proposal { content, parents, prompt_sha256, seed: self.seed })
        };
        items.iter().map(proposal).collect()
    }

    fn content(&self, wanted: &Wanted<'_>, item: &Item) -> Result<Content, &'static str> {
        let instruction = wanted.instruction.to_owned();
        match self.ask {
            Ask::Worse(target) => {
                let parent = &wanted.parents[target];
                let (input, chosen) = (dataset::input(parent).to_owned(), dataset::output(parent).to_owned());
                Ok(Content::Preference { instruction, input, chosen, rejected: reply::text(item, "rejected")? })
            }
            Ask::Whole(kind) => whole(kind, instruction, item),
        }
    }
}

/// An example of `kind` by its fields.
///
/// # Errors
/// Where one is missing.
pub(super) fn whole(kind: ExampleKind, instruction: String, item: &Item) -> Result<Content, &'static str> {
    let text = |key| reply::text(item, key);
    Ok(match kind {
        ExampleKind::ApprovedExample => {
            Content::Instruction { instruction, input: text("input")?, output: text("output")? }
        }
        ExampleKind::PreferencePair => Content::Preference {
            instruction,
            input: text("input")?,
            chosen: text("chosen")?,
            rejected: text("rejected")?,
        },
        ExampleKind::Triplet => {
            Content::Triplet { anchor: text("anchor")?, positive: text("positive")?, negative: text("negative")? }
        }
    })
}

/// Of an example of `kind`, in the order in which a model is to write them.
pub(super) fn fields(kind: ExampleKind) -> &'static [&'static str] {
    match kind {
        ExampleKind::ApprovedExample => &["input", "output"],
        ExampleKind::PreferencePair => &["input", "chosen", "rejected"],
        ExampleKind::Triplet => &["anchor", "positive", "negative"],
    }
}

/// A real example as one line of JSON; of an approved one in a pair's place without `rejected`.
pub(super) fn line(kind: ExampleKind, example: &Example) -> String {
    let content = Content::of(example);
    let texts: Vec<_> = texts(kind, &content);
    let texts: Vec<String> = texts.iter().map(|(key, text)| format!("{}: {}", quoted(key), quoted(text))).collect();
    format!("{{{}}}", texts.join(", "))
}

/// What a real example has of the fields of an example of `kind`.
pub(super) fn texts(kind: ExampleKind, content: &Content) -> Vec<(&'static str, &str)> {
    let better = match kind {
        ExampleKind::ApprovedExample => "output",
        _ => "chosen",
    };
    match content {
        Content::Instruction { input, output, .. } => vec![("input", input), (better, output)],
        Content::Preference { input, chosen, rejected, .. } => match kind {
            ExampleKind::ApprovedExample => vec![("input", input), (better, chosen)],
            _ => vec![("input", input), (better, chosen), ("rejected", rejected)],
        },
        Content::Triplet { anchor, positive, negative } => {
            vec![("anchor", anchor), ("positive", positive), ("negative", negative)]
        }
    }
}

/// As JSON has it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn listed(texts: &[String]) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

fn choices_by_index(choices: &[String]) -> Vec<usize> {
    (0..choices.len()).collect()
}

fn schema_of_examples(kind: ExampleKind, answers: &Answers, worse: &Answers, n: usize) -> String {
    let open = text_schema(&Answers::Open);
    let properties: Vec<(&str, String)> = fields(kind)
        .iter()
        .map(|&field| match field {
            "output" | "chosen" => (field, text_schema(answers)),
            "rejected" => (field, text_schema(worse)),
            _ => (field, open.clone()),
        })
        .collect();
    let item = object(&properties);
    object(&[("examples", format!("{{\"type\":\"array\",\"items\":{item},\"minItems\":1,\"maxItems\":{n}}}"))])
}

fn text_schema(answers: &Answers) -> String {
    match answers {
        Answers::Choice(choices) => format!("{{\"type\":\"string\",\"enum\":[{}]}}", listed(choices)),
        Answers::Open | Answers::Json(_) => "{\"type\":\"string\"}".to_owned(),
    }
}

/// Written out: `serde_json` sorts keys, and a model that is held to a schema writes them in its order.
fn object(properties: &[(&str, String)]) -> String {
    let own: Vec<String> = properties.iter().map(|(key, schema)| format!("{}:{schema}", quoted(key))).collect();
    let keys: Vec<String> = properties.iter().map(|(key, _)| quoted(key)).collect();
    format!(
        "{{\"type\":\"object\",\"properties\":{{{}}},\"required\":[{}],\"additionalProperties\":false}}",
        own.join(","),
        keys.join(",")
    )
}
