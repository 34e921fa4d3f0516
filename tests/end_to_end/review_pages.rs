//! The review in the browser, as a browser without scripts meets it: pages, forms, cookies, and what is in the store afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tunesmith::approval::{ApprovalStore, Candidate, Content, Near, NearTo, NewBatch, Parent};

use crate::home::Home;
use crate::serving::{Answered, Serving, get, post};

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

fn instruction(input: &str, output: &str) -> Content {
    let instruction = "Choose an agent".to_owned();
    Content::Instruction { instruction, input: input.to_owned(), output: output.to_owned() }
}

fn submit(store: &Path, contents: impl IntoIterator<Item = Content>) {
    let candidate = |(seed, content)| Candidate {
        content,
        parents: vec![0],
        prompt_sha256: "0f".repeat(32),
        seed,
        near: vec![Near { to: NearTo::Training, text: "is it raining".to_owned(), similarity: 0.5 }],
    };
    let parent = Parent {
        span_ids: vec!["8114e0e32091afa3".to_owned()],
        trace_id: "3c1a".repeat(8),
        content: instruction("is it raining", "weather"),
    };
    let batch = NewBatch {
        project: "default".to_owned(),
        agent_type: "routing".to_owned(),
        run: Some("sft_routing_1".to_owned()),
        generator: "endpoint".to_owned(),
        model: Some("qwen".to_owned()),
        parents: vec![parent],
        held_out: vec![instruction("is the museum open on monday", "culture")],
        candidates: (0..).zip(contents).map(candidate).collect(),
        expires_at_ms: None,
    };
    ApprovalStore::open_or_create(store).unwrap().submit(batch).unwrap();
}

/// A home with so many items to review.
fn with_items(n: usize) -> Home {
    let home = Home::empty();
    submit(&home.path("approvals.sqlite"), (1..=n).map(|index| instruction(&format!("query {index}"), "weather")));
    home
}

fn serve(home: &Home) -> Serving {
    Serving::started(home.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--store", "telemetry.sqlite"]))
}

/// Adds somebody, and returns their token.
fn add(home: &Home, name: &str, role: &str) -> String {
    let ended = home.run(&["people", "add", name, "--role", role, "--store", "telemetry.sqlite", "--json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.json()["token"].as_str().unwrap().to_owned()
}

/// Action, who and channel of every event of an item after it was submitted.
fn decisions(store: &Path, item: i64) -> Vec<(String, String, String, Option<String>)> {
    let events = ApprovalStore::open(store).unwrap().events(item).unwrap();
    let told = |event: tunesmith::approval::Event| {
        (event.action.name().to_owned(), event.who, event.channel.name().to_owned(), event.reason)
    };
    events.into_iter().skip(1).map(told).collect()
}

fn decided(action: &str, who: &str, channel: &str, reason: Option<&str>) -> (String, String, String, Option<String>) {
    (action.to_owned(), who.to_owned(), channel.to_owned(), reason.map(str::to_owned))
}

/// Somebody's browser.
struct Browser {
    address: String,
    cookie: String,
}

impl Browser {
    #[track_caller]
    fn signed_in(serving: &Serving, token: &str) -> Self {
        let mut browser = Self { address: serving.address.clone(), cookie: String::new() };
        let answered = browser.send("/login", &[("token", token), ("next", "/review")]);
        assert_eq!((answered.status, location(&answered)), (303, "/review"), "{}", answered.text());
        // The head is in lower case, and cookies are not.
        browser.cookie = cookie_of(&serving.address, token);
        browser
    }

    fn headers(&self) -> String {
        if self.cookie.is_empty() { String::new() } else { format!("cookie: {}\r\n", self.cookie) }
    }

    fn get(&self, path: &str) -> Answered {
        get(&self.address, path, &self.headers()).unwrap()
    }

    #[track_caller]
    fn page(&self, path: &str) -> String {
        let answered = self.get(path);
        assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        answered.text().to_owned()
    }

    fn send(&self, path: &str, fields: &[(&str, &str)]) -> Answered {
        self.send_with(path, fields, "sec-fetch-site: same-origin\r\n")
    }

    fn send_with(&self, path: &str, fields: &[(&str, &str)], headers: &str) -> Answered {
        let pairs: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let headers = format!("{}{headers}content-type: application/x-www-form-urlencoded\r\n", self.headers());
        post(&self.address, path, &headers, pairs.join("&").as_bytes()).unwrap()
    }

    /// The fields of the form by which the page of an item decides.
    fn seen(&self, item: i64) -> Vec<(&'static str, String)> {
        let page = self.page(&format!("/review/items/{item}"));
        let form = page.split_once("<section class=\"decide\"").unwrap_or_else(|| panic!("{page}")).1;
        ["csrf", "version", "content_sha256"].map(|name| (name, field(form, name))).to_vec()
    }

    /// Decides as the form of the page does.
    fn decide(&self, item: i64, query: &str, fields: &[(&str, &str)]) -> Answered {
        let seen = self.seen(item);
        let seen: Vec<_> = seen.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.send(&format!("/review/items/{item}/decide{query}"), &[&seen, fields].concat())
    }

    fn csrf(&self) -> String {
        field(&self.page("/review"), "csrf")
    }
}

/// Signs in once more: a session of its own.
fn cookie_of(address: &str, token: &str) -> String {
    use std::io::{Read, Write};
    let body = format!("token={token}");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let length = body.len();
    let head =
        format!("POST /login HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let cookie =
        answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap_or_else(|| panic!("{answer}"));
    let (cookie, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Strict; Path=/; Max-Age=43200");
    cookie.to_owned()
}

fn encoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[track_caller]
fn field(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let rest = page.split_once(&start).unwrap_or_else(|| panic!("no `{name}` in {page}")).1;
    rest.split('"').next().unwrap().to_owned()
}

#[track_caller]
fn location(answered: &Answered) -> &str {
    let line = answered.head.split_once("\r\nlocation: ").unwrap_or_else(|| panic!("{answered:?}")).1;
    line.split("\r\n").next().unwrap()
}

/// What a page says is wrong.
#[track_caller]
fn alert(answered: &Answered) -> String {
    let text = answered.text();
    let rest = text.split_once("role=\"alert\"").unwrap_or_else(|| panic!("{text}")).1;
    rest.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()
}

#[test]
fn a_reviewer_signs_in_and_decides_item_by_item() {
    let home = with_items(3);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anybody = Browser { address: serving.address.clone(), cookie: String::new() };
    assert_eq!(location(&anybody.get("/")), "/review");
    let asked = anybody.get("/review/items/2?state=pending");
    assert_eq!((asked.status, location(&asked)), (303, "/login?next=%2freview%2fitems%2f2%3fstate%3dpending"));

    let anna = Browser::signed_in(&serving, &token);
    let queue = anna.page("/review");
    assert!(queue.contains("<strong>3</strong> of 3 items wait for a decision."), "{queue}");
    let list = anna.page("/review/items?state=pending");
    assert!(list.contains("href=\"/review/items/1?state=pending\" data-key=\"j\""), "{list}");
    let item = anna.page("/review/items/1?state=pending");
    for part in [
        "<title>Item 1 - Tunesmith</title>",
        "1 of 3 pending",
        "50 % a training example",
        "trace <code>3c1a3c1a",
        "qwen",
    ] {
        assert!(item.contains(part), "{part} is not in {item}");
    }

    let approved = anna.decide(1, "?state=pending", &[("action", "approve")]);
    assert_eq!((approved.status, location(&approved)), (303, "/review/items/2?state=pending"));
    let page = anna.page("/review/items/2?state=pending");
    assert!(page.contains("<p role=\"status\">approved item 1 - undo: u</p>"), "{page}");
    let rejected = anna.decide(2, "?state=pending", &[("action", "reject"), ("reason", "wrong agent")]);
    assert_eq!(location(&rejected), "/review/items/3?state=pending");
    let edited =
        [("action", "edit"), ("instruction", "Choose an agent"), ("input", "query\r\n3"), ("output", "news <b>")];
    let answered = anna.decide(3, "?state=pending", &edited);
    assert_eq!(location(&answered), "/review/items?state=pending");
    let page = anna.page("/review/items/3");
    assert!(page.contains("<del>weather</del><ins>news &lt;b&gt;</ins>"), "{page}");
    let undone = anna.decide(2, "", &[("action", "undo")]);
    assert_eq!(location(&undone), "/review/items/2");

    let store = home.path("approvals.sqlite");
    assert_eq!(decisions(&store, 1), [decided("approved", "anna", "web", None)]);
    assert_eq!(
        decisions(&store, 2),
        [decided("rejected", "anna", "web", Some("wrong agent")), decided("undone", "anna", "web", None)]
    );
    let item = ApprovalStore::open(&store).unwrap().item(3).unwrap().unwrap();
    assert_eq!(item.content, instruction("query\n3", "news <b>"));

    let signed_out = anna.send("/logout", &[("csrf", &anna.csrf())]);
    assert_eq!(location(&signed_out), "/login");
    assert_eq!(anna.get("/review").status, 303);
}

#[test]
fn whoever_guesses_tokens_waits_and_nobody_is_sent_elsewhere() {
    let home = with_items(1);
    let token = add(&home, "anna", "viewer");
    let serving = serve(&home);
    let anybody = Browser { address: serving.address.clone(), cookie: String::new() };
    let elsewhere = anybody.send("/login", &[("token", &token), ("next", "//evil.example/")]);
    assert_eq!((elsewhere.status, location(&elsewhere)), (303, "/review"));
    let foreign = anybody.send_with("/login", &[("token", &token)], "origin: http://evil.example\r\n");
    assert_eq!(foreign.status, 403);
    for _ in 0..10 {
        let wrong = anybody.send("/login", &[("token", "not a token")]);
        assert_eq!(wrong.status, 401);
        assert_eq!(
            alert(&wrong),
            "Nobody has this token: check that all of it was copied, or ask an admin for a new one."
        );
    }
    let waits = anybody.send("/login", &[("token", &token)]);
    assert_eq!(waits.status, 429);
    let seconds = waits.head.split_once("\r\nretry-after: ").unwrap().1.split("\r\n").next().unwrap();
    assert!((1..=60).contains(&seconds.parse::<u32>().unwrap()), "{seconds}");
    assert_eq!(alert(&waits), format!("Too many tokens from your address were nobody's. Try again in {seconds} s."));
}

#[test]
fn a_form_that_is_not_of_the_persons_page_changes_nothing() {
    let home = with_items(1);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let seen = anna.seen(1);
    let [csrf, version, sha256] = [0, 1, 2].map(|index| (seen[index].0, seen[index].1.as_str()));
    let action = ("action", "approve");
    let path = "/review/items/1/decide";
    assert_eq!(anna.send(path, &[version, sha256, action]).status, 403);
    assert_eq!(anna.send(path, &[("csrf", "guessed"), version, sha256, action]).status, 403);
    let other = Browser::signed_in(&serving, &token);
    assert_eq!(other.send(path, &[csrf, version, sha256, action]).status, 403);
    for headers in ["sec-fetch-site: cross-site\r\n", "origin: http://evil.example\r\n", "origin: null\r\n"] {
        assert_eq!(anna.send_with(path, &[csrf, version, sha256, action], headers).status, 403, "{headers}");
    }
    let anybody = Browser { address: serving.address.clone(), cookie: String::new() };
    let signed_out = anybody.send(path, &[csrf, version, sha256, action]);
    assert_eq!(signed_out.status, 401);
    assert!(alert(&signed_out).contains("Nothing of what you sent was stored, and nothing of it is kept."));
    assert_eq!(anna.send(path, &[csrf, action]).status, 422);
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1), []);
    assert_eq!(anna.send(path, &[csrf, version, sha256, action]).status, 303);
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1).len(), 1);
}

#[test]
fn each_may_what_their_role_allows() {
    let home = with_items(4);
    let [viewer, reviewer, admin] =
        ["viewer", "reviewer", "admin"].map(|role| add(&home, &format!("the.{role}"), role));
    let serving = serve(&home);
    let [viewer, reviewer, admin] = [viewer, reviewer, admin].map(|token| Browser::signed_in(&serving, &token));
    let page = viewer.page("/review/items/1");
    assert!(page.contains("You are a viewer: a reviewer decides.") && !page.contains("value=\"approve\""), "{page}");
    let seen = reviewer.seen(1);
    let csrf = viewer.csrf();
    let fields =
        [("csrf", csrf.as_str()), ("version", &seen[1].1), ("content_sha256", &seen[2].1), ("action", "approve")];
    let refused = viewer.send("/review/items/1/decide", &fields);
    assert_eq!(refused.status, 403);
    assert_eq!(
        alert(&refused),
        "the.viewer is a viewer, and this takes a reviewer: ask an admin of this machine. Nothing was stored."
    );
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1), []);

    assert_eq!(reviewer.send("/review/bulk", &[("csrf", &reviewer.csrf()), ("action", "approve")]).status, 403);
    assert!(!reviewer.page("/review/items?state=pending").contains("/review/bulk"));
    assert!(admin.page("/review/items?state=pending").contains("Decide all 4 of these at once"));
    assert_eq!((viewer.get("/people").status, reviewer.get("/people").status), (403, 403));
    assert!(admin.page("/people").contains("<th scope=\"row\">the.viewer</th><td>viewer</td>"));
}

#[test]
fn who_is_late_is_told_who_was_faster() {
    let home = with_items(1);
    let tokens = ["anna", "bert"].map(|name| add(&home, name, "reviewer"));
    let serving = serve(&home);
    let [anna, bert] = tokens.map(|token| Browser::signed_in(&serving, &token));
    let mut seen = bert.seen(1);
    assert_eq!(anna.decide(1, "", &[("action", "approve")]).status, 303);
    seen.extend([("action", "edit".to_owned()), ("instruction", "mine".to_owned())]);
    seen.extend([("input", "of bert <i>".to_owned()), ("output", "x".to_owned())]);
    let fields: Vec<_> = seen.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let late = bert.send("/review/items/1/decide", &fields);
    assert_eq!(late.status, 409);
    assert_eq!(
        alert(&late),
        "item 1 has changed since you saw it: anna approved it; look at it again, then decide. Nothing was stored."
    );
    assert!(late.text().contains("What you wrote, which is not stored") && late.text().contains("of bert &lt;i&gt;"));
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1), [decided("approved", "anna", "web", None)]);
}

#[test]
fn who_is_removed_is_out_at_once_and_by_a_new_token_back() {
    let home = with_items(2);
    let (token, _) = (add(&home, "anna", "reviewer"), add(&home, "bert", "admin"));
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let seen = anna.seen(1);
    let ended = home.run(&["people", "remove", "anna", "--store", "telemetry.sqlite"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let new = add(&home, "anna", "viewer");
    assert_eq!(anna.get("/review").status, 303);
    let fields: Vec<_> = seen.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let refused = anna.send("/review/items/1/decide", &[&fields[..], &[("action", "approve")]].concat());
    assert_eq!(refused.status, 401);
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1), []);
    assert!(Browser::signed_in(&serving, &new).page("/review").contains("anna (viewer)"));
}

#[test]
fn an_edit_that_is_refused_keeps_what_was_written() {
    let home = with_items(2);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let edit = |instruction: &'static str, input: &'static str, output: &'static str| {
        let fields = [
            ("action", "edit"),
            ("instruction", instruction),
            ("input", input),
            ("output", output),
            ("reason", "why <"),
        ];
        anna.decide(1, "?state=pending", &fields)
    };
    let cases = [
        (
            ("Choose an agent", "a </textarea> of mine", " \r\n"),
            "`output` of item 1 is empty: write what the model should learn, or reject the item. Nothing was stored.",
        ),
        (
            ("Choose an agent", "query 1", "weather"),
            "item 1 is as it was: approve it, or change it. Nothing was stored.",
        ),
        (
            ("Choose an agent", "query 2", "weather"),
            "item 1 would be a duplicate of item 2: reject it, or ask something else. Nothing was stored.",
        ),
        (
            ("Choose", "is the museum open on monday", "culture"),
            "item 1 would be equal to a held-out example, by which the adapter is judged: ask something else, or reject the item. \
             Nothing was stored.",
        ),
    ];
    for ((instruction, input, output), message) in cases {
        let refused = edit(instruction, input, output);
        assert_eq!((refused.status, alert(&refused).as_str()), (409, message));
        let kept = input.replace('<', "&lt;").replace('>', "&gt;");
        let page = refused.text();
        assert!(page.contains(&format!(">\n{kept}</textarea>")), "{page}");
        assert!(page.contains("<details class=\"edit\" open>") && page.contains("value=\"why &lt;\""), "{page}");
    }
    assert_eq!(decisions(&home.path("approvals.sqlite"), 1), []);
}

#[test]
fn every_page_has_its_headers_and_every_address_an_answer() {
    let home = with_items(1);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    for (path, status) in [("/login", 200), ("/review", 200), ("/review/items/1", 200), ("/review/items/9", 404)] {
        let answered = anna.get(path);
        assert_eq!(answered.status, status, "{path}");
        for header in [
            &format!("content-security-policy: {}", POLICY.to_lowercase()),
            "x-content-type-options: nosniff",
            "referrer-policy: same-origin",
            "cache-control: no-store",
            "content-type: text/html; charset=utf-8",
        ] {
            assert!(answered.has(header), "{path} lacks `{header}`: {}", answered.head);
        }
        assert!(answered.text().starts_with("<!DOCTYPE html><html lang=\"en\">"), "{path}");
    }
    assert_eq!(alert(&anna.get("/review/items/9")), "There is no item 9: see which there are.");
    assert_eq!(anna.get("/review/items/x").status, 404);
    assert_eq!(anna.get("/review/items?state=done").status, 400);
    assert_eq!(anna.get("/review/items/1/decide").status, 405);
    assert_eq!(get(&serving.address, "/nowhere", "accept: text/html\r\n").unwrap().status, 404);
    let css = get(&serving.address, "/assets/app.css", "").unwrap();
    assert!(
        css.has("content-type: text/css; charset=utf-8")
            && css.has("cache-control: public, max-age=31536000, immutable")
    );
    assert!(get(&serving.address, "/assets/app.js", "").unwrap().has("content-type: text/javascript; charset=utf-8"));
}

#[test]
fn texts_are_texts_whatever_is_in_them() {
    let home = Home::empty();
    let hostile = "<script>alert(1)</script><img src=x onerror=alert(1)> \"' \u{202e}gnirts";
    submit(&home.path("approvals.sqlite"), [instruction(hostile, hostile)]);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let rejected = anna.decide(1, "", &[("action", "reject"), ("reason", hostile)]);
    assert_eq!(rejected.status, 303);
    let query = encoded(hostile);
    for path in
        ["/review/items", "/review/items/1", &format!("/review/items?q={query}"), &format!("/login?next=/{query}")]
    {
        let page = anna.page(path);
        assert_eq!(page.matches("<script").count(), 1, "{path}: {page}"); // our own
        assert!(!page.contains("<img"), "{path}: {page}");
    }
    let page = anna.page("/review/items/1");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x"), "{page}");
    assert!(page.contains("<span class=\"hidden-character\">U+202E</span>gnirts"), "{page}");
}

#[test]
fn a_text_is_found_as_it_is_written_in_whatever_case() {
    let home = Home::empty();
    let inputs = ["he said \"100% sure\"", "he said 100 times sure", "C:\\new_folder\nand more", "C:\\newXfolder"];
    submit(&home.path("approvals.sqlite"), inputs.map(|input| instruction(input, "x")));
    let token = add(&home, "anna", "viewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let found = |text: &str| {
        let page = anna.page(&format!("/review/items?q={}", encoded(text)));
        (1..=4).filter(|id| page.contains(&format!("Item {id}<"))).collect::<Vec<_>>()
    };
    assert_eq!(found("HE SAID"), [1, 2]);
    assert_eq!(found("100%"), [1]);
    assert_eq!(found("\"100"), [1]);
    assert_eq!(found("w_f"), [3]);
    assert_eq!(found("C:\\n"), [3, 4]);
    assert_eq!(found("r\nand"), [3]);
    assert_eq!(found("!"), [0; 0]);
    // Longer than a pattern of SQLite's may be, and not than the head of a request.
    assert!(anna.page(&format!("/review/items?q={}", "a".repeat(50_001))).contains("There are no such items."));
}

#[test]
fn many_are_approved_at_once_after_all_of_a_sample_was() {
    let home = with_items(20);
    let token = add(&home, "anna", "admin");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let csrf = anna.csrf();
    let begun = anna.send("/review/bulk?state=pending", &[("csrf", &csrf), ("action", "approve")]);
    assert_eq!((begun.status, location(&begun)), (303, "/review/bulk"));
    let early = anna.send("/review/bulk/finish", &[("csrf", &csrf)]);
    assert_eq!(
        (early.status, alert(&early).as_str()),
        (409, "5 items of the sample are not decided yet. Nothing was stored.")
    );

    let mut sample = Vec::new();
    let page = anna.page("/review/bulk");
    let start = page.split_once("href=\"/review/items/").unwrap().1.split('?').next().unwrap();
    let mut next = start.parse::<i64>().unwrap();
    loop {
        sample.push(next);
        let answered = anna.decide(next, "?state=pending&sample=1", &[("action", "approve")]);
        match location(&answered).strip_prefix("/review/items/") {
            Some(rest) => next = rest.split('?').next().unwrap().parse().unwrap(),
            None => break assert_eq!(location(&answered), "/review/bulk"),
        }
    }
    assert_eq!(sample.len(), 5, "the root of 20, rounded up: {sample:?}");
    let store = home.path("approvals.sqlite");
    // Meanwhile somebody else decides one of the rest.
    let other = (1..=20).find(|id| !sample.contains(id)).unwrap();
    let bert = Browser::signed_in(&serving, &add(&home, "bert", "reviewer"));
    assert_eq!(bert.decide(other, "", &[("action", "reject")]).status, 303);

    assert!(anna.page("/review/bulk").contains("Approve the other 15"));
    let finished = anna.send("/review/bulk/finish", &[("csrf", &csrf)]);
    assert_eq!((finished.status, location(&finished)), (303, "/review/items?state=pending"));
    let page = anna.page("/review/items?state=pending");
    assert!(
        page.contains(&format!("approved 14 items at once, and 1 not: item {other} has changed since you saw it")),
        "{page}"
    );
    for id in 1..=20 {
        let wanted = match id {
            id if id == other => decided("rejected", "bert", "web", None),
            id if sample.contains(&id) => decided("approved", "anna", "web", None),
            _ => decided("approved", "anna", "web_bulk", Some("bulk of 20 after a sample of 5")),
        };
        assert_eq!(decisions(&store, id), [wanted], "item {id}");
    }
}

#[test]
fn a_sample_that_is_not_all_approved_ends_the_bulk_and_to_reject_many_takes_a_reason() {
    let home = with_items(12);
    let token = add(&home, "anna", "admin");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let csrf = anna.csrf();
    let begin = |action| anna.send("/review/bulk?state=pending", &[("csrf", &csrf), ("action", action)]).status;
    assert_eq!(begin("approve"), 303);
    let page = anna.page("/review/bulk");
    let one = page.split_once("href=\"/review/items/").unwrap().1.split('?').next().unwrap().parse().unwrap();
    let rejected = anna.decide(one, "?state=pending&sample=1", &[("action", "reject")]);
    assert_eq!(location(&rejected), "/review/bulk");
    let ended = anna.get("/review/bulk");
    assert_eq!(
        alert(&ended),
        format!(
            "item {one} of the sample was rejected by anna: the rest is not approved at once. Decide the items one by one, or begin \
             anew."
        )
    );
    assert_eq!(anna.send("/review/bulk/finish", &[("csrf", &csrf)]).status, 409);

    assert_eq!(begin("reject"), 303);
    let without = anna.send("/review/bulk/finish", &[("csrf", &csrf), ("reason", " ")]);
    assert_eq!(
        (without.status, alert(&without).as_str()),
        (409, "To reject many at once takes a reason: go back and give it. Nothing was stored.")
    );
    assert_eq!(anna.send("/review/bulk/finish", &[("csrf", &csrf), ("reason", "wrong prompt")]).status, 303);
    let store = home.path("approvals.sqlite");
    for id in (1..=12).filter(|id| *id != one) {
        assert_eq!(decisions(&store, id), [decided("rejected", "anna", "web_bulk", Some("wrong prompt (bulk of 11)"))]);
    }
}

#[test]
fn a_store_that_cannot_be_used_is_told_and_nothing_is_stored() {
    let home = with_items(1);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let path = home.path("approvals.sqlite");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fields = [("action", "edit"), ("instruction", "x"), ("input", "kept text"), ("output", "y")];
    let busy = anna.decide(1, "", &fields);
    assert_eq!(
        (busy.status, alert(&busy).as_str()),
        (503, "Another program writes to the approval store and did not end. Nothing was stored: do it again.")
    );
    assert!(busy.text().contains(">\nkept text</textarea>"));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(decisions(&path, 1), []);
    assert_eq!(anna.decide(1, "", &fields).status, 303);
}

#[test]
fn tenants_review_what_is_theirs() {
    let home = Home::empty();
    home.write("operator.toml", "tenants_dir = \"tenants\"\n[tenants.acme]\n[tenants.beta]\n");
    for tenant in ["acme", "beta"] {
        let folder = home.path("tenants").join(tenant);
        fs::create_dir_all(&folder).unwrap();
        let n = if tenant == "beta" { 3 } else { 1 };
        submit(
            &folder.join("approvals.sqlite"),
            (0..n).map(|index| instruction(&format!("secret of {tenant} {index}"), "x")),
        );
    }
    let add = |tenant: &str| {
        let ended = home.run(&[
            "people",
            "add",
            "anna",
            "--role",
            "admin",
            "--json",
            "--operator",
            "operator.toml",
            "--tenant",
            tenant,
        ]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.json()["token"].as_str().unwrap().to_owned()
    };
    let tokens = ["acme", "beta"].map(add);
    let serving =
        Serving::started(home.command(&["serve", "--json", "--listen", "127.0.0.1:0", "--operator", "operator.toml"]));
    let [acme, beta] = tokens.map(|token| Browser::signed_in(&serving, &token));
    assert!(beta.page("/review/items/3").contains("secret of beta 2"));
    for path in ["/review", "/review/items", "/review/items/1", "/people"] {
        assert!(!acme.page(path).contains("of beta"), "{path}");
    }
    assert_eq!(acme.get("/review/items/3").status, 404);
    let csrf = acme.csrf();
    let seen = beta.seen(3);
    let fields =
        [("csrf", csrf.as_str()), ("version", &seen[1].1), ("content_sha256", &seen[2].1), ("action", "approve")];
    assert_eq!(acme.send("/review/items/3/decide", &fields).status, 404);
    assert_eq!(acme.decide(1, "", &[("action", "approve")]).status, 303);
    assert_eq!(decisions(&home.path("tenants/acme/approvals.sqlite"), 1).len(), 1);
    for id in 1..=3 {
        assert_eq!(decisions(&home.path("tenants/beta/approvals.sqlite"), id), []);
    }
}

#[test]
fn the_first_to_review_is_the_owner_of_the_account_and_telemetry_is_received_only_where_it_is_asked_for() {
    let home = with_items(1);
    let serving = serve(&home);
    let announced = &serving.announced;
    assert_eq!(announced["review"], json!(format!("http://{}/", serving.address)));
    assert_eq!(announced["tenants"][0]["token_file"], Value::Null);
    let file = announced["tenants"][0]["review_token_file"].as_str().unwrap().to_owned();
    assert!(file.ends_with("/review.token"), "{file}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&file).unwrap();
    let browser = Browser::signed_in(&serving, token.trim());
    assert!(browser.page("/people").contains("<td>admin</td>"));
    assert_eq!(get(&serving.address, "/healthz", "").unwrap().text(), "ok\n");
    assert_eq!(post(&serving.address, "/v1/traces", "", b"").unwrap().status, 404);
    assert!(!home.path("telemetry.sqlite").exists() && !home.path("serve.token").exists());
    drop(serving);

    // The next start tells of it again, until the token is nobody's.
    let serving = serve(&home);
    assert_eq!(serving.announced["tenants"][0]["review_token_file"], json!(file));
    Browser::signed_in(&serving, token.trim());
    drop(serving);
    fs::write(home.path("people.toml"), "").unwrap();
    add(&home, "anna", "admin");
    assert_eq!(serve(&home).announced["tenants"][0]["review_token_file"], Value::Null);
}

#[test]
fn people_are_added_listed_and_removed_on_the_machine() {
    let home = Home::empty();
    let people = |args: &[&str]| home.run(&[&["people"], args, &["--people", "who.toml"]].concat());
    let listed = people(&["list"]);
    assert_eq!(listed.stdout, "nobody is in `who.toml`: `tunesmith people add NAME --role reviewer`\n");
    let added = people(&["add", "anna", "--role", "reviewer"]);
    let lines: Vec<_> = added.stdout.lines().collect();
    assert_eq!(lines[0], "anna is a reviewer of `who.toml`; they sign in with this token, which is told only now:");
    assert_eq!((lines.len(), lines[1].len()), (2, 43));
    assert_eq!(
        people(&["add", "anna", "--role", "admin"]).error(),
        "`anna` is there already: remove them first, and their token with them"
    );
    assert_eq!(people(&["list", "--json"]).json(), json!([{ "name": "anna", "role": "reviewer" }]));
    assert_eq!(people(&["remove", "anna"]).stdout, "anna is removed from `who.toml`; what they decided stays\n");
    assert_eq!(
        people(&["remove", "anna"]).error(),
        "`who.toml` has no `anna`: `tunesmith people list` has those there are"
    );
}

/// What a reviewer waits for; a figure for this machine, and a bound far above it that no load of it breaks.
#[test]
fn ten_thousand_items_are_one_page_away() {
    let home = with_items(10_000);
    let token = add(&home, "anna", "reviewer");
    let serving = serve(&home);
    let anna = Browser::signed_in(&serving, &token);
    let time = |path: &str| {
        let mut times: Vec<_> = (0..5)
            .map(|_| {
                let start = Instant::now();
                anna.page(path);
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{path}: {:.1} ms", times[2].as_secs_f64() * 1e3);
        times[2]
    };
    let paths = [
        "/review",
        "/review/items?state=pending&after=5000",
        "/review/items/5000?state=pending&agent_type=routing",
        "/review/items?q=query+9999",
    ];
    for path in paths {
        assert!(time(path) < Duration::from_secs(1), "{path}");
    }
    let mut times = Vec::new();
    for id in 1..=20 {
        let seen = anna.seen(id);
        let fields: Vec<_> = seen.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let start = Instant::now();
        let answered = anna.send(
            &format!("/review/items/{id}/decide?state=pending"),
            &[&fields[..], &[("action", "approve")]].concat(),
        );
        times.push(start.elapsed());
        assert_eq!(answered.status, 303);
    }
    times.sort();
    println!("a decision: {:.1} ms", times[10].as_secs_f64() * 1e3);
}
