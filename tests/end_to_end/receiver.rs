//! Telemetry over OTLP/HTTP and feedback on it, from clients that are right and from those that are not.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use tunesmith::config::{Options, ServeConfig, ServeOptions};
use tunesmith::progress::Progress;
use tunesmith::server::{Question, Server, TenantAccess, token_sha256};

use crate::home::Home;
use crate::serving::{
    Answered, JSON, PROTOBUF, Serving, answered, attribute, ids, otlp_protobuf, otlp_span, post, request, stored,
    stored_ids,
};
use crate::spans::{Verdict, lines, otlp, span, span_id};

const TRACES: &str = "/v1/traces";

/// `google.rpc.Status`
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A status of 200 and nothing else, in protobuf.
#[track_caller]
fn assert_stored(answered: &Answered) {
    assert_eq!((answered.status, answered.body.as_slice()), (200, &b""[..]), "{}", answered.text());
    assert!(answered.has("content-type: application/x-protobuf"), "{}", answered.head);
}

#[track_caller]
fn refusal(answered: &Answered) -> RpcStatus {
    assert!(answered.has("content-type: application/x-protobuf"), "{}", answered.head);
    RpcStatus::decode(answered.body.as_slice()).unwrap()
}

#[test]
fn spans_are_stored_alike_whether_received_in_protobuf_or_json_or_imported() {
    let rows = |encoding: &str| {
        let home = Home::empty();
        if encoding == "import" {
            home.write("spans.json", otlp(0..60).to_string());
            assert_eq!(home.run(&["import", "--store", "telemetry.sqlite", "spans.json"]).code, Some(0));
            return stored(&home);
        }
        let serving = Serving::start(&home, &[]);
        match encoding {
            PROTOBUF => assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..60))),
            "gzip" => assert_stored(&serving.post_gzip(TRACES, PROTOBUF, &gzip(&otlp_protobuf(0..60)))),
            _ => {
                let answered =
                    serving.post(TRACES, "application/json; charset=utf-8", otlp(0..60).to_string().as_bytes());
                assert_eq!((answered.status, answered.text()), (200, "{}"));
                assert!(answered.has("content-type: application/json"), "{}", answered.head);
            }
        }
        assert_eq!(serving.stop(), json!({ "spans": 60, "rejected": 0, "annotations": 0, "refused": 0 }));
        stored(&home)
    };
    let imported = rows("import");
    assert_eq!(imported.len(), 60);
    for encoding in [PROTOBUF, JSON, "gzip"] {
        assert!(rows(encoding) == imported, "{encoding}");
    }
}

#[test]
fn a_span_that_cannot_be_stored_is_told_and_the_others_are_stored() {
    let home = Home::empty();
    let serving = Serving::start(&home, &["--max-span", "64KiB"]);
    let huge = Span { attributes: vec![attribute("input.value", &"x".repeat(70_000))], ..otlp_span(2) };
    let body = request(vec![otlp_span(0), Span { span_id: vec![], ..otlp_span(1) }, huge, otlp_span(3)]);
    let answered = serving.post(TRACES, PROTOBUF, &body);
    assert_eq!(answered.status, 200);
    let partial = ExportTraceServiceResponse::decode(answered.body.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert_eq!(
        partial.error_message,
        "2 spans cannot be stored, of which the first: `resourceSpans[0].scopeSpans[0].spans[1]`: no `spanId`"
    );

    let mut body = otlp(4..6);
    let value = &mut body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"][1]["value"];
    value["stringValue"] = "x".repeat(70_000).into();
    let answered = serving.post(TRACES, JSON, body.to_string().as_bytes());
    let length = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0].to_string().len();
    let reason =
        format!("`resourceSpans[0].scopeSpans[0].spans[0]`: its {length} bytes are more than the 65536 of a span");
    let message = format!("1 spans cannot be stored, of which the first: {reason}");
    assert_eq!(answered.json(), json!({ "partialSuccess": { "rejectedSpans": "1", "errorMessage": message } }));

    assert_eq!(stored_ids(&home), ids([0, 3, 5]));
    assert_eq!(serving.stop(), json!({ "spans": 3, "rejected": 3, "annotations": 0, "refused": 0 }));
}

#[test]
fn what_is_no_request_is_refused_in_its_own_encoding_and_the_server_goes_on() {
    let home = Home::empty();
    let serving = Serving::start(&home, &[]);
    let answered = serving.post(TRACES, PROTOBUF, b"\x0a\x7fgarbage");
    assert_eq!(answered.status, 400);
    let status = refusal(&answered);
    assert_eq!(
        (status.code, status.message.as_str()),
        (3, "not an ExportTraceServiceRequest in protobuf (a field goes beyond its message)")
    );
    let answered = serving.post(TRACES, JSON, b"{\"resourceSpans\": 3}");
    assert_eq!((answered.status, &answered.json()["code"]), (400, &json!(3)));
    let message = answered.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("not an ExportTraceServiceRequest in JSON (invalid type: integer `3`"), "{message}");

    let answered = serving.post(TRACES, "text/plain", b"hello");
    assert_eq!(answered.status, 415);
    assert_eq!(answered.text(), "the content type is not known: send `application/x-protobuf` or `application/json`\n");
    assert!(answered.has("content-type: text/plain; charset=utf-8"), "{}", answered.head);
    let deflate = format!("{}content-encoding: deflate\r\n", serving.headers(PROTOBUF));
    let answered = post(&serving.address, TRACES, &deflate, b"").unwrap();
    assert_eq!(answered.status, 415);
    assert_eq!(refusal(&answered).message, "the content encoding `deflate` is not known: send `gzip`, or none");
    let answered = serving.post_gzip(TRACES, PROTOBUF, b"not gzip");
    assert_eq!(answered.status, 400);
    assert!(refusal(&answered).message.starts_with("the body is not gzip as it says ("));

    let answered = serving.post("/v1/metrics", PROTOBUF, b"");
    assert_eq!(answered.status, 404);
    assert_eq!(
        answered.text(),
        "nothing is here: POST /v1/traces, POST /v1/annotations, GET /v1/analysis and GET /healthz are served\n"
    );
    // An exporter with nothing to say.
    assert_stored(&serving.post(TRACES, PROTOBUF, b""));
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..1)));
    assert_eq!(serving.stop(), json!({ "spans": 1, "rejected": 0, "annotations": 0, "refused": 5 }));
}

#[test]
fn a_gzip_bomb_is_refused_before_it_takes_memory() {
    let home = Home::empty();
    let serving = Serving::start(&home, &[]);
    // 4 MiB that would be 4 GiB.
    let member = gzip(&vec![0; 16 << 20]);
    let bomb = member.repeat(256);
    let answered = serving.post_gzip(TRACES, PROTOBUF, &bomb);
    assert_eq!(answered.status, 413);
    let too_long = "the request is longer than 33554432 bytes, compressed or not: send fewer spans at once \
                    (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`), or raise `max_body` of this server";
    assert_eq!(refusal(&answered).message, too_long);
    // As it comes, too: by its length, and without one.
    let answered = serving.post(TRACES, PROTOBUF, &vec![0; (32 << 20) + 1]);
    assert_eq!((answered.status, refusal(&answered).message.as_str()), (413, too_long));
    // What a request may be in memory many times: empty spans, and a list of nothing.
    let empty = b"\x12\x00".repeat(4 << 20);
    let field = |tag: u8, bytes: &[u8]| {
        let mut field = vec![tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        [field, bytes.to_vec()].concat()
    };
    let answered = serving.post(TRACES, PROTOBUF, &field(0x0a, &field(0x12, &empty)));
    assert_eq!(answered.status, 200);
    let partial = ExportTraceServiceResponse::decode(answered.body.as_slice()).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 4 << 20);
    let list = format!("{{\"resourceSpans\": [{{\"scopeSpans\": [{{\"spans\": [1{}]}}]}}]}}", ",1".repeat(4 << 20));
    let answered = serving.post(TRACES, JSON, list.as_bytes());
    assert_eq!(answered.json()["partialSuccess"]["rejectedSpans"], json!(((4 << 20) + 1).to_string()));

    // The binary itself, and two or three times a body.
    assert!(serving.peak_mib() < 200, "{} MiB", serving.peak_mib());
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..1)));
    assert_eq!(stored_ids(&home), ids([0]));
}

#[test]
fn without_the_token_nothing_is_served_but_that_it_lives() {
    let home = Home::empty();
    let serving = Serving::start(&home, &[]);
    let file = home.path("serve.token");
    assert_eq!(serving.announced["tenants"][0]["token_file"], json!(file));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(serving.token.len(), 43);
    let wrong = "x".repeat(43);
    let authorizations = [
        String::new(),
        "authorization: Bearer \r\n".to_owned(),
        format!("authorization: Bearer {wrong}\r\n"),
        format!("authorization: Bearer {}x\r\n", serving.token),
        format!("authorization: Basic {}\r\n", serving.token),
        format!("x-api-key: {}\r\n", serving.token),
    ];
    let message =
        "no tenant has this token: send `Authorization: Bearer TOKEN` with the token of this server's operator";
    for authorization in authorizations {
        let headers = format!("{authorization}content-type: {JSON}\r\n");
        for (path, body) in [(TRACES, otlp(0..1)), ("/v1/annotations", json!({ "span_id": span_id(0), "label": "a" }))]
        {
            let answered = post(&serving.address, path, &headers, body.to_string().as_bytes()).unwrap();
            assert_eq!((answered.status, answered.json()), (401, json!({ "code": 16, "message": message })));
            assert!(answered.has("www-authenticate: bearer"), "{}", answered.head);
        }
    }
    assert_eq!(stored_ids(&home), ids([]));
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let alive = answered(stream).unwrap();
    assert_eq!((alive.status, alive.text()), (200, "ok\n"));
    // The next server has the same token, and a scheme is not a matter of case.
    let token = serving.token.clone();
    serving.stop();
    let serving = Serving::start(&home, &[]);
    let headers = format!("authorization: bearer {token}\r\ncontent-type: {PROTOBUF}\r\n");
    assert_stored(&post(&serving.address, TRACES, &headers, &otlp_protobuf(0..1)).unwrap());
}

#[test]
fn a_token_file_that_is_named_has_to_have_a_token() {
    let home = Home::empty();
    let serve = ["serve", "--otlp", "--listen", "127.0.0.1:0", "--store", "t.sqlite", "--token-file", "token"];
    home.fails(
        &serve,
        "cannot use the token file `token` (No such file or directory (os error 2)): name a readable one with \
         `--token-file`",
    );
    home.write("token", "short\n");
    home.fails(
        &serve,
        "the token in `token` is not 16 or more visible ASCII characters in one line: write a random one, such as of \
         `openssl rand -hex 32`",
    );
    home.write("token", "a-token-of-the-operator\n");
    let serving = Serving::start(&home, &["--token-file", "token"]);
    assert_eq!(serving.token, "a-token-of-the-operator");
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..1)));
    // Its address is taken now.
    let ended = home.run(&["serve", "--otlp", "--listen", &serving.address, "--store", "telemetry.sqlite"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.error(),
        format!(
            "cannot listen at `{}` (Address already in use (os error 98)): stop what listens there, or name another \
             address with `--listen`",
            serving.address
        )
    );
}

#[test]
fn at_its_quota_a_store_takes_in_no_more_until_it_is_raised() {
    let home = Home::empty();
    home.write("tunesmith.toml", "[serve]\nstore_quota = \"1MiB\"\n");
    let mut serving = Serving::start(&home, &[]);
    let body = |n: usize| {
        let spans = (20 * n..20 * n + 20).map(|index| {
            let mut span = otlp_span(index);
            span.attributes.push(attribute("text", &"x".repeat(2000)));
            span
        });
        request(spans.collect())
    };
    let mut n = 0;
    let refused = loop {
        let answered = serving.post(TRACES, PROTOBUF, &body(n));
        if answered.status != 200 {
            break answered;
        }
        n += 1;
        assert!(n < 100, "no end");
    };
    assert_eq!((refused.status, refused.has("retry-after: 60")), (429, true));
    let message = "the telemetry store is at its quota of 1048576 bytes, and nothing more is taken in: this server's \
                   operator raises `store_quota`, or starts it with another store";
    assert_eq!((refusal(&refused).code, refusal(&refused).message.as_str()), (8, message));
    let (status, answer) = serving.annotate(&json!({ "span_id": span_id(0), "label": "approved" }));
    assert_eq!((status, &answer["message"]), (429, &json!(message)));
    assert_eq!(serving.log().matches("takes in nothing more").count(), 1);
    serving.stop();
    assert!(n > 5, "{n}");
    assert_eq!(stored_ids(&home), ids(0..20 * n));

    let serving = Serving::start(&home, &["--store-quota", "1GiB"]);
    assert_stored(&serving.post(TRACES, PROTOBUF, &body(n)));
}

#[test]
fn feedback_over_http_trains_as_that_of_the_command_line_does() {
    let home = Home::ready();
    let serving = Serving::start(&home, &[]);
    let [first, second, third] = [0, 1, 2].map(span_id);
    let approval = json!({ "span_id": first, "label": "approved" });
    assert_eq!(
        serving.annotate(&approval),
        (
            404,
            json!({ "code": 5, "message": format!(
                "span `{first}` has not been received yet, or several projects have it; nothing of this request is stored: \
                 exporters send spans some seconds after their end, so send it again later, check the id, or name its \
                 `project`"
            ) })
        )
    );
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..3)));
    let stored = |span_id: &str, new: bool| json!({ "project": "default", "span_id": span_id, "new": new });
    assert_eq!(serving.annotate(&approval), (200, stored(&first, true)));
    let better = json!({
        "span_id": second.to_uppercase(), "label": "rejected", "correction": "a better answer", "annotator_kind": "HUMAN",
        "score": null, "project": "default",
    });
    let approved = json!({ "span_id": third, "label": "approved", "explanation": "right" });
    assert_eq!(
        serving.annotate(&json!([better, approved])),
        (200, json!([stored(&second, true), stored(&third, true)]))
    );
    // One unknown span, and nothing is stored.
    let rejected = json!({ "span_id": third, "label": "rejected" });
    assert_eq!(serving.annotate(&json!([rejected, { "span_id": "00000000000000ff", "score": 1 }])).0, 404);
    assert_eq!(serving.annotate(&json!([rejected])), (200, json!([stored(&third, false)])));

    let analysis = |what: &str| {
        let ended =
            home.run(&["analyze", "--agent-type", "routing", "--store", "telemetry.sqlite", "--json", "--config", "c"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.json()[what].clone()
    };
    home.write("c", "agent_type = \"routing\"\n");
    assert_eq!(analysis("examples"), json!({ "approved_examples": 2, "preference_pairs": 1, "triplets": 0 }));
    assert_eq!(analysis("skipped"), json!({ "rejected without a preferred answer": 1 }));
    assert_eq!(serving.stop(), json!({ "spans": 3, "rejected": 0, "annotations": 4, "refused": 2 }));
}

#[test]
fn feedback_that_is_none_is_refused_by_its_field() {
    let home = Home::empty();
    let serving = Serving::start(&home, &[]);
    let refused = |feedback: Value| {
        let (status, answer) = serving.annotate(&feedback);
        assert_eq!((status, &answer["code"]), (422, &json!(3)), "{answer}");
        (answer["field"].as_str().unwrap().to_owned(), answer["message"].as_str().unwrap().to_owned())
    };
    let id = span_id(0);
    for (feedback, field, message) in [
        (json!(3), "span_id", "`span_id`: not in a JSON object"),
        (json!({ "label": "a" }), "span_id", "`span_id`: is not there: which span is judged"),
        (json!({ "span_id": "12", "label": "a" }), "span_id", "`span_id`: `12` is not 16 hex digits"),
        (
            json!({ "span_id": id }),
            "label",
            "`label`: is not there, and no `score` or `correction`: what is the verdict",
        ),
        (json!({ "span_id": id, "label": 1 }), "label", "`label`: 1 is not a text"),
        (json!({ "span_id": id, "score": "1" }), "score", "`score`: \"1\" is not a number"),
        (
            json!([{ "span_id": id, "label": "a" }, { "span_id": id, "label": "a", "document": -1 }]),
            "[1].document",
            "`[1].document`: -1 is not the position of a document, counted from 0",
        ),
        (
            json!({ "span_id": id, "label": "a", "annotator_kind": "cat" }),
            "annotator_kind",
            "`annotator_kind`: `cat` is none of `human`, `llm`, `code`",
        ),
        (
            json!({ "span_id": id, "lable": "a" }),
            "lable",
            "`lable`: is no field of feedback; there are `span_id`, `name`, `label`, `score`, `explanation`, `correction`, \
             `document`, `annotator_kind`, `identifier`, `project`",
        ),
    ] {
        assert_eq!(refused(feedback), (field.to_owned(), message.to_owned()));
    }
    let answered = serving.post("/v1/annotations", JSON, b"{");
    assert_eq!(answered.status, 400);
    assert!(answered.json()["message"].as_str().unwrap().starts_with("the body is not JSON ("));
}

/// As library: the server of several tenants, whose tokens decide.
#[test]
fn a_token_reaches_its_own_tenants_store_and_no_other() {
    let home = Home::empty();
    let access = |name: &str| TenantAccess {
        tenant_id: name.to_owned(),
        token_sha256: Some(token_sha256(&format!("the token of {name}"))),
        store: home.path(name).join("telemetry.sqlite"),
        approvals: home.path(name).join("approvals.sqlite"),
        people: home.path(name).join("people.toml"),
        output_dir: home.path(name).join("outputs"),
        store_quota: None,
    };
    let options = ServeOptions { listen: Some("127.0.0.1:0".to_owned()), ..ServeOptions::default() };
    let config = ServeConfig::new(&Options { serve: options, ..Options::default() }).unwrap();
    let nothing = || Box::new(|_: &str, _: &Question| panic!("nobody asks"));
    let server = Server::bind(config.clone(), vec![access("acme"), access("globex")], nothing()).unwrap();
    let address = server.address().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = std::thread::spawn(move || {
        server.run(&Progress::silent(), async {
            let _ = stopped.await;
        })
    });
    let send = |tenant: &str, path: &str, body: &Value| {
        // Whatever else a request says of tenants and projects is not what decides.
        let headers = format!(
            "authorization: Bearer the token of {tenant}\r\ncontent-type: {JSON}\r\nx-tenant-id: acme\r\n\
             x-scope-orgid: acme\r\n"
        );
        post(&address, path, &headers, body.to_string().as_bytes()).unwrap().status
    };
    assert_eq!(send("acme", TRACES, &otlp(0..3)), 200);
    assert_eq!(send("globex", TRACES, &otlp(3..4)), 200);
    assert_eq!(send("globex", "/v1/traces?tenant=acme", &otlp(4..5)), 200);
    assert_eq!(send("nobody", TRACES, &otlp(5..6)), 401);
    let verdict = |index| json!({ "span_id": span_id(index), "label": "approved" });
    assert_eq!(send("globex", "/v1/annotations", &verdict(0)), 404);
    assert_eq!(send("acme", "/v1/annotations", &verdict(0)), 200);
    stop.send(()).unwrap();
    let received = running.join().unwrap().unwrap();
    assert_eq!((received.spans, received.annotations, received.refused), (5, 1, 2));
    let spans = |tenant: &str| {
        let store = rusqlite::Connection::open(home.path(tenant).join("telemetry.sqlite")).unwrap();
        store.query_row("SELECT group_concat(span_id) FROM spans", [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(spans("acme"), [0, 1, 2].map(span_id).join(","));
    assert_eq!(spans("globex"), [3, 4].map(span_id).join(","));

    let refused =
        |tenants: Vec<TenantAccess>| Server::bind(config.clone(), tenants, nothing()).err().unwrap().to_string();
    let same_store = TenantAccess { store: home.path("globex/../acme/telemetry.sqlite"), ..access("other") };
    assert_eq!(
        refused(vec![access("acme"), same_store]),
        "the tenants `acme` and `other` have the same store: give each its own"
    );
    let same_token = TenantAccess { token_sha256: Some(token_sha256("the token of acme")), ..access("other") };
    assert_eq!(
        refused(vec![access("acme"), same_token]),
        "the tenants `acme` and `other` have the same token: give each its own"
    );
}

#[test]
fn two_servers_and_an_import_share_a_store() {
    let home = Home::empty();
    home.write("traces.jsonl", lines((10_000..13_000).map(|index| span(index, Verdict::Approved))));
    let servers = [Serving::start(&home, &[]), Serving::start(&home, &["--token-file", "serve.token"])];
    std::thread::scope(|scope| {
        for (number, serving) in servers.iter().enumerate() {
            scope.spawn(move || {
                for n in (0..100).map(|n| 2000 * number + 20 * n) {
                    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(n..n + 20)));
                }
            });
        }
        let ended = home.run(&["import", "traces.jsonl", "--store", "telemetry.sqlite"]);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    });
    assert_eq!(stored_ids(&home), ids((0..4000).chain(10_000..13_000)));
}

#[test]
fn while_another_program_holds_the_store_requests_wait_or_are_refused_and_none_is_lost() {
    let home = Home::empty();
    let limits = ["--request-timeout-s", "3", "--max-body", "256KiB", "--queue-memory", "1MiB"];
    let serving = Serving::start(&home, &limits);
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..1)));
    let other = rusqlite::Connection::open(home.path("telemetry.sqlite")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let answered = serving.post(TRACES, PROTOBUF, &otlp_protobuf(1..2));
    assert_eq!((answered.status, answered.has("retry-after: 1")), (503, true));
    assert_eq!(refusal(&answered).code, 14);
    assert_eq!(refusal(&answered).message, "another program writes to the store, and did not end: send it again");
    // 16 requests of 200 KB, for which there is no room at once.
    let body = |n: usize| {
        let mut span = otlp_span(n);
        span.attributes.push(attribute("text", &"x".repeat(200_000)));
        request(vec![span])
    };
    let refused: Vec<_> = std::thread::scope(|scope| {
        let (serving, body) = (&serving, &body);
        let sent: Vec<_> = (10..26).map(|n| scope.spawn(move || serving.post(TRACES, PROTOBUF, &body(n)))).collect();
        sent.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let no_room = "more requests wait than this server has memory for: send it again; where that goes on, its operator raises \
                   `queue_memory`, or its disk is slow";
    assert!(refused.iter().all(|answered| answered.status == 503), "{refused:?}");
    assert!(refused.iter().any(|answered| refusal(answered).message == no_room), "{refused:?}");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(stored_ids(&home), ids([0]));
    assert_stored(&serving.post(TRACES, PROTOBUF, &body(10)));
    assert_eq!(stored_ids(&home), ids([0, 10]));
}

#[test]
fn who_sends_slowly_is_cut_off() {
    let home = Home::empty();
    let serving = Serving::start(&home, &["--request-timeout-s", "1", "--max-connections", "1"]);
    let mut slow_head = TcpStream::connect(&serving.address).unwrap();
    slow_head.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\n").unwrap();
    // It has the only place: the next request is served when it is gone.
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(0..1)));
    let mut rest = Vec::new();
    // An answer that it was too slow, or none: in any case an end.
    let _ = slow_head.read_to_end(&mut rest);
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));

    let mut slow_body = TcpStream::connect(&serving.address).unwrap();
    let head = format!(
        "POST {TRACES} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n{}\r\nab",
        serving.headers(PROTOBUF)
    );
    slow_body.write_all(head.as_bytes()).unwrap();
    let answered = answered(slow_body).unwrap();
    assert_eq!(answered.status, 408);
    assert_eq!(refusal(&answered).message, "the request did not arrive within 1 s: send fewer spans at once");
}

#[test]
fn asked_to_end_it_answers_what_it_has_taken_in() {
    let home = Home::empty();
    let mut serving = Serving::start(&home, &["-v"]);
    // Half of a request, and the rest after it was asked to end.
    let body = otlp_protobuf(0..5);
    let mut stream = TcpStream::connect(&serving.address).unwrap();
    let head = format!(
        "POST {TRACES} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{}\r\n",
        body.len(),
        serving.headers(PROTOBUF)
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..10]).unwrap();
    // Served after it: so it has been taken in, too.
    assert_stored(&serving.post(TRACES, PROTOBUF, &otlp_protobuf(5..6)));
    serving.signal(libc::SIGINT);
    let (send, gone) = mpsc::channel();
    let address = serving.address.clone();
    std::thread::spawn(move || {
        while TcpStream::connect(&address).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        send.send(()).unwrap();
    });
    gone.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    stream.write_all(&body[10..]).unwrap();
    assert_stored(&answered(stream).unwrap());
    assert_eq!(serving.ended(), json!({ "spans": 6, "rejected": 0, "annotations": 0, "refused": 0 }));
    let log = serving.log();
    assert!(log.contains(" INFO `default`: 5 rows of 1 requests stored in "), "{log}");
    assert!(log.contains("serve      6 spans (0 rejected), 0 annotations, 0 requests refused ("), "{log}");
    assert_eq!(stored_ids(&home), ids(0..6));
    // Closed in order: there is no log to be played back.
    assert!(!home.names().iter().any(|name| name.ends_with("-wal")), "{:?}", home.names());
}
