use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::approval::{Candidate, Channel, Content, Decision, NewBatch, Parent, Seen, Verdict};
use crate::config::Options;
use crate::dataset::{KindCounts, Origins};
use crate::people::{People, Reviewer, Role};
use crate::pipeline::split_kind;
use crate::plugins::bindings::types::{InstructionExample, Lineage};

/// What happens to a store.
#[derive(Debug, Clone)]
enum Happening {
    /// So many candidates; where `expired`, in a batch whose time is over.
    Submitted {
        candidates: usize,
        expired: bool,
    },
    /// A person decides on one of the items that there are, or on what it was before.
    Decided {
        item: usize,
        who: usize,
        decision: usize,
        as_seen: bool,
    },
    /// Many at once.
    DecidedAll {
        who: usize,
        approve: bool,
    },
    Expired,
    /// The process ends, and another opens the file.
    Reopened,
    /// The file is lost, and made again from the journal.
    Restored,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => (1..5usize, prop::bool::weighted(0.2)).prop_map(|(candidates, expired)| Happening::Submitted { candidates, expired }),
        12 => (0..40usize, 0..2usize, 0..5usize, prop::bool::weighted(0.8))
            .prop_map(|(item, who, decision, as_seen)| Happening::Decided { item, who, decision, as_seen }),
        1 => (0..2usize, any::<bool>()).prop_map(|(who, approve)| Happening::DecidedAll { who, approve }),
        1 => Just(Happening::Expired),
        1 => Just(Happening::Reopened),
        1 => Just(Happening::Restored),
    ]
}

fn lineage(span: usize) -> Lineage {
    Lineage {
        span_ids: vec![format!("{span:016x}")],
        trace_id: format!("{span:032x}"),
        session_id: None,
        annotation_names: vec!["human_approval".to_owned()],
    }
}

/// Words that no other number has, so that no two inputs are near each other.
fn words(what: &str, number: usize) -> String {
    (0..8).map(|word| format!("{what}{}", number * 31 + word * 7919)).collect::<Vec<_>>().join(" ")
}

fn real(span: usize) -> Example {
    Example::Instruction(InstructionExample {
        instruction: "Route".to_owned(),
        input: words("real", span),
        output: "weather_agent".to_owned(),
        corrected: false,
        lineage: lineage(span),
    })
}

fn content(what: &str, number: usize) -> Content {
    Content::Instruction {
        instruction: "Route".to_owned(),
        input: words(what, number),
        output: "search_agent".to_owned(),
    }
}

fn batch(from: usize, candidates: usize, expired: bool, parents: &[Example]) -> NewBatch {
    NewBatch {
        project: "acme".to_owned(),
        agent_type: "routing".to_owned(),
        run: None,
        generator: "templates".to_owned(),
        model: None,
        parents: parents
            .iter()
            .map(|parent| Parent {
                span_ids: dataset::lineage(parent).span_ids.clone(),
                trace_id: dataset::lineage(parent).trace_id.clone(),
                content: Content::of(parent),
            })
            .collect(),
        held_out: Vec::new(),
        candidates: (from..from + candidates)
            .map(|number| Candidate {
                content: content("made", number),
                parents: vec![0, 1],
                prompt_sha256: "0".repeat(64),
                seed: number as u64,
                near: Vec::new(),
            })
            .collect(),
        expires_at_ms: Some(if expired { 1 } else { i64::MAX }),
    }
}

fn collected(examples: Vec<Example>) -> Collected {
    Collected {
        project: "acme".to_owned(),
        spans: examples.len() as u64,
        extracted: KindCounts::default(),
        examples,
        approved: Vec::new(),
        origins: Origins::default(),
        skipped: SkipTable::default(),
        redacted: Default::default(),
    }
}

fn config(folder: &Path) -> RunConfig {
    let mut options = Options { agent_type: Some("routing".to_owned()), ..Options::default() };
    options.telemetry.store = Some(folder.join("telemetry.sqlite"));
    RunConfig::new(options).unwrap()
}

/// What the log says is approved, read without any of the store's code: item -> JSON of its content.
fn by_the_log(path: &Path) -> BTreeMap<i64, String> {
    let connection = Connection::open(path).unwrap();
    let mut originals = connection.prepare("SELECT id, original FROM items").unwrap();
    let originals: BTreeMap<i64, String> =
        originals.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    let mut events = connection.prepare("SELECT item, action, content FROM events ORDER BY id").unwrap();
    let events = events
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect::<Vec<(i64, String, Option<String>)>>();
    let mut approved = BTreeMap::new();
    for (item, action, content) in events {
        match action.as_str() {
            "approved" => drop(approved.insert(item, originals[&item].clone())),
            "edited" => drop(approved.insert(item, content.unwrap())),
            _ => drop(approved.remove(&item)),
        }
    }
    approved
}

/// A store that things happen to, and what was acknowledged.
struct World {
    folder: tempfile::TempDir,
    store: Option<ApprovalStore>,
    people: Vec<Reviewer>,
    items: Vec<i64>,
    acknowledged: Vec<(i64, u32, String, &'static str)>,
    edits: usize,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut people = People::open(&folder.path().join("people.toml")).unwrap();
        for name in ["anna", "ben"] {
            people.add(name, Role::Reviewer).unwrap();
        }
        let people = people.list().map(|person| person.reviewer().unwrap()).collect();
        let store = ApprovalStore::open_or_create(&folder.path().join("approvals.sqlite")).unwrap();
        Self { folder, store: Some(store), people, items: Vec::new(), acknowledged: Vec::new(), edits: 0 }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("approvals.sqlite")
    }

    fn store(&mut self) -> &mut ApprovalStore {
        self.store.as_mut().unwrap()
    }

    fn happen(&mut self, happening: &Happening, parents: &[Example]) {
        match *happening {
            Happening::Submitted { candidates, expired } => {
                let from = self.items.len();
                self.store().submit(batch(from, candidates, expired, parents)).unwrap();
                self.items.extend((from..from + candidates).map(|index| index as i64 + 1));
            }
            Happening::Decided { item, who, decision, as_seen } => {
                let Some(&item) = self.items.get(item % self.items.len().max(1)) else { return };
                self.decide(item, who, decision, as_seen);
            }
            Happening::DecidedAll { who, approve } => {
                for item in self.items.clone() {
                    self.decide(item, who, usize::from(!approve), true);
                }
            }
            Happening::Expired => drop(self.store().expire().unwrap()),
            Happening::Reopened => {
                self.store = None;
                self.store = Some(ApprovalStore::open(&self.path()).unwrap());
            }
            Happening::Restored => {
                self.store = None;
                let (path, journal) = (self.path(), self.folder.path().join("approvals.journal.jsonl"));
                if !journal.exists() {
                    self.store = Some(ApprovalStore::open(&path).unwrap());
                    return;
                }
                let kept = self.folder.path().join("kept.jsonl");
                std::fs::rename(&journal, &kept).unwrap();
                for file in ["sqlite", "sqlite-wal", "sqlite-shm"] {
                    let _ = std::fs::remove_file(path.with_extension(file));
                }
                let (store, restored) = ApprovalStore::restore(&path, &kept).unwrap();
                assert_eq!(restored.unfinished, 0);
                self.store = Some(store);
            }
        }
    }

    fn decide(&mut self, item: i64, who: usize, decision: usize, as_seen: bool) {
        let now = self.store().item(item).unwrap().unwrap();
        self.edits += 1;
        let decision = match decision {
            0 => Decision::Approve,
            1 => Decision::Reject,
            2 => Decision::Edit(content("edited", self.edits)),
            3 => Decision::Edit(Content::Instruction {
                instruction: "Route".to_owned(),
                input: " ".to_owned(),
                output: "x".to_owned(),
            }),
            _ => Decision::Undo,
        };
        let version = if as_seen { now.version } else { now.version.wrapping_sub(1) };
        let seen = Seen { item, version, content_sha256: now.content_sha256 };
        let name = decision.action().name();
        let who = self.people[who].clone();
        let verdict = Verdict { seen, decision, reason: None };
        match self.store().decide(&who, Channel::Api, &verdict) {
            Ok(item) => self.acknowledged.push((item.id, item.version, who.name().to_owned(), name)),
            Err(ApprovalError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_training_set_holds_exactly_what_the_log_says_is_approved(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut world = World::new();
        let reals: Vec<Example> = (0..40).map(real).collect();
        let config = config(world.folder.path());
        // What a run would show the generator.
        let before = split_kind(&config, &collected(reals.clone()), ExampleKind::ApprovedExample).unwrap();
        let parents: Vec<Example> = before.train.iter().take(2).map(|admitted| admitted.example().clone()).collect();
        for happening in &happenings {
            world.happen(happening, &parents);
        }

        let mut collected = collected(reals);
        collected.admit_approved(&config).unwrap();
        let sides = split_kind(&config, &collected, ExampleKind::ApprovedExample).unwrap();
        let trained: BTreeMap<i64, String> = sides
            .train
            .iter()
            .filter_map(|admitted| {
                let json = serde_json::to_string(&Content::of(admitted.example())).unwrap();
                admitted.approval().map(|approval| (approval.item, json))
            })
            .collect();
        prop_assert_eq!(&trained, &by_the_log(&world.path()));

        // Nobody judges who was generated, and what is real is where it was.
        prop_assert!(sides.held_out.iter().all(|admitted| admitted.approval().is_none()));
        prop_assert_eq!(&sides.held_out, &before.held_out);
        prop_assert_eq!(sides.train.len(), before.train.len() + trained.len());
        prop_assert_eq!(collected.skipped.total(), 0);

        // And the log has every decision that was acknowledged, in order, and no other of a person.
        let log: Vec<_> = world
            .store()
            .events_after(0, usize::MAX)
            .unwrap()
            .into_iter()
            .filter(|event| event.who != "tunesmith")
            .map(|event| (event.item, event.version, event.who, event.action.name()))
            .collect();
        prop_assert_eq!(log, world.acknowledged);
    }
}

#[test]
fn what_was_approved_and_changed_outside_trains_nothing() {
    let mut world = World::new();
    world.happen(&Happening::Submitted { candidates: 2, expired: false }, &[real(0), real(1)]);
    world.decide(1, 0, 0, true);
    let config = config(world.folder.path());
    let outside = Connection::open(world.path()).unwrap();
    outside
        .execute("UPDATE items SET content = replace(content, 'search_agent', 'evil_agent') WHERE id = 1", [])
        .unwrap();
    let error = collected((0..10).map(real).collect()).admit_approved(&config).unwrap_err();
    assert!(error.to_string().contains("item 1 of"), "{error}");
    assert!(error.to_string().contains("is not what anna approved"), "{error}");

    // Nor does what somebody calls approved without an event.
    outside.execute("UPDATE items SET content = original, state = 'pending' WHERE id = 1", []).unwrap();
    outside.execute("UPDATE items SET state = 'approved' WHERE id = 2", []).unwrap();
    let error = collected((0..10).map(real).collect()).admit_approved(&config).unwrap_err();
    assert!(error.to_string().contains("item 2 of"), "{error}");
    let refused = outside.execute("DELETE FROM events WHERE item = 1", []).unwrap_err();
    assert_eq!(refused.to_string(), "the log of decisions is append-only");
}
