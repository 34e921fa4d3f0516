//! The telemetry store, and the import of what Phoenix and OTLP exporters write.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;
use tunesmith::plugins::bindings::types::{
    Annotation, AnnotatorKind, Attribute, AttributeValue, MatchRule, Span, SpanKind, SpanStatus,
};
use tunesmith::telemetry::{
    BatchLimits, ImportReport, Pruned, TelemetryError, TelemetryStore, Upsert, Upserts, import,
};

const EVERYTHING: BatchLimits = BatchLimits { max_spans: usize::MAX, max_bytes: usize::MAX };

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/telemetry").join(name)
}

fn new_store() -> (TempDir, TelemetryStore) {
    let folder = TempDir::new().unwrap();
    let store = TelemetryStore::open_or_create(&folder.path().join("telemetry.db")).unwrap();
    (folder, store)
}

fn imported(file: &str, project: Option<&str>) -> (TempDir, TelemetryStore, ImportReport) {
    let (folder, mut store) = new_store();
    let report = import(&mut store, &fixture(file), project, |_| {}).unwrap();
    (folder, store, report)
}

/// Every span of a project, by id.
fn all_spans(store: &TelemetryStore, project: &str) -> BTreeMap<String, Span> {
    let names = ["route", "search", "extract", "completion", "span"];
    let rules = names.map(|name| MatchRule::NameSuffix(name.to_owned()));
    let mut spans = BTreeMap::new();
    for batch in store.batches(project, &rules, None, EVERYTHING).unwrap() {
        spans.extend(batch.unwrap().into_iter().map(|span| (span.span_id.clone(), span)));
    }
    assert_eq!(spans.len() as u64, store.count_spans(project).unwrap());
    spans
}

fn attributes<const N: usize>(pairs: [(&str, AttributeValue); N]) -> Vec<Attribute> {
    pairs.into_iter().map(|(key, value)| Attribute { key: key.to_owned(), value }).collect()
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::Text(text.to_owned())
}

fn bare_span(number: u64, name: &str, input: Option<&str>, start_time_ns: u64) -> Span {
    Span {
        span_id: format!("{number:016x}"),
        trace_id: format!("{number:032x}"),
        parent_id: None,
        name: name.to_owned(),
        kind: SpanKind::Agent,
        status: SpanStatus::Ok,
        start_time_ns,
        end_time_ns: start_time_ns + 1,
        attributes: input.map_or_else(Vec::new, |input| attributes([("input.value", text(input))])),
        annotations: Vec::new(),
        document_annotations: Vec::new(),
    }
}

fn verdict(label: &str, updated_at_ns: u64) -> Annotation {
    Annotation {
        name: "human_approval".to_owned(),
        annotator_kind: AnnotatorKind::Human,
        label: Some(label.to_owned()),
        score: None,
        explanation: None,
        identifier: "alice".to_owned(),
        metadata: Vec::new(),
        created_at_ns: 1,
        updated_at_ns,
    }
}

#[test]
fn phoenix_lines_are_imported_and_what_is_none_is_told_by_line() {
    let (_folder, _store, report) = imported("phoenix.jsonl", None);
    assert_eq!(report.projects, BTreeMap::from([("default".to_owned(), 3)]));
    assert_eq!(report.spans, Upserts { new: 3, ..Upserts::default() });
    // 3 with their span, 3 apart from it; the last line is an older version of one that is there.
    assert_eq!(report.annotations, Upserts { new: 6, stale: 1, ..Upserts::default() });
    let rejected: Vec<_> = report.first_rejected.iter().map(|r| (r.line, r.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [
            (4, "`annotations[1]`: `annotator_kind` `ROBOT` is none of HUMAN, LLM, CODE"),
            (6, "not JSON: EOF while parsing a string at column 69"),
            (7, "neither a span (`context.span_id`, `start_time`) nor an annotation (`span_id`, `annotator_kind`)"),
            (8, "`context.span_id` `8114` is not 16 hex digits"),
            (9, "`start_time`: `\"noon\"` is no ISO 8601 time and no unix time"),
            (10, "an annotation without `span_id`: those of traces and sessions are not used"),
            (12, "not a JSON object"),
            (
                11,
                "annotates span `0000000000000001`, which is in no project, or in several: import it first, or name the project"
            ),
        ]
    );
    assert_eq!(report.rejected, 8);
}

#[test]
fn a_phoenix_span_reads_back_with_the_annotation_that_came_before_it() {
    let (_folder, store, _) = imported("phoenix.jsonl", None);
    let expected = Span {
        span_id: "8114e0e32091afa3".to_owned(),
        trace_id: "1311a5b1aaf9b371d1489df96ac01875".to_owned(),
        parent_id: Some("aa9eb1b73b9d8dcd".to_owned()),
        name: "RoutingAgent.route".to_owned(),
        kind: SpanKind::Agent,
        status: SpanStatus::Ok,
        start_time_ns: 1_793_722_924_801_000_000,
        end_time_ns: 1_793_722_925_223_045_000,
        attributes: attributes([
            ("input.value", text("{\"query\": \"compare sources on la tour Eiffel à minuit\"}")),
            ("metadata.adapter", AttributeValue::Boolean(false)),
            ("metadata.attempt", AttributeValue::Integer(1)),
            ("output.value", text("{\"chosen_agent\": \"text_search_agent\"}")),
            ("routing.confidence", AttributeValue::Number(0.5883)),
            ("session.id", text("session-00074")),
            // From the field `span_kind`: Phoenix takes the attribute out.
            ("openinference.span.kind", text("AGENT")),
        ]),
        annotations: vec![Annotation {
            name: "human_approval".to_owned(),
            annotator_kind: AnnotatorKind::Human,
            label: Some("approved".to_owned()),
            score: Some(0.9),
            explanation: Some("corrected response".to_owned()),
            identifier: "carol@example.com".to_owned(),
            metadata: attributes([("response", text("video_search_agent")), ("reviewer", text("carol@example.com"))]),
            created_at_ns: 1_795_338_526_000_000_000,
            updated_at_ns: 1_795_338_527_000_000_000,
        }],
        document_annotations: Vec::new(),
    };
    assert_eq!(all_spans(&store, "default")["8114e0e32091afa3"], expected);
}

#[test]
fn nested_attributes_and_document_annotations_read_back_flat() {
    let (_folder, store, _) = imported("phoenix.jsonl", None);
    let span = &all_spans(&store, "default")["67c38aaa832fd054"];
    assert_eq!(
        (span.kind, span.status, span.end_time_ns),
        (SpanKind::Retriever, SpanStatus::Unset, span.start_time_ns)
    );
    assert_eq!(
        span.attributes,
        attributes([
            ("input.mime_type", text("text/plain")),
            ("input.value", text("42")),
            ("openinference.span.kind", text("RETRIEVER")),
            ("retrieval.documents.0.document.content", text("quantum error correction")),
            ("retrieval.documents.0.document.id", text("d0")),
            ("retrieval.documents.0.document.score", AttributeValue::Number(0.97877)),
            ("retrieval.documents.1.document.content", text("taxis")),
            ("retrieval.documents.1.document.id", text("d1")),
            ("retrieval.documents.1.document.metadata.rank", AttributeValue::Integer(2)),
        ])
    );
    assert_eq!(span.annotations.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["result_click"]);
    let documents: Vec<_> =
        span.document_annotations.iter().map(|d| (d.position, d.annotation.label.as_deref())).collect();
    // By time of update; the second has none.
    assert_eq!(documents, [(1, Some("irrelevant")), (0, Some("relevant"))]);
}

#[test]
fn data_frame_columns_and_annotations_without_label_or_score_are_read() {
    let (_folder, store, _) = imported("phoenix.jsonl", None);
    let span = &all_spans(&store, "default")["98c651fc46fa2f77"];
    assert_eq!((span.kind, span.status), (SpanKind::Unknown, SpanStatus::Error));
    assert_eq!(span.start_time_ns, 1_793_722_924_801_000_000);
    let tags = AttributeValue::Texts(vec!["x".to_owned(), "y".to_owned()]);
    assert_eq!(span.attributes, attributes([("input.value", text("Marie Curie")), ("tag.tags", tags)]));
    let results: Vec<_> =
        span.annotations.iter().map(|a| (a.label.clone(), a.score, a.explanation.as_deref())).collect();
    assert_eq!(results, [(None, None, Some("only text")), (None, Some(0.5), None)]);
}

#[test]
fn an_otlp_document_and_the_same_requests_in_lines_read_the_same() {
    let (_a, document, report) = imported("otlp_document.json", None);
    let (_b, lines, lines_report) = imported("otlp_lines.jsonl", None);
    assert_eq!(report, lines_report);
    let expected = BTreeMap::from([("default".to_owned(), 1), ("tenant-a".to_owned(), 2)]);
    assert_eq!((report.projects, report.spans.new, report.rejected), (expected, 3, 1));
    assert_eq!(
        report.first_rejected[0].reason,
        "`resourceSpans[0].scopeSpans[0].spans[2]`: `spanId` `AQIDBAUGBwg=` is not 16 hex digits"
    );
    for project in ["default", "tenant-a"] {
        assert_eq!(all_spans(&document, project), all_spans(&lines, project));
    }

    let spans = all_spans(&document, "tenant-a");
    let span = &spans["eee19b7ec3c1b174"];
    assert_eq!((span.kind, span.status, &span.parent_id), (SpanKind::Agent, SpanStatus::Ok, &None));
    assert_eq!((span.start_time_ns, span.end_time_ns), (1_793_722_924_801_000_192, 1_793_722_925_223_045_120));
    assert_eq!(
        span.attributes,
        attributes([
            ("cached", AttributeValue::Boolean(false)),
            ("confidence", AttributeValue::Number(0.5)),
            ("input.value", text("will it rain?")),
            ("llm.token_count.total", AttributeValue::Integer(9_007_199_254_740_993)),
            ("metadata.attempt", AttributeValue::Integer(1)),
            ("openinference.span.kind", text("AGENT")),
            ("output.value", text("weather_agent")),
            ("retrieval.documents.0.document.id", text("d0")),
            ("retrieval.documents.0.document.score", AttributeValue::Number(1.0)),
            ("retrieval.documents.1.document.id", text("d1")),
            ("tags", AttributeValue::Texts(vec!["a".to_owned(), "b".to_owned()])),
        ])
    );
    let child = &spans["0102030405060708"];
    assert_eq!((child.status, child.parent_id.as_deref()), (SpanStatus::Error, Some("eee19b7ec3c1b174")));
}

#[test]
fn phoenix_otlp_pages_in_snake_case_are_read() {
    let (_folder, store, _) = imported("phoenix_otlpv1_page.json", None);
    let span = &all_spans(&store, "default")["8114e0e32091afa3"];
    assert_eq!(
        span.attributes,
        attributes([("input.value", text("will it rain?")), ("metadata.attempt", AttributeValue::Integer(1))])
    );
    assert_eq!((span.status, span.start_time_ns), (SpanStatus::Ok, 1_793_722_924_801_000_192));
}

#[test]
fn a_named_project_wins_over_the_file() {
    let (_folder, store, report) = imported("otlp_document.json", Some("mine"));
    assert_eq!(report.projects, BTreeMap::from([("mine".to_owned(), 3)]));
    let names: Vec<_> = store.projects().unwrap().into_iter().map(|p| (p.name, p.spans, p.annotations)).collect();
    assert_eq!(names, [("mine".to_owned(), 3, 0)]);
}

#[test]
fn importing_again_changes_nothing() {
    let (_folder, mut store, first) = imported("phoenix.jsonl", None);
    let before = all_spans(&store, "default");
    let second = import(&mut store, &fixture("phoenix.jsonl"), None, |_| {}).unwrap();
    assert_eq!(second.spans, Upserts { unchanged: 3, ..Upserts::default() });
    assert_eq!(second.annotations, Upserts { unchanged: 6, stale: 1, ..Upserts::default() });
    assert_eq!(second.rejected, first.rejected);
    assert_eq!(all_spans(&store, "default"), before);
}

#[test]
fn progress_ends_at_the_files_size() {
    let (_folder, mut store) = new_store();
    let path = fixture("otlp_lines.jsonl");
    let mut seen = Vec::new();
    import(&mut store, &path, None, |progress| seen.push((progress.bytes_done, progress.bytes_total))).unwrap();
    let size = path.metadata().unwrap().len();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1], (size, size));
}

#[test]
fn a_file_with_nothing_in_it_is_an_error_that_says_why() {
    let (folder, mut store) = new_store();
    let path = folder.path().join("export.jsonl");
    for (content, reason) in [
        ("", "it is empty".to_owned()),
        ("hello\nworld\n", "line 1: not JSON: expected value at column 1; and 1 more".to_owned()),
        (
            "{}\n",
            format!(
                "line 1: {}",
                "neither a span (`context.span_id`, `start_time`) nor an annotation (`span_id`, `annotator_kind`)"
            ),
        ),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(
            import(&mut store, &path, None, |_| {}).unwrap_err().to_string(),
            format!(
                "nothing in `{}` is a span or an annotation ({reason}): expected JSON lines with one span each, or an \
                 OTLP-JSON export",
                path.display()
            )
        );
    }
    let missing = import(&mut store, &folder.path().join("missing"), None, |_| {}).unwrap_err();
    assert!(matches!(missing, TelemetryError::Unreadable { .. }));
    assert!(matches!(import(&mut store, folder.path(), None, |_| {}), Err(TelemetryError::Unreadable { .. })));
}

#[test]
fn the_newest_version_of_an_annotation_stays() {
    let (_folder, mut store) = new_store();
    let span = bare_span(1, "a", None, 0);
    let mut writer = store.writer();
    writer.put_span("p", &span).unwrap();
    let mut put = |annotation| writer.put_annotation("p", &span.span_id, None, &annotation, None).unwrap();
    assert_eq!(put(verdict("approved", 5)), Some(Upsert::New));
    assert_eq!(put(verdict("rejected", 7)), Some(Upsert::Updated));
    assert_eq!(put(verdict("rejected", 7)), Some(Upsert::Unchanged));
    assert_eq!(put(verdict("approved", 6)), Some(Upsert::Stale));
    let bob = Annotation { identifier: "bob".to_owned(), ..verdict("approved", 1) };
    assert_eq!(put(bob), Some(Upsert::New));
    assert_eq!(writer.put_annotation("p", "ffffffffffffffff", None, &verdict("approved", 1), None).unwrap(), None);
    writer.finish().unwrap();
    let batch =
        store.batches("p", &[MatchRule::NameExact("a".to_owned())], None, EVERYTHING).unwrap().next().unwrap().unwrap();
    let labels: Vec<_> = batch[0].annotations.iter().filter_map(|a| a.label.as_deref()).collect();
    assert_eq!(labels, ["approved", "rejected"], "by time of update");
}

#[test]
fn a_span_that_changed_is_updated_and_moves_to_its_new_inputs_group() {
    let (_folder, mut store) = new_store();
    let mut writer = store.writer();
    assert_eq!(writer.put_span("p", &bare_span(1, "a", None, 0)).unwrap(), Upsert::New);
    assert_eq!(writer.put_span("p", &bare_span(1, "a", Some("late input"), 0)).unwrap(), Upsert::Updated);
    assert_eq!(writer.put_span("p", &bare_span(2, "a", Some("late input"), 1)).unwrap(), Upsert::New);
    writer.finish().unwrap();
    let limits = BatchLimits { max_spans: 2, ..EVERYTHING };
    let mut batches = store.batches("p", &[MatchRule::NameExact("a".to_owned())], None, limits).unwrap();
    assert_eq!(batches.next().unwrap().unwrap().len(), 2);
}

#[test]
fn a_writer_that_is_dropped_takes_back_what_it_wrote() {
    let (_folder, mut store) = new_store();
    store.writer().put_span("p", &bare_span(1, "a", None, 0)).unwrap();
    assert_eq!(store.projects().unwrap(), []);
}

/// 300 spans of 40 inputs in no order, and 30 without an input.
fn store_with_groups() -> (TempDir, TelemetryStore) {
    let (folder, mut store) = new_store();
    let mut writer = store.writer();
    for i in 0..300 {
        let input = format!("input {}", i * 7 % 40);
        writer.put_span("p", &bare_span(i, "a", Some(&input), 1000 - i)).unwrap();
    }
    for i in 300..330 {
        writer.put_span("p", &bare_span(i, "a", None, i)).unwrap();
    }
    writer.finish().unwrap();
    (folder, store)
}

/// The input, or the id of a span that has none.
fn group(span: &Span) -> String {
    match span.attributes.first() {
        Some(Attribute { value: AttributeValue::Text(input), .. }) => input.clone(),
        _ => span.span_id.clone(),
    }
}

#[test]
fn answers_to_one_input_arrive_in_one_batch_ordered_by_start() {
    let (_folder, store) = store_with_groups();
    let rules = [MatchRule::NameExact("a".to_owned())];
    // 8 is the size of the larger groups (300 spans, 40 inputs), so every batch is cut at a group.
    for max_spans in [8, 10, 64, 1024] {
        let mut batch_of: HashMap<String, usize> = HashMap::new();
        let mut seen = Vec::new();
        let mut batches = store.batches("p", &rules, None, BatchLimits { max_spans, ..EVERYTHING }).unwrap();
        for (i, batch) in batches.by_ref().enumerate() {
            let batch = batch.unwrap();
            assert!(batch.len() <= max_spans);
            for pair in batch.windows(2).filter(|pair| group(&pair[0]) == group(&pair[1])) {
                assert!(pair[0].start_time_ns < pair[1].start_time_ns);
            }
            for span in batch {
                assert_eq!(*batch_of.entry(group(&span)).or_insert(i), i, "{} is in two batches", group(&span));
                seen.push(span.span_id);
            }
        }
        assert_eq!(batches.split_groups(), 0);
        seen.sort();
        assert_eq!(seen, (0..330).map(|i| format!("{i:016x}")).collect::<Vec<_>>(), "each span once");
    }
}

#[test]
fn inputs_that_are_one_by_the_extractors_key_arrive_in_one_batch() {
    let (_folder, mut store) = new_store();
    let mut writer = store.writer();
    // Each question plain, with blanks around it, in JSON, in JSON with more fields, as a number's JSON, and nested.
    for i in 0..40 {
        let inputs = [
            format!("{i}"),
            format!(" {i}\n"),
            format!("{{\"q\":\"{i}\"}}"),
            format!("{{\"top_k\": 3, \"q\": \" {i} \"}}"),
            format!("{{\"q\": {i}}}"),
        ];
        for (j, input) in (0..).zip(&inputs) {
            writer.put_span("p", &bare_span(10 * i + j, "a", Some(input), 10 * i + j)).unwrap();
        }
        let mut nested = bare_span(10 * i + 5, "a", None, 10 * i + 5);
        nested.attributes = attributes([("input.value.q", AttributeValue::Integer(i as i64))]);
        writer.put_span("p", &nested).unwrap();
        writer.put_span("p", &bare_span(10 * i + 6, "b", Some(&inputs[0]), 0)).unwrap();
        // Without a text: alone.
        writer.put_span("p", &bare_span(10 * i + 7, "a", Some("{\"q\": null}"), 0)).unwrap();
    }
    writer.finish().unwrap();
    let rules = [MatchRule::NameExact("a".to_owned())];
    for max_spans in [6, 7, 20] {
        // Twice: the keys of a reading are gone after it.
        for _ in 0..2 {
            let mut batch_of: HashMap<u64, usize> = HashMap::new();
            let mut seen = 0;
            let limits = BatchLimits { max_spans, ..EVERYTHING };
            let mut batches = store.batches("p", &rules, Some("q"), limits).unwrap();
            for (number, batch) in batches.by_ref().enumerate() {
                for span in batch.unwrap() {
                    let id = u64::from_str_radix(&span.span_id, 16).unwrap();
                    seen += 1;
                    if id % 10 < 6 {
                        assert_eq!(
                            *batch_of.entry(id / 10).or_insert(number),
                            number,
                            "question {} is parted",
                            id / 10
                        );
                    }
                }
            }
            assert_eq!((seen, batches.split_groups()), (280, 0));
        }
    }
}

#[test]
fn a_group_larger_than_a_batch_is_split_and_counted() {
    let (_folder, store) = store_with_groups();
    let limits = BatchLimits { max_spans: 7, ..EVERYTHING };
    let mut batches = store.batches("p", &[MatchRule::NameExact("a".to_owned())], None, limits).unwrap();
    let spans: usize = batches.by_ref().map(|batch| batch.unwrap().len()).sum();
    // 300 = 20 inputs of 8 spans and 20 of 7.
    assert_eq!((spans, batches.split_groups()), (330, 20));
}

#[test]
fn a_batch_is_bounded_in_bytes_and_a_span_larger_than_that_comes_alone() {
    let (_folder, mut store) = new_store();
    let mut writer = store.writer();
    for i in 0..20 {
        writer.put_span("p", &bare_span(i, "a", Some(&format!("{i} {}", "x".repeat(1000))), i)).unwrap();
    }
    writer.put_span("p", &bare_span(20, "a", Some(&"y".repeat(10_000)), 0)).unwrap();
    writer.finish().unwrap();
    // 1020 bytes of JSON each, so 4 of them fit.
    let limits = BatchLimits { max_bytes: 5000, ..EVERYTHING };
    let batches = store.batches("p", &[MatchRule::NameExact("a".to_owned())], None, limits).unwrap();
    let sizes: Vec<usize> = batches.map(|batch| batch.unwrap().len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 21);
    assert!(sizes.iter().all(|&size| (1..=4).contains(&size)) && sizes.contains(&1), "{sizes:?}");
}

#[test]
fn rules_match_names_whole_or_from_a_boundary_and_attributes_exactly() {
    let (_folder, mut store) = new_store();
    let mut writer = store.writer();
    let names =
        ["route", "RoutingAgent.route", "agents/route", "reroute", "x.ROUTE", "é.route", "route.x", "%.route", ""];
    for (i, name) in names.into_iter().enumerate() {
        writer.put_span("p", &bare_span(i as u64, name, None, 0)).unwrap();
    }
    for (i, attribute) in [
        ("agent.name", text("it's \"routing\" \\ שלום")),
        ("agent.name", AttributeValue::Integer(5)),
        ("agent", text("routing")),
        ("quoted \"key\"", text("5")),
    ]
    .into_iter()
    .enumerate()
    {
        let span = Span { attributes: attributes([attribute]), ..bare_span(100 + i as u64, "attribute", None, 0) };
        writer.put_span("p", &span).unwrap();
    }
    writer.finish().unwrap();
    let matching = |rules: &[MatchRule]| {
        let batches = store.batches("p", rules, None, BatchLimits::default()).unwrap();
        let mut ids: Vec<u64> =
            batches.flat_map(|b| b.unwrap()).map(|s| u64::from_str_radix(&s.span_id, 16).unwrap()).collect();
        ids.sort();
        assert_eq!(store.count_matching("p", rules).unwrap(), ids.len() as u64);
        ids
    };
    let exact = |name: &str| MatchRule::NameExact(name.to_owned());
    let suffix = |name: &str| MatchRule::NameSuffix(name.to_owned());
    let attribute = |key: &str, value: &str| MatchRule::AttributeEquals((key.to_owned(), value.to_owned()));
    assert_eq!(matching(&[exact("RoutingAgent.route")]), [1]);
    assert_eq!(matching(&[suffix("route")]), [0, 1, 2, 5, 7]);
    assert_eq!(matching(&[suffix(".route")]), [1, 5, 7], "a suffix may bring its boundary");
    assert_eq!(matching(&[suffix("RoutingAgent.route"), exact("reroute"), exact("reroute")]), [1, 3]);
    assert_eq!(matching(&[attribute("agent.name", "it's \"routing\" \\ שלום")]), [100]);
    assert_eq!(matching(&[attribute("agent.name", "5"), attribute("quoted \"key\"", "5")]), [103]);
    assert_eq!(matching(&[]), [] as [u64; 0]);
}

#[test]
fn an_import_while_reading_is_not_seen_half() {
    let (_folder, store) = store_with_groups();
    let mut other = TelemetryStore::open(store.path()).unwrap();
    let rules = [MatchRule::NameExact("a".to_owned())];
    let mut batches = store.batches("p", &rules, None, BatchLimits { max_spans: 16, ..EVERYTHING }).unwrap();
    let first = batches.next().unwrap().unwrap().len();
    let mut writer = other.writer();
    for i in 1000..2000 {
        writer.put_span("p", &bare_span(i, "a", Some(&format!("later {i}")), i)).unwrap();
    }
    writer.finish().unwrap();
    let rest: usize = batches.map(|batch| batch.unwrap().len()).sum();
    assert_eq!(first + rest, 330);
    assert_eq!(store.count_spans("p").unwrap(), 1330);
}

#[test]
fn an_unknown_project_is_an_error_that_names_the_known_ones() {
    let (_folder, store) = store_with_groups();
    let error = store.batches("q", &[], None, BatchLimits::default()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, format!("no project `q` in `{}`: it holds `p`", store.path().display()));
    let (_folder, empty) = new_store();
    let error = empty.count_spans("q").unwrap_err().to_string();
    assert!(error.ends_with(": it holds none yet, fill it with `tunesmith import FILE`"), "{error}");
}

#[test]
fn files_that_are_no_store_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let open = |name: &str| TelemetryStore::open(&folder.path().join(name)).map(|_| ()).unwrap_err();
    assert!(matches!(open("missing.db"), TelemetryError::NotFound { .. }));
    assert!(matches!(open(""), TelemetryError::Database { .. }), "a folder");

    std::fs::write(folder.path().join("text.db"), "not a database, but long enough to have a header".repeat(9))
        .unwrap();
    assert!(matches!(open("text.db"), TelemetryError::NotAStore { .. }));

    let other = rusqlite::Connection::open(folder.path().join("other.db")).unwrap();
    other.execute_batch("CREATE TABLE notes (text)").unwrap();
    assert!(matches!(open("other.db"), TelemetryError::NotAStore { .. }));

    let newer = folder.path().join("newer.db");
    drop(TelemetryStore::open_or_create(&newer).unwrap());
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 3).unwrap();
    assert_eq!(
        open("newer.db").to_string(),
        format!("`{}` has schema 3, and this tunesmith knows schemas up to 2: update tunesmith", newer.display())
    );
}

#[test]
fn a_truncated_store_is_damaged_and_no_panic() {
    let (_folder, store) = store_with_groups();
    let path = store.path().to_owned();
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let read = TelemetryStore::open(&path).and_then(|store| {
        let batches = store.batches("p", &[MatchRule::NameExact("a".to_owned())], None, BatchLimits::default())?;
        batches.collect::<Result<Vec<_>, _>>().map(|_| ())
    });
    assert!(matches!(read, Err(TelemetryError::Damaged { .. })), "{read:?}");
}

#[test]
fn the_quick_starts_telemetry_imports_whole() {
    let (_folder, mut store) = new_store();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/telemetry.jsonl");
    let report = import(&mut store, &path, None, |_| {}).unwrap();
    assert_eq!((report.rejected, report.first_rejected), (0, vec![]));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count() as u64;
    assert_eq!(report.spans.new + report.annotations.new, lines);

    let routing = [MatchRule::AttributeEquals(("agent.name".to_owned(), "routing_agent".to_owned()))];
    let suffix = [MatchRule::NameSuffix("RoutingAgent.route".to_owned())];
    let selected = store.count_matching("default", &routing).unwrap();
    assert_eq!(selected, store.count_matching("default", &suffix).unwrap());
    assert!(selected >= 400 && selected < store.count_spans("default").unwrap() / 2, "{selected}");
}

/// `cargo test --release -p tunesmith --test telemetry -- --ignored --nocapture`
#[test]
fn pruning_removes_old_spans_of_one_project_or_of_all_with_their_annotations() {
    let (_folder, mut store) = new_store();
    let mut writer = store.writer();
    for project in ["a", "b"] {
        for number in 0..4 {
            writer.put_span(project, &bare_span(number, "Agent.route", None, 1000 + number)).unwrap();
            let annotation = Annotation {
                name: "human_approval".to_owned(),
                annotator_kind: AnnotatorKind::Human,
                label: Some("approved".to_owned()),
                score: None,
                explanation: None,
                identifier: String::new(),
                metadata: vec![],
                created_at_ns: 1,
                updated_at_ns: 1,
            };
            writer.put_annotation(project, &format!("{number:016x}"), None, &annotation, None).unwrap();
        }
    }
    writer.finish().unwrap();
    let two = Pruned { spans: 2, annotations: 2 };
    let counts = |store: &TelemetryStore| -> Vec<_> {
        store.projects().unwrap().iter().map(|project| (project.spans, project.annotations)).collect()
    };
    assert_eq!(store.prune(Some("a"), 1002, true).unwrap(), two);
    assert_eq!(counts(&store), [(4, 4), (4, 4)]);
    assert_eq!(store.prune(Some("a"), 1002, false).unwrap(), two);
    assert_eq!(counts(&store), [(2, 2), (4, 4)]);
    assert_eq!(store.prune(None, 1003, false).unwrap(), Pruned { spans: 4, annotations: 4 });
    assert_eq!(counts(&store), [(1, 1), (1, 1)]);
    assert!(matches!(store.prune(Some("c"), 1, false), Err(TelemetryError::UnknownProject { .. })));
}

#[test]
#[ignore = "prints timings, asserts nothing"]
fn timing_of_10_000_spans() {
    let (folder, mut store) = new_store();
    let path = folder.path().join("export.jsonl");
    let line = |i: u64| {
        let attributes: serde_json::Map<_, _> =
            (0..14).map(|k| (format!("some.attribute.{k}"), format!("value {k} of {i}").into())).collect();
        let mut span = serde_json::json!({
            "name": "RoutingAgent.route", "context": {"trace_id": format!("{i:032x}"), "span_id": format!("{i:016x}")},
            "span_kind": "AGENT", "start_time": 1_793_722_924_801_000_000_u64 + i, "status_code": "OK",
            "attributes": attributes,
            "annotations": [{"name": "human_approval", "annotator_kind": "HUMAN", "identifier": "alice",
                             "result": {"label": "approved", "score": 1.0}, "metadata": {"reviewer": "alice"}}],
        });
        span["attributes"]["input.value"] = format!("query {} about something of usual length", i % 9000).into();
        span["attributes"]["output.value"] = "weather_agent".into();
        format!("{span}\n")
    };
    std::fs::write(&path, (0..10_000).map(line).collect::<String>()).unwrap();
    let started = Instant::now();
    import(&mut store, &path, Some("p"), |_| {}).unwrap();
    let import_ms = started.elapsed().as_millis();
    for round in 1..=3 {
        let started = Instant::now();
        let rules = [MatchRule::NameSuffix("route".to_owned())];
        let batches = store.batches("p", &rules, None, BatchLimits::default()).unwrap();
        let spans: usize = batches.map(|batch| batch.unwrap().len()).sum();
        println!("import {import_ms} ms; read {spans} spans, round {round}: {} ms", started.elapsed().as_millis());
    }
}
