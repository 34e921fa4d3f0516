//! `/api/v1`, by clients that are right and by those that are not.

use std::fs;

use serde_json::{Value, json};
use tunesmith::approval::ApprovalStore;
use tunesmith::people::{People, Role};

use crate::home::Home;
use crate::reviewing::{Answer, Api, HELD_OUT, STORE, batch, filled, person, store, verdict};
use crate::serving::Serving;

/// A server over `n` items, and its reviewers.
struct Reviews {
    home: Home,
    serving: Serving,
    anna: Api,
    ben: Api,
}

fn reviews(n: usize) -> Reviews {
    let home = filled(n);
    let serving = Serving::start(&home, &[]);
    let of = |name: &str| Api::new(&serving.address, &person(&home, name, Role::Reviewer));
    let (anna, ben) = (of("anna"), of("ben"));
    Reviews { home, serving, anna, ben }
}

fn events(home: &Home) -> usize {
    store(home).events_after(0, usize::MAX).unwrap().len()
}

/// The whole problem.
#[track_caller]
fn problem(answer: &Answer, status: u16, kind: &str, title: &str, detail: &str, more: &Value) {
    assert!(answer.has("content-type: application/problem+json"), "{}{}", answer.head, answer.text());
    assert!(answer.has("cache-control: no-store"), "{}", answer.head);
    let mut expected = json!({
        "type": format!("urn:tunesmith:problem:{kind}"), "title": title, "status": status, "detail": detail
    });
    expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!((answer.status, answer.json()), (status, expected));
}

#[test]
fn a_persons_token_says_who_they_are_and_what_they_may() {
    let Reviews { home, serving, mut anna, .. } = reviews(2);
    assert_eq!(anna.get("/me").json(), json!({ "tenant": "default", "name": "anna", "role": "reviewer" }));
    let nobody =
        "nobody has this token: send `Authorization: Bearer TOKEN` with the one that `tunesmith people add` told";
    // The operator's token is nobody's, and is not told apart.
    for token in ["", "wrong", &serving.token] {
        let mut stranger = Api::new(&serving.address, token);
        for path in
            ["/me", "/items", "/items/1", "/items/1/events", "/items/1/parents", "/batches", "/events", "/export"]
        {
            let answer = stranger.get(path);
            problem(&answer, 401, "unauthenticated", "Unauthenticated", nobody, &json!({}));
            assert!(answer.has("www-authenticate: bearer"), "{}", answer.head);
        }
        let item = anna.item(1);
        problem(&stranger.decide(&item, "approve"), 401, "unauthenticated", "Unauthenticated", nobody, &json!({}));
        assert_eq!(stranger.post("/decisions", &json!([])).status, 401);
    }

    let mut viewer = Api::new(&serving.address, &person(&home, "vera", Role::Viewer));
    let item = viewer.item(1);
    let forbidden = "vera is a viewer, and this takes a reviewer: ask an admin of this machine";
    problem(&viewer.decide(&item, "approve"), 403, "forbidden", "Forbidden", forbidden, &json!({}));
    problem(&viewer.post("/decisions", &json!([])), 403, "forbidden", "Forbidden", forbidden, &json!({}));
    // Who was removed is out at once.
    People::open(&home.path("people.toml")).unwrap().remove("vera").unwrap();
    assert_eq!(viewer.get("/me").status, 401);
    assert_eq!(events(&home), 2);

    let nothing = "nothing is here: `/api/v1/openapi.json` has what there is";
    problem(&anna.get("/nothing"), 404, "not-found", "Not found", nothing, &json!({}));
    let answer = anna.send("DELETE", "/items/1", b"").unwrap();
    let method = "this path does not take that method: `/api/v1/openapi.json` has what each takes";
    problem(&answer, 405, "method-not-allowed", "Method not allowed", method, &json!({}));
    for path in ["/items/9", "/items/9/events", "/items/9/parents"] {
        let detail = "there is no item 9: list those there are";
        problem(&anna.get(path), 404, "not-found", "Not found", detail, &json!({ "item": 9 }));
    }
}

#[test]
fn items_come_page_by_page() {
    let Reviews { home, serving: _serving, mut anna, mut ben } = reviews(523);
    for id in [3, 500, 501] {
        let item = ben.item(id);
        assert_eq!(ben.decide(&item, "reject").status, 200);
    }
    let mut all = |query: &str| {
        let (mut ids, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = anna.get(&format!("/items?{query}{cursor}")).json();
            ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()));
            pages += 1;
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (ids, pages),
            }
        }
    };
    assert_eq!(all("limit=200"), ((1..=523).collect(), 3));
    assert_eq!(all("").1, 11);
    assert_eq!(all("state=rejected&limit=2"), (vec![3, 500, 501], 2));
    assert_eq!(all("decided_by=ben&kind=instruction&batch=1&agent_type=routing"), (vec![3, 500, 501], 1));
    assert_eq!(all("decided_by=anna"), (vec![], 1));
    assert_eq!(all("q=TOWN%20522"), (vec![523], 1));
    assert_eq!(all("state=pending&limit=200").0.len(), 520);

    let malformed = |answer: &Answer, field: &str, what: &str| {
        let detail = format!("`{field}`: {what}");
        problem(answer, 400, "malformed", "Malformed request", &detail, &json!({ "field": field }));
    };
    malformed(&ben.get("/items?limit=201"), "limit", "201 is not from 1 to 200");
    malformed(&ben.get("/items?limit=many"), "limit", "invalid digit found in string");
    malformed(&ben.get("/items?cursor=xyz"), "cursor", "not a `next` of an answer: start without one");
    let unknown = "unknown variant `done`, expected one of `pending`, `approved`, `edited`, `rejected`, `expired`";
    malformed(&ben.get("/items?state=done"), "state", unknown);
    malformed(&ben.get("/items/one"), "id", "not the number of an item");
    let answer = ben.get("/items?sort=id");
    assert_eq!((answer.status, &answer.json()["field"]), (400, &json!("sort")), "{}", answer.text());

    let item = ben.item(3);
    assert_eq!((&item["state"], &item["decided_by"], &item["version"]), (&json!("rejected"), &json!("ben"), &json!(2)));
    let events = ben.get("/items/3/events").json();
    assert_eq!((&events[1]["who"], &events[1]["channel"]), (&json!("ben"), &json!("api")));
    assert_eq!(ben.get("/items/3/parents").json()[0]["span_ids"], json!(["0000000000000002"]));
    assert_eq!(ben.get("/batches").json()[0]["counts"]["rejected"], 3);

    // The log, and where it goes on.
    let log = ben.get("/events?limit=200").json();
    assert_eq!((log["events"].as_array().unwrap().len(), &log["next"]), (200, &json!(200)));
    let log = ben.get("/events?after=523").json();
    assert_eq!((log["events"].as_array().unwrap().len(), &log["next"]), (3, &json!(526)));
    assert_eq!(ben.get("/events?after=526").json(), json!({ "events": [], "next": 526 }));

    let export = ben.get("/export");
    assert!(export.has("content-type: application/x-ndjson") && export.has("transfer-encoding: chunked"));
    // As the command writes it.
    let written = home.run(&["review", "--approvals", STORE, "export"]).stdout;
    assert_eq!((export.text().lines().count(), export.text()), (523, written));
    assert_eq!(ben.get("/export?state=rejected").text().lines().count(), 3);
}

#[test]
fn a_decision_is_on_the_text_that_was_seen() {
    let Reviews { home, serving: _serving, mut anna, mut ben } = reviews(6);
    // Both see the item; the slower one is told who was faster.
    let seen = anna.item(1);
    assert_eq!(ben.item(1), seen);
    let decided = anna.decide(&seen, "approve");
    assert_eq!(decided.status, 200, "{}", decided.text());
    assert_eq!((&decided.json()["state"], &decided.json()["decided_by"]), (&json!("approved"), &json!("anna")));
    problem(
        &ben.decide(&seen, "reject"),
        409,
        "stale",
        "Somebody was faster",
        "item 1 has changed since you saw it: anna approved it; look at it again, then decide",
        &json!({ "item": 1, "version": 2, "who": "anna" }),
    );
    let now = ben.item(1);
    let detail = "item 1 is approved already: undo that first";
    problem(&ben.decide(&now, "reject"), 409, "decided", "Decided already", detail, &json!({ "item": 1 }));
    assert_eq!(ben.decide(&now, "undo").json()["state"], "pending");
    let now = ben.item(1);
    let detail = "item 1 is pending: there is nothing to undo";
    problem(&ben.decide(&now, "undo"), 409, "nothing-to-undo", "Nothing to undo", detail, &json!({ "item": 1 }));

    let (seen, before) = (anna.item(2), events(&home));
    let mut edit = |field: &str, text: &str| {
        let mut body = verdict(&seen, "edit");
        body["content"] = seen["content"].clone();
        body["content"][field] = text.into();
        anna.post("/items/2/decision", &body)
    };
    let unchanged = "item 2 is as it was: approve it, or change it";
    let input = seen["content"]["input"].as_str().unwrap();
    problem(
        &edit("input", input),
        422,
        "unchanged",
        "Nothing was changed",
        unchanged,
        &json!({ "item": 2, "field": "content" }),
    );
    let empty = "`output` of item 2 is empty: write what the model should learn, or reject the item";
    problem(&edit("output", " \n"), 422, "empty", "A text is empty", empty, &json!({ "item": 2, "field": "output" }));
    let held_out = "item 2 would be equal to a held-out example, by which the adapter is judged: ask something else, or reject \
                    the item";
    problem(&edit("input", HELD_OUT), 422, "held-out", "Held out", held_out, &json!({ "item": 2, "field": "content" }));
    let twin = "generated question 2 on the weather in town 2";
    let duplicate = "item 2 would be a duplicate of item 3: reject it, or ask something else";
    problem(
        &edit("input", twin),
        422,
        "duplicate",
        "A duplicate",
        duplicate,
        &json!({ "item": 2, "field": "content" }),
    );
    assert_eq!(events(&home), before);
    let edited = edit("output", "tide_agent").json();
    assert_eq!((&edited["state"], &edited["original"]), (&json!("edited"), &seen["content"]));

    let (seen, before) = (anna.item(3), events(&home));
    let mut sends = |change: &dyn Fn(&mut Value), field: &str, what: &str| {
        let mut body = verdict(&seen, "approve");
        change(&mut body);
        let answer = anna.post("/items/3/decision", &body);
        let detail = format!("`{field}`: {what}");
        problem(&answer, 400, "malformed", "Malformed request", &detail, &json!({ "field": field }));
    };
    let remove = |name: &'static str| move |body: &mut Value| drop(body.as_object_mut().unwrap().remove(name));
    sends(&remove("version"), "version", "not there");
    sends(&remove("content_sha256"), "content_sha256", "not there");
    sends(&remove("decision"), "decision", "not there");
    sends(&|body| body["version"] = "2".into(), "version", "invalid type: string \"2\", expected u32");
    let unknown = "unknown variant `yes`, expected one of `approve`, `reject`, `edit`, `undo`";
    sends(&|body| body["decision"] = "yes".into(), "decision", unknown);
    sends(&|body| body["decision"] = "edit".into(), "content", "not there: what should it say");
    sends(&|body| body["content"] = seen["content"].clone(), "content", "only with `edit`");
    sends(&|body| body["content"] = json!({ "kind": "instruction" }), "content", "missing field `instruction`");
    sends(&|body| body["reviewer"] = "ben".into(), "reviewer", "no field of a decision");
    sends(&|body| *body = json!([]), "body", "not an object of a decision");
    let answer = anna.send("POST", "/items/3/decision", b"{").unwrap();
    let not_json = "the body is not JSON (EOF while parsing an object at line 1 column 1)";
    problem(&answer, 400, "malformed", "Malformed request", not_json, &json!({}));
    let mut long = verdict(&seen, "reject");
    long["reason"] = "x".repeat(1 << 20).into();
    let answer = anna.post("/items/3/decision", &long);
    let too_long = "the body is longer than 1 MiB: decide on fewer items at once";
    problem(&answer, 413, "too-large", "Too large", too_long, &json!({}));
    assert_eq!(events(&home), before);
    long["reason"] = "too far off".into();
    assert_eq!(anna.post("/items/3/decision", &long).status, 200);
    assert_eq!(store(&home).events(3).unwrap()[1].reason.as_deref(), Some("too far off"));
}

#[test]
fn many_items_are_decided_at_once() {
    let Reviews { home, serving: _serving, mut anna, mut ben } = reviews(250);
    let items = anna.get("/items?limit=200").json()["items"].as_array().unwrap().clone();
    let decision = |item: &Value| {
        let mut body = verdict(item, "approve");
        body["item"] = item["id"].clone();
        body
    };
    assert_eq!(ben.decide(&items[1], "reject").status, 200);
    let mut decisions: Vec<_> = items.iter().map(decision).collect();
    decisions[2]["item"] = 999.into();
    let answer = anna.post("/decisions", &json!(decisions));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let outcomes = answer.json();
    assert_eq!(outcomes.as_array().unwrap().len(), 200);
    assert_eq!((&outcomes[0]["decided"]["state"], &outcomes[0]["problem"]), (&json!("approved"), &Value::Null));
    let stale = &outcomes[1]["problem"];
    assert_eq!((&stale["status"], &stale["who"], &outcomes[1]["decided"]), (&json!(409), &json!("ben"), &Value::Null));
    assert_eq!((&outcomes[2]["item"], &outcomes[2]["problem"]["status"]), (&json!(999), &json!(404)));
    // One transaction has one time.
    let log = store(&home).events_after(251, usize::MAX).unwrap();
    assert_eq!(log.len(), 198);
    assert!(log.iter().all(|event| event.at_ms == log[0].at_ms && event.who == "anna"));

    // What is malformed keeps all of them from being taken.
    let before = events(&home);
    let rest = anna.get("/items?state=pending&limit=200").json()["items"].as_array().unwrap().clone();
    let mut decisions: Vec<_> = rest.iter().map(decision).collect();
    decisions[7]["version"] = Value::Null;
    let detail = "`[7].version`: not there";
    problem(
        &anna.post("/decisions", &json!(decisions)),
        400,
        "malformed",
        "Malformed request",
        detail,
        &json!({ "field": "[7].version" }),
    );
    let many: Vec<_> = (0..201).map(|_| decision(&rest[0])).collect();
    let detail = "`body`: 201 decisions are more than 200";
    problem(
        &anna.post("/decisions", &json!(many)),
        400,
        "malformed",
        "Malformed request",
        detail,
        &json!({ "field": "body" }),
    );
    assert_eq!(events(&home), before);
}

#[test]
fn another_tenants_token_sees_nothing_of_ours() {
    let home = Home::empty();
    home.write("operator.toml", "tenants_dir = \"tenants\"\n[tenants.acme]\n[tenants.beta]\n");
    let folder = |tenant: &str| home.path("tenants").join(tenant);
    let token = |tenant: &str, name: &str| {
        fs::create_dir_all(folder(tenant)).unwrap();
        let mut people = People::open(&folder(tenant).join("people.toml")).unwrap();
        people.add(name, Role::Admin).unwrap()
    };
    let (acme, beta) = (token("acme", "anna"), token("beta", "bert"));
    let stored = |tenant: &str| ApprovalStore::open_or_create(&folder(tenant).join(STORE)).unwrap();
    stored("acme").submit(batch(3)).unwrap();
    let mut command = home.command(&["serve", "--otlp", "--json", "--listen", "127.0.0.1:0"]);
    command.env("TUNESMITH_OPERATOR", home.path("operator.toml"));
    let serving = Serving::started(command);
    let (mut anna, mut bert) = (Api::new(&serving.address, &acme), Api::new(&serving.address, &beta));
    assert_eq!(bert.get("/me").json()["tenant"], "beta");
    let ours = anna.item(1);
    assert_eq!(bert.get("/items").json(), json!({ "items": [], "next": null }));
    assert_eq!(bert.get("/batches").json(), json!([]));
    assert_eq!(bert.get("/events").json(), json!({ "events": [], "next": 0 }));
    assert_eq!(bert.get("/export").text(), "");
    for path in ["/items/1", "/items/1/events", "/items/1/parents"] {
        assert_eq!(bert.get(path).status, 404, "{path}");
    }
    for tenant in ["?tenant=acme", "?tenant_id=acme"] {
        assert_eq!(bert.get(&format!("/items{tenant}")).status, 400);
    }
    assert_eq!(bert.decide(&ours, "approve").status, 404);
    assert_eq!(anna.item(1), ours);
    assert_eq!(anna.decide(&ours, "approve").status, 200);
    assert_eq!(stored("beta").events_after(0, 10).unwrap(), []);
}
