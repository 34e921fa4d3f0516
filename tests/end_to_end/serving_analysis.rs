//! What a running server says of a tenant's data, by plugins that change under it.

use std::fs;

use serde_json::json;

use crate::home::{Home, repository};
use crate::serving::{Answered, JSON, PROTOBUF, Serving, answered, otlp_protobuf};
use crate::spans::span_id;

fn ask(serving: &Serving, path: &str, token: &str) -> Answered {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
    let address = &serving.address;
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    answered(stream).unwrap()
}

/// By renaming, as a careful operator would.
fn install(home: &Home, plugin: &str) {
    fs::copy(repository(plugin), home.path("new.wasm")).unwrap();
    fs::rename(home.path("new.wasm"), home.path("policy.wasm")).unwrap();
}

const DEFAULT: &str = "plugins/dist/threshold-policy.wasm";
/// Says `sft`, whatever there is.
const EAGER: &str = "tests/guests/dist/hostile-policy.wasm";

#[test]
fn a_running_server_takes_a_new_version_of_a_plugin_and_keeps_the_old_one_where_the_new_is_none() {
    let home = Home::empty();
    home.write("tunesmith.toml", "agent_type = \"routing\"\n[plugins]\npolicy = \"policy.wasm\"\n");
    install(&home, DEFAULT);
    let mut serving = Serving::start(&home, &["--config", "tunesmith.toml"]);
    let token = serving.token.clone();
    assert_eq!(serving.post("/v1/traces", PROTOBUF, &otlp_protobuf(0..3)).status, 200);
    let verdict = json!({ "span_id": span_id(0), "label": "approved" }).to_string();
    assert_eq!(serving.post("/v1/annotations", JSON, verdict.as_bytes()).status, 200);
    let analysis = |serving: &Serving| ask(serving, "/v1/analysis", &token).json();

    let first = analysis(&serving);
    let counts = (&first["spans"], &first["examples"]["approved_examples"], &first["skipped"]["no verdict"]);
    assert_eq!(counts, (&json!(3), &json!(1), &json!(2)), "{first}");
    assert_eq!(first["decision"]["method"], json!(null));

    install(&home, EAGER);
    assert_eq!(analysis(&serving)["decision"]["reason"], "because");
    // Half of a copy, in its place.
    let whole = fs::read(repository(DEFAULT)).unwrap();
    home.write("policy.wasm", &whole[..whole.len() / 2]);
    assert_eq!(analysis(&serving)["decision"]["reason"], "because");
    assert!(serving.log().contains("the new version of plugin `policy.wasm` is not used: "), "{}", serving.log());
    home.write("policy.wasm", &whole);
    assert_eq!(analysis(&serving)["decision"]["method"], json!(null));
    serving.stop();
}

#[test]
fn a_question_that_cannot_be_answered_says_why_and_to_nobody_without_the_token() {
    let home = Home::empty();
    let serving = Serving::start(&home, &[]);
    let token = serving.token.clone();
    let refused = |path: &str, token: &str| {
        let answered = ask(&serving, path, token);
        (answered.status, answered.text().to_owned())
    };
    assert_eq!(refused("/v1/analysis?agent_type=routing", "nobody's").0, 401);
    let (status, text) = refused("/v1/analysis", &token);
    assert_eq!(status, 422);
    assert!(text.contains("`agent_type` is not set: name the agent to train"), "{text}");
    let (status, text) = refused("/v1/analysis?agent=routing", &token);
    assert_eq!(status, 422);
    assert!(text.contains("unknown field `agent`") && text.contains("ask for `agent_type` and `project`"), "{text}");
    let (status, text) = refused("/v1/analysis?agent_type=routing", &token);
    assert_eq!(status, 422);
    assert!(text.contains("no project is named"), "{text}");
    let (status, text) = refused("/v1/analysis?agent_type=../routing&project=p", &token);
    assert_eq!(status, 422);
    assert!(text.contains("it names a folder"), "{text}");
}
