//! What was acknowledged of people's decisions outlives the server that acknowledged it, and no item is decided twice unknowingly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tunesmith::approval::{ApprovalStore, Event, Filter};
use tunesmith::people::Role;

use crate::home::Home;
use crate::reviewing::{Answer, Api, filled, person, store, verdict};
use crate::serving::Serving;

const KILLS: usize = 100;
const ITEMS: usize = 2000;
const REVIEWERS: [&str; 4] = ["anna", "ben", "carl", "dora"];
/// Far over what 100 starts and the decisions between them take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a decision was acknowledged with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Acknowledged {
    item: i64,
    version: u64,
    who: String,
    state: String,
    content_sha256: String,
}

impl Acknowledged {
    fn of(item: &Value, who: &str) -> Self {
        let text = |name: &str| item[name].as_str().unwrap().to_owned();
        Self {
            item: item["id"].as_i64().unwrap(),
            version: item["version"].as_u64().unwrap(),
            who: who.to_owned(),
            state: text("state"),
            content_sha256: text("content_sha256"),
        }
    }

    fn of_event(event: &Event) -> Self {
        Self {
            item: event.item,
            version: event.version.into(),
            who: event.who.clone(),
            state: event.action.state().name().to_owned(),
            content_sha256: event.sha256_after.clone(),
        }
    }
}

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A decision that the item takes, unless somebody is faster.
fn some_decision(seen: &Value, dice: &mut Dice) -> Value {
    if seen["state"] != "pending" {
        return verdict(seen, "undo");
    }
    let mut body = verdict(seen, ["approve", "reject", "edit"][dice.below(3) as usize]);
    if body["decision"] == "edit" {
        body["content"] = seen["content"].clone();
        body["content"]["input"] = format!("a question that {} made of item {}", dice.0, seen["id"]).into();
    }
    body
}

/// Decides once, or on five items at once, and returns what was acknowledged; none where the server is gone.
fn decide_some(api: &mut Api, dice: &mut Dice, who: &str) -> Option<Vec<Acknowledged>> {
    let mut seen = Vec::new();
    for _ in 0..[1, 1, 1, 5][dice.below(4) as usize] {
        let id = 1 + dice.below(ITEMS as u64);
        seen.push(api.send("GET", &format!("/items/{id}"), b"").ok()?.json());
    }
    if let [item] = seen.as_slice() {
        let body = some_decision(item, dice);
        let answer = api.send("POST", &format!("/items/{}/decision", item["id"]), body.to_string().as_bytes()).ok()?;
        return Some(match answer.status {
            200 => vec![Acknowledged::of(&answer.json(), who)],
            409 => Vec::new(),
            _ => panic!("{}", answer.text()),
        });
    }
    let with_item = |item: &Value, dice: &mut Dice| {
        let mut body = some_decision(item, dice);
        body["item"] = item["id"].clone();
        body
    };
    let bodies: Vec<_> = seen.iter().map(|item| with_item(item, dice)).collect();
    let answer = api.send("POST", "/decisions", json!(bodies).to_string().as_bytes()).ok()?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let outcomes = answer.json();
    let decided = outcomes.as_array().unwrap().iter().filter(|outcome| outcome["problem"].is_null());
    Some(decided.map(|outcome| Acknowledged::of(&outcome["decided"], who)).collect())
}

#[test]
fn no_acknowledged_decision_is_lost_when_the_server_is_killed() {
    let start = Instant::now();
    let home = filled(ITEMS);
    let tokens = REVIEWERS.map(|name| person(&home, name, Role::Reviewer));
    let (address, ended) = (Mutex::new(String::new()), AtomicBool::new(false));
    let acknowledged: Vec<_> = std::thread::scope(|scope| {
        let reviewers: Vec<_> = REVIEWERS
            .iter()
            .zip(&tokens)
            .zip(1..)
            .map(|((who, token), seed)| {
                let (address, ended) = (&address, &ended);
                scope.spawn(move || {
                    let (mut all, mut dice) = (Vec::new(), Dice(0x9e37_79b9_7f4a_7c15 * seed));
                    while !ended.load(Ordering::Relaxed) {
                        let mut api = Api::new(&address.lock().unwrap().clone(), token);
                        while let Some(acknowledged) = decide_some(&mut api, &mut dice, who) {
                            all.extend(acknowledged);
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    all
                })
            })
            .collect();
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        for _ in 0..KILLS {
            let serving = Serving::start(&home, &[]);
            address.lock().unwrap().clone_from(&serving.address);
            std::thread::sleep(Duration::from_millis(20 + dice.below(120)));
            serving.kill();
        }
        ended.store(true, Ordering::Relaxed);
        reviewers.into_iter().flat_map(|reviewer| reviewer.join().unwrap()).collect()
    });
    assert!(acknowledged.len() > 10 * KILLS, "{}", acknowledged.len());

    let events = all_events(&store(&home));
    store(&home).check().unwrap();
    let stored: BTreeSet<_> = events.iter().map(Acknowledged::of_event).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|decision| !stored.contains(decision)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
    let distinct: BTreeSet<_> = acknowledged.iter().map(|decision| (decision.item, decision.version)).collect();
    assert_eq!(distinct.len(), acknowledged.len(), "two reviewers made one decision");

    // And the journal gives the same, but for a transaction that the last kill cut off between the two.
    let again = home.path("again.sqlite");
    let (restored, _) = ApprovalStore::restore(&again, &home.path("approvals.journal.jsonl")).unwrap();
    let of_journal = all_events(&restored);
    assert_eq!(of_journal[..events.len()], events);
    let cut_off = &of_journal[events.len()..];
    assert!(cut_off.len() <= 5, "{cut_off:?}");
    let untouched = |store: &ApprovalStore| {
        let mut items = store.items(&Filter::default(), None, ITEMS).unwrap().items;
        items.retain(|item| cut_off.iter().all(|event| event.item != item.id));
        items
    };
    assert_eq!(untouched(&restored), untouched(&store(&home)));
    eprintln!(
        "{KILLS} kills, {} decisions acknowledged, {} stored, in {:.1} s",
        acknowledged.len(),
        events.len() - ITEMS,
        start.elapsed().as_secs_f64()
    );
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

fn all_events(store: &ApprovalStore) -> Vec<Event> {
    store.events_after(0, usize::MAX).unwrap()
}

#[test]
fn eight_reviewers_decide_every_item_once() {
    const QUEUE: usize = 300;
    let home = filled(QUEUE);
    let serving = Serving::start(&home, &[]);
    let names: Vec<_> = (0..8).map(|number| format!("reviewer-{number}")).collect();
    let tokens: Vec<_> = names.iter().map(|name| person(&home, name, Role::Reviewer)).collect();
    let outcomes: Vec<(BTreeMap<i64, String>, Vec<Answer>)> = std::thread::scope(|scope| {
        let reviewers: Vec<_> = names
            .iter()
            .zip(&tokens)
            .map(|(name, token)| scope.spawn(|| first_come(&mut Api::new(&serving.address, token), name)))
            .collect();
        reviewers.into_iter().map(|reviewer| reviewer.join().unwrap()).collect()
    });
    let (mut accepted, mut refused) = (BTreeMap::new(), 0);
    for (decided, refusals) in outcomes {
        for (item, who) in decided {
            assert_eq!(accepted.insert(item, who), None, "item {item} was decided twice");
        }
        for refusal in refusals {
            assert_eq!((refusal.status, &refusal.json()["title"]), (409, &json!("Somebody was faster")));
            let who = refusal.json()["who"].as_str().unwrap().to_owned();
            assert_eq!(accepted_by(&home, refusal.json()["item"].as_i64().unwrap()), who);
            refused += 1;
        }
    }
    assert_eq!(accepted.len(), QUEUE);
    assert!(refused > 0, "nobody met anybody");
    assert_eq!(all_events(&store(&home)).len(), 2 * QUEUE);
    for (item, who) in accepted {
        assert_eq!(accepted_by(&home, item), who);
    }
}

/// All want the same item, as people who begin at the top do.
fn first_come(api: &mut Api, name: &str) -> (BTreeMap<i64, String>, Vec<Answer>) {
    let (mut decided, mut refused) = (BTreeMap::new(), Vec::new());
    loop {
        let page = api.get("/items?state=pending&limit=3").json();
        let Some(seen) = page["items"].as_array().unwrap().first() else { return (decided, refused) };
        let answer = api.decide(seen, "approve");
        match answer.status {
            200 => drop(decided.insert(seen["id"].as_i64().unwrap(), name.to_owned())),
            _ => refused.push(answer),
        }
    }
}

fn accepted_by(home: &Home, item: i64) -> String {
    store(home).events(item).unwrap().pop().unwrap().who
}
