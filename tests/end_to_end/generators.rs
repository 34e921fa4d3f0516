//! Generators as a run calls them. Where a server is wanted that fails, it is scripted here, because a real one fails on no
//! demand; `tests/llm/` has a real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tunesmith::approval::Content;
use tunesmith::config::{GeneratorChoice, Options, RunConfig};
use tunesmith::plugins::bindings::types::{Example, ExampleKind, InstructionExample, Lineage};
use tunesmith::progress::Progress;
use tunesmith::synthetic::{Generated, Generator, SyntheticError, Wanted, generate};

use crate::home::{Home, tiny_model};
use crate::serving::Serving;
use crate::serving_encrypted::certify;

const KEY: &str = "secret-of-the-tests";
const INSTRUCTION: &str = "Route the following query to the appropriate agent";

enum Reply {
    /// A chat completion with this text, and its usage where it is counted.
    Says(String, Option<(u64, u64)>),
    Status(u16, &'static str, String),
    /// After so long.
    Late(Duration, String),
    /// Half of a body, and the end.
    Cut,
    /// So many bytes.
    Huge(usize),
}

struct Asked {
    target: String,
    authorization: Option<String>,
    body: Value,
}

/// A server on loopback that answers by a script, several at a time. It ends with the test's process.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    most_at_once: Arc<AtomicUsize>,
}

impl Server {
    fn new(script: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let most_at_once = Arc::new(AtomicUsize::new(0));
        let (log, most, now) = (Arc::clone(&asked), Arc::clone(&most_at_once), Arc::new(AtomicUsize::new(0)));
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, most, now) = (Arc::clone(&log), Arc::clone(&most), Arc::clone(&now));
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some(asked) = read(&stream) else { return };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let body = asked.body.clone();
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(asked);
                        log.len() - 1
                    };
                    let reply = script(number, &body);
                    answer(&mut stream, reply);
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, asked, most_at_once }
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let target = first.rsplit_once(' ')?.0.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { target, authorization, body: serde_json::from_slice(&body).unwrap_or(Value::Null) })
}

fn answer(stream: &mut TcpStream, reply: Reply) {
    let (status, headers, body) = match reply {
        Reply::Says(text, usage) => (200, "", completion(&text, usage)),
        Reply::Status(status, headers, body) => (status, headers, body),
        Reply::Late(pause, text) => {
            std::thread::sleep(pause);
            (200, "", completion(&text, None))
        }
        Reply::Cut => {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{\"cho");
            return;
        }
        Reply::Huge(bytes) => (200, "", format!("{{\"choices\": \"{}\"}}", "x".repeat(bytes))),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn completion(text: &str, usage: Option<(u64, u64)>) -> String {
    let mut completion = json!({ "choices": [{ "message": { "role": "assistant", "content": text } }] });
    if let Some((prompt, answer)) = usage {
        completion["usage"] = json!({ "prompt_tokens": prompt, "completion_tokens": answer });
    }
    completion.to_string()
}

/// Queries that nobody asked before, another for each number.
fn query(number: usize) -> String {
    const THINGS: [&str; 8] =
        ["kettles", "violins", "tractors", "glaciers", "bridges", "orchids", "puppets", "engines"];
    const PLACES: [&str; 8] = ["Peru", "the cellar", "Wales", "a museum", "orbit", "the library", "Kyoto", "our yard"];
    const VERBS: [&str; 4] = ["show me", "I would like to see", "search the archive for", "is anything there on"];
    let (thing, place) = (THINGS[number % 8], PLACES[(number / 8 + number) % 8]);
    format!("{} {thing} from {place} of the year {}", VERBS[number % 4], 1900 + number * 37 % 120)
}

fn good(number: usize) -> String {
    json!({ "examples": [{ "input": query(number), "output": "clip_library" }] }).to_string()
}

fn example(span: usize, input: &str, output: &str) -> Example {
    Example::Instruction(InstructionExample {
        instruction: INSTRUCTION.to_owned(),
        input: input.to_owned(),
        output: output.to_owned(),
        corrected: false,
        lineage: Lineage {
            span_ids: vec![format!("{span:016x}")],
            trace_id: format!("{span:032x}"),
            session_id: None,
            annotation_names: vec!["human_approval".to_owned()],
        },
    })
}

fn parents() -> Vec<Example> {
    let clips =
        ["find clips about the old harbour", "play the part about welding", "footage of the spring flood, please"];
    let weather = ["will it rain in Bergen tomorrow", "how warm is it in the valley", "do I need an umbrella in Oslo"];
    let of = |inputs: [&'static str; 3], agent: &'static str| inputs.into_iter().map(move |input| (input, agent));
    let all = of(clips, "clip_library").chain(of(weather, "weather_agent"));
    all.enumerate().map(|(span, (input, output))| example(span, input, output)).collect()
}

fn wanted(count: usize, parents: &[Example]) -> Wanted<'_> {
    Wanted {
        project: "acme",
        agent_type: "routing",
        instruction: INSTRUCTION,
        kind: ExampleKind::ApprovedExample,
        count,
        parents,
        existing: parents,
        held_out: &[],
    }
}

/// That asks the server at `url`, without pauses between attempts as there are none.
fn config(home: &Home, url: &str, change: impl FnOnce(&mut Options)) -> RunConfig {
    let mut options = Options { agent_type: Some("routing".to_owned()), ..Options::default() };
    options.telemetry.store = Some(home.path("telemetry.sqlite"));
    options.base_model = Some(tiny_model());
    options.compute.device = Some("cpu".parse().unwrap());
    options.synthetic.generator = Some(GeneratorChoice::Endpoint);
    options.synthetic.synthetic_url = Some(url.to_owned());
    options.synthetic.synthetic_model = Some("tester".to_owned());
    options.synthetic.synthetic_retries = Some(0);
    options.synthetic.synthetic_api_key_file = Some(home.path("key"));
    home.write("key", format!("{KEY}\n"));
    change(&mut options);
    RunConfig::new(options).unwrap()
}

fn made(config: &RunConfig, count: usize) -> Result<Generated, SyntheticError> {
    generate(config, &wanted(count, &parents()), &Progress::silent())
}

/// The error of a server that always answers so, in which `{url}` is its address. No key is in any.
#[track_caller]
fn fails(
    script: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static,
    change: impl FnOnce(&mut Options),
    error: &str,
) {
    let (home, server) = (Home::empty(), Server::new(script));
    let failed = made(&config(&home, &server.url, change), 5).unwrap_err().to_string();
    assert_eq!(failed, error.replace("{url}", &server.url));
    assert!(!failed.contains(KEY), "{failed}");
}

fn nonzero(n: u32) -> Option<std::num::NonZeroU32> {
    std::num::NonZeroU32::new(n)
}

#[test]
fn a_server_is_shown_training_examples_alone_and_its_answers_say_what_they_are_made_of() {
    let (home, server) = (Home::empty(), Server::new(|number, _| Reply::Says(good(number), Some((100, 20)))));
    let (config, parents) = (config(&home, &server.url, |_| ()), parents());
    let held_out = [example(90, "the held-out question about lighthouses", "clip_library")];
    let judged = Wanted { held_out: &held_out, ..wanted(6, &parents) };
    let made = generate(&config, &judged, &Progress::silent()).unwrap();
    assert_eq!(
        (made.generator, made.model.as_deref(), made.candidates.len()),
        (Generator::Endpoint, Some("tester"), 6)
    );
    assert_eq!(made.spent.requests as usize, server.requests());
    assert_eq!((made.spent.prompt_tokens, made.spent.retries), (100 * made.spent.requests, 0));
    assert_eq!(made.spent.completion_tokens, 20 * made.spent.requests);

    let asked = server.asked.lock().unwrap();
    for request in asked.iter() {
        assert_eq!(request.target, "POST /v1/chat/completions");
        assert_eq!(request.authorization.as_deref(), Some("Bearer secret-of-the-tests"));
        let body = request.body.to_string();
        assert!(!body.contains("lighthouses") && !body.contains(KEY), "{body}");
        let format = &request.body["response_format"];
        let item = &format["json_schema"]["schema"]["properties"]["examples"]["items"];
        assert_eq!(item["properties"]["output"]["enum"], json!(["clip_library", "weather_agent"]));
        assert_eq!(request.body["model"], "tester");
    }
    // Each prompt is another draw.
    let seeds: std::collections::BTreeSet<_> = asked.iter().map(|request| request.body["seed"].as_u64()).collect();
    assert_eq!(seeds.len(), asked.len());
    for candidate in &made.candidates {
        assert!(seeds.contains(&Some(candidate.seed)));
        let request = asked.iter().find(|request| request.body["seed"].as_u64() == Some(candidate.seed)).unwrap();
        let shown = request.body["messages"][1]["content"].as_str().unwrap();
        assert_eq!(candidate.parents.len(), 4);
        for &parent in &candidate.parents {
            assert!(shown.contains(made.parents[parent].content.input()), "{shown}");
        }
    }
}

#[test]
fn garbage_is_counted_and_gives_up_after_24_requests() {
    fails(
        |_, _| Reply::Says("zz zz { zz".to_owned(), None),
        |_| (),
        "`endpoint` gave no example that could be reviewed (left out: 24 not valid JSON): approve more traces, or choose \
         another with `--generator`",
    );
}

#[test]
fn a_refusal_is_one_however_it_is_said() {
    fails(
        |number, _| match number % 3 {
            0 => Reply::Says("I'm sorry, but I can't help with that.".to_owned(), None),
            1 => Reply::Status(200, "", json!({ "choices": [{ "message": { "refusal": "no" } }] }).to_string()),
            _ => Reply::Status(
                200,
                "",
                json!({ "choices": [{ "message": { "content": null }, "finish_reason": "content_filter" }] })
                    .to_string(),
            ),
        },
        |_| (),
        "`endpoint` gave no example that could be reviewed (left out: 24 refusal): approve more traces, or choose another \
         with `--generator`",
    );
}

#[test]
fn a_server_that_repeats_itself_gives_its_answer_once() {
    let (home, server) = (Home::empty(), Server::new(|_, _| Reply::Says(good(1), None)));
    let made = made(&config(&home, &server.url, |_| ()), 5).unwrap();
    assert_eq!(made.candidates.len(), 1);
    let rest = made.spent.requests - 1;
    assert_eq!(made.left_out.rows(), [("repeats another of its batch", rest)]);
    assert!((24..=28).contains(&rest), "{rest}");
}

#[test]
fn answers_that_do_not_follow_the_schema_are_counted_by_what_is_wrong() {
    let script = |number: usize, _: &Value| {
        let examples = json!([
            { "query": query(number), "output": "clip_library" },
            { "input": query(number), "output": "ferry_agent" },
            { "input": "will it rain in Bergen tomorrow", "output": "weather_agent" },
            { "input": format!("{} for eve@example.com", query(number)), "output": "clip_library" },
        ]);
        Reply::Says(format!("Here you are:\n```json\n{examples}\n```"), None)
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let made =
        made(&config(&home, &server.url, |options| options.synthetic.synthetic_concurrency = nonzero(1)), 2).unwrap();
    assert_eq!(
        made.left_out.rows(),
        [("does not follow the schema", 2), ("duplicate of an example", 2), ("unknown answer", 2)]
    );
    for candidate in &made.candidates {
        assert!(candidate.content.input().ends_with(" for [EMAIL]"), "{candidate:?}");
    }
}

#[test]
fn of_a_cut_answer_what_is_whole_counts() {
    let script = |number: usize, _: &Value| {
        let whole = json!({ "input": query(number), "output": "clip_library" });
        let cut = format!("{{\"examples\": [{whole}, {{\"input\": \"is anything there on");
        let choice = json!({ "message": { "content": cut }, "finish_reason": "length" });
        Reply::Status(200, "", json!({ "choices": [choice] }).to_string())
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let made =
        made(&config(&home, &server.url, |options| options.synthetic.synthetic_concurrency = nonzero(1)), 2).unwrap();
    assert_eq!((made.candidates.len(), made.spent.requests), (2, 2));
    assert_eq!(made.left_out.rows(), [("answer cut at its longest", 2)]);
}

#[test]
fn no_answer_in_time_says_how_long_that_is() {
    let error = "no answer from `{url}` (none within 1 s, see `--synthetic-timeout-s`; attempts: 1): start the server there, \
                 such as `python -m llama_cpp.server` or `vllm serve`, or mend `--synthetic-url`";
    let change = |options: &mut Options| options.synthetic.synthetic_timeout_s = nonzero(1);
    fails(|number, _| Reply::Late(Duration::from_secs(3), good(number)), change, error);
}

#[test]
fn a_wrong_key_is_told_by_its_file_and_never_shown() {
    let said = json!({ "error": { "message": format!("Incorrect API key provided: {KEY}") } }).to_string();
    let (home, server) = (Home::empty(), Server::new(move |_, _| Reply::Status(401, "", said.clone())));
    let config = config(&home, &server.url, |options| options.synthetic.synthetic_retries = Some(3));
    let error = made(&config, 5).unwrap_err();
    let (url, file) = (&server.url, home.path("key"));
    assert_eq!(
        error.to_string(),
        format!(
            "`{url}` answered 401 (Incorrect API key provided: [KEY]): it does not accept the key in the file `{}`; put one \
             there that it does",
            file.display()
        )
    );
    assert!(!format!("{error:?}{config:?}{}", serde_json::to_string(&config).unwrap()).contains(KEY));
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_missing_key_says_where_one_belongs() {
    let change = |options: &mut Options| {
        options.synthetic.synthetic_api_key_file = None;
        options.granted.phoenix_urls = Some(Vec::new()); // whatever the machine's user has in the environment
    };
    fails(
        |_, _| Reply::Status(401, "", "who are you".to_owned()),
        change,
        "`{url}` answered 401 (who are you): it wants a key; put one into TUNESMITH_SYNTHETIC_API_KEY, or name its file with \
         `--synthetic-api-key-file`",
    );
}

#[test]
fn an_unknown_model_is_told_in_the_servers_own_words() {
    fails(
        |_, _| {
            Reply::Status(404, "", json!({ "error": { "message": "The model `tester` does not exist." } }).to_string())
        },
        |_| (),
        "`{url}` knows no model `tester`, or is not where chat completions are (The model `tester` does not exist.): mend \
         `--synthetic-model` or `--synthetic-url`",
    );
}

#[test]
fn a_server_with_several_models_has_to_be_told_which() {
    let models =
        |ids: &[&str]| json!({ "data": ids.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>() }).to_string();
    let several = models(&["small", "large"]);
    fails(
        move |_, _| Reply::Status(200, "", several.clone()),
        |options| options.synthetic.synthetic_model = None,
        "which model of `{url}` is to generate? it has `small`, `large`: name one with `--synthetic-model`",
    );
    let only = models(&["only"]);
    let script = move |number: usize, body: &Value| match body {
        Value::Null => Reply::Status(200, "", only.clone()),
        _ => Reply::Says(good(number), None),
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let made = made(&config(&home, &server.url, |options| options.synthetic.synthetic_model = None), 2).unwrap();
    assert_eq!((made.model.as_deref(), made.candidates.len()), (Some("only"), 2));
}

#[test]
fn a_server_that_is_down_says_how_one_is_started() {
    let home = Home::empty();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", closed.local_addr().unwrap());
    drop(closed);
    let error = made(&config(&home, &url, |_| ()), 5).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "no answer from `{url}` (Connection refused (os error 111); attempts: 1): start the server there, such as `python \
             -m llama_cpp.server` or `vllm serve`, or mend `--synthetic-url`"
        )
    );
}

#[test]
fn https_to_a_server_without_it_is_no_answer() {
    let (home, server) = (Home::empty(), Server::new(|number, _| Reply::Says(good(number), None)));
    let url = server.url.replace("http://", "https://");
    let error = made(&config(&home, &url, |_| ()), 5).unwrap_err().to_string();
    assert!(error.starts_with(&format!("no answer from `{url}` (")) && error.contains("attempts: 1"), "{error}");
    assert_eq!(server.requests(), 0, "the key went over an open line");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_no_answer() {
    let home = Home::empty();
    certify(&home, "");
    let serve = ["serve", "--otlp", "--json", "--store", "t.sqlite", "--listen", "127.0.0.1:0"];
    let encrypted = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let serving = Serving::started(home.command(&[&serve[..], &encrypted].concat()));
    let url = format!("https://{}/v1", serving.address);
    let error = made(&config(&home, &url, |_| ()), 5).unwrap_err().to_string();
    assert!(error.starts_with(&format!("no answer from `{url}` (invalid peer certificate: ")), "{error}");
}

#[test]
fn an_answer_of_any_length_is_not_read() {
    fails(
        |_, _| Reply::Huge(3 << 20),
        |_| (),
        "the answer of `{url}` is no chat completion (more than 1 MiB): mend `--synthetic-url`, which ends in `/v1` for most \
         servers",
    );
}

#[test]
fn a_web_page_is_no_chat_completion() {
    let (home, server) = (Home::empty(), Server::new(|_, _| Reply::Status(200, "", "<html>hello</html>".to_owned())));
    let error = made(&config(&home, &server.url, |_| ()), 5).unwrap_err().to_string();
    assert!(error.contains("is no chat completion (expected value at line 1 column 1)"), "{error}");
}

#[test]
fn a_redirection_is_not_followed() {
    let (home, elsewhere) = (Home::empty(), Server::new(|number, _| Reply::Says(good(number), None)));
    let headers: &'static str = format!("location: {}/chat/completions\r\n", elsewhere.url).leak();
    let server = Server::new(move |_, _| Reply::Status(307, headers, String::new()));
    let error = made(&config(&home, &server.url, |_| ()), 5).unwrap_err().to_string();
    assert!(error.contains("sends to `http://127.0.0.1:") && error.contains("do not go unasked"), "{error}");
    assert_eq!(elsewhere.requests(), 0);
}

#[test]
fn a_body_that_breaks_off_and_a_busy_server_are_asked_again() {
    let script = |number: usize, _: &Value| match number {
        0 => Reply::Cut,
        1 => Reply::Status(429, "retry-after: 1\r\n", "busy".to_owned()),
        2 => Reply::Status(503, "", "starting".to_owned()),
        number => Reply::Says(good(number), None),
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let start = Instant::now();
    let made = made(&config(&home, &server.url, |options| options.synthetic.synthetic_retries = Some(3)), 1).unwrap();
    assert_eq!((made.candidates.len(), made.spent.requests, made.spent.retries), (1, 4, 3));
    assert!(start.elapsed() >= Duration::from_secs(1), "the server named a pause");
}

#[test]
fn what_a_server_does_not_take_is_left_out_and_the_prompt_asked_again() {
    let script = |number: usize, body: &Value| {
        let refused =
            |what: &str| Reply::Status(422, "", json!({ "detail": format!("not known: {what}") }).to_string());
        match body["response_format"]["type"].as_str() {
            // As llama-cpp-python says it.
            Some("json_schema") => {
                let message = "1 validation error: 'loc': ('body', 'response_format', 'type')";
                Reply::Status(500, "", json!({ "error": { "message": message } }).to_string())
            }
            Some(_) if !body["response_format"]["schema"].is_null() => refused("response_format.schema"),
            _ if !body["seed"].is_null() => refused("seed"),
            _ => Reply::Says(good(number), None),
        }
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let made = made(&config(&home, &server.url, |_| ()), 3).unwrap();
    assert_eq!((made.candidates.len(), made.left_out.total()), (3, 0));
    let asked = server.asked.lock().unwrap();
    assert_eq!(asked.last().unwrap().body["response_format"], json!({ "type": "json_object" }));
    // What cannot be left out ends it.
    drop(asked);
    fails(
        |_, _| Reply::Status(400, "", "tools are mandatory".to_owned()),
        |_| (),
        "`{url}` refused the request with 400 (tools are mandatory): mend what it says, or name another server or model",
    );
}

#[test]
fn a_budget_of_requests_holds_with_repetitions_and_what_there_is_is_kept() {
    let script = |number: usize, _: &Value| match number % 2 {
        1 => Reply::Status(500, "", "out of memory".to_owned()),
        _ => Reply::Says(good(number), None),
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let change = |options: &mut Options| {
        options.synthetic.synthetic_max_requests = nonzero(5);
        options.synthetic.synthetic_retries = Some(2);
    };
    let made = made(&config(&home, &server.url, change), 50).unwrap();
    assert_eq!((made.spent.requests, server.requests()), (5, 5));
    assert!((2..=3).contains(&made.candidates.len()), "{}", made.candidates.len());
}

#[test]
fn a_budget_of_tokens_is_not_passed_whether_the_server_counts_or_not() {
    for usage in [Some((400, 60)), None] {
        let (home, server) = (Home::empty(), Server::new(move |number, _| Reply::Says(good(number), usage)));
        let change = |options: &mut Options| options.synthetic.synthetic_max_tokens = std::num::NonZeroU64::new(3000);
        let made = made(&config(&home, &server.url, change), 50).unwrap();
        let spent = made.spent.prompt_tokens + made.spent.completion_tokens;
        assert!(spent <= 3000 && spent > 1000, "{:?}", made.spent);
        assert!(!made.candidates.is_empty() && made.candidates.len() < 50);
    }
    // Not even one request is within it: nothing is asked, and nothing failed.
    let (home, server) = (Home::empty(), Server::new(|number, _| Reply::Says(good(number), None)));
    let change = |options: &mut Options| options.synthetic.synthetic_max_tokens = std::num::NonZeroU64::new(10);
    let made = made(&config(&home, &server.url, change), 50).unwrap();
    assert_eq!((made.candidates.len(), server.requests()), (0, 0));
}

#[test]
fn a_server_that_is_lost_on_the_way_leaves_what_it_gave() {
    let script = |number: usize, _: &Value| match number {
        0..3 => Reply::Says(good(number), None),
        _ => Reply::Cut,
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let made = made(&config(&home, &server.url, |_| ()), 50).unwrap();
    assert_eq!(made.candidates.len(), 3);
    assert!((3..=8).contains(&made.left_out.count("no answer")), "{:?}", made.left_out);
}

#[test]
fn no_more_requests_are_made_at_once_than_are_allowed() {
    let script = |number: usize, _: &Value| Reply::Late(Duration::from_millis(40), good(number));
    let (home, server) = (Home::empty(), Server::new(script));
    let change = |options: &mut Options| options.synthetic.synthetic_concurrency = nonzero(3);
    let made = made(&config(&home, &server.url, change), 24).unwrap();
    assert!(made.candidates.len() >= 20, "{:?}", made.left_out);
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 3);
}

#[test]
fn a_stop_does_not_wait_for_an_answer() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (home, server) = (Home::empty(), Server::new(|number, _| Reply::Late(Duration::from_secs(30), good(number))));
    let config = config(&home, &server.url, |_| ());
    let start = Instant::now();
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(500));
        STOP.store(true, Ordering::Relaxed);
    });
    let stopped = generate(&config, &wanted(5, &parents()), &Progress::silent().stopped_by(&STOP));
    assert!(matches!(stopped, Err(SyntheticError::Interrupted)));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_pair_of_a_servers_is_a_real_question_with_a_wrong_answer_beside_the_approved_one() {
    let script = |_: usize, body: &Value| {
        let schema = &body["response_format"]["json_schema"]["schema"]["properties"]["rejected"]["enum"];
        Reply::Says(json!({ "rejected": schema[0] }).to_string(), None)
    };
    let (home, server) = (Home::empty(), Server::new(script));
    let (config, parents) = (config(&home, &server.url, |_| ()), parents());
    let pairs = Wanted { kind: ExampleKind::PreferencePair, ..wanted(6, &parents) };
    let made = generate(&config, &pairs, &Progress::silent()).unwrap();
    assert_eq!(made.candidates.len(), 6);
    for candidate in &made.candidates {
        let Content::Preference { input, chosen, rejected, .. } = &candidate.content else { panic!("{candidate:?}") };
        let approved =
            Content::Instruction { instruction: INSTRUCTION.to_owned(), input: input.clone(), output: chosen.clone() };
        assert!(parents.iter().any(|parent| Content::of(parent) == approved));
        assert_ne!(chosen, rejected);
    }
}

#[test]
fn auto_goes_on_where_a_server_fails_and_a_model_writes_noise() {
    let (home, server) = (Home::empty(), Server::new(|_, _| Reply::Status(401, "", "no".to_owned())));
    let config = config(&home, &server.url, |options| options.synthetic.generator = Some(GeneratorChoice::Auto));
    let made = made(&config, 4).unwrap();
    // The weights of the base model are random.
    assert_eq!((made.generator, made.candidates.len(), server.requests()), (Generator::Templates, 4, 1));
}

#[test]
fn a_base_model_of_noise_is_said_to_give_nothing() {
    let home = Home::empty();
    let config = config(&home, "http://127.0.0.1:9", |o| o.synthetic.generator = Some(GeneratorChoice::BaseModel));
    let error = made(&config, 4).unwrap_err().to_string();
    assert!(error.starts_with("`base_model` gave no example that could be reviewed (left out: "), "{error}");
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct: its GGUF is named by TUNESMITH_SMOLLM2_GGUF"]
fn a_real_base_model_generates_offline_and_the_same_again() {
    let home = Home::empty();
    let model = std::env::var_os("TUNESMITH_SMOLLM2_GGUF").unwrap();
    let config = config(&home, "http://127.0.0.1:9", |options| {
        options.synthetic.generator = Some(GeneratorChoice::BaseModel);
        options.base_model = Some(model.into());
    });
    let first = made(&config, 6).unwrap();
    eprintln!("{:?}, left out {:?}", first.spent, first.left_out);
    assert!(first.candidates.len() >= 3, "{:?}", first.left_out);
    for candidate in &first.candidates {
        eprintln!("{:?}", candidate.content);
        let Content::Instruction { output, .. } = &candidate.content else { panic!("{candidate:?}") };
        assert!(["clip_library", "weather_agent"].contains(&output.as_str()));
        assert_eq!((candidate.parents.len(), candidate.prompt_sha256.len()), (4, 64));
    }
    assert_eq!(made(&config, 6).unwrap().candidates, first.candidates);
}
