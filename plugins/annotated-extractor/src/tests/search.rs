use crate::extraction::ExtractionConfig;
use crate::fixtures::{
    attribute, by, config, configuration_error, extract, label, named, on_document, reasons, scored, span, texts,
    triplets, with_settings,
};
use crate::types::{AnnotatorKind, Attribute, AttributeValue, DocumentAnnotation, ModelType, Span};

fn embedding(settings: &[(&str, &str)]) -> ExtractionConfig {
    with_settings(settings, ExtractionConfig { model_type: ModelType::Embedding, ..config() })
}

/// A search for `cats` that found `d0`, `d1`, ... with ids `id0`, ... and scores 0.9, 0.8, ...
fn search(n_documents: usize, annotations: Vec<DocumentAnnotation>) -> Span {
    let mut attributes = vec![attribute("input.value", "cats")];
    for i in 0..n_documents {
        let key = |field: &str| format!("retrieval.documents.{i}.document.{field}");
        attributes.push(attribute(&key("content"), &format!("d{i}")));
        attributes.push(attribute(&key("id"), &format!("id{i}")));
        attributes.push(Attribute { key: key("score"), value: AttributeValue::Number(0.9 - 0.1 * i as f64) });
    }
    Span { attributes, document_annotations: annotations, ..span("s", "", "", vec![]) }
}

/// Clicked by the attribute.
fn clicked(n_documents: usize, clicks: AttributeValue) -> Span {
    let mut span = search(n_documents, vec![]);
    span.attributes.push(Attribute { key: "search.clicked_documents".into(), value: clicks });
    span
}

/// Positives and negatives.
fn sides(settings: &[(&str, &str)], span: Span) -> Vec<(String, String)> {
    let extraction = extract(embedding(settings), vec![span]);
    triplets(&extraction)
        .iter()
        .map(|triplet| {
            assert_eq!(triplet.anchor, "cats");
            (triplet.positive.clone(), triplet.negative.clone())
        })
        .collect()
}

fn expected(sides: &[(&str, &str)]) -> Vec<(String, String)> {
    sides.iter().map(|(positive, negative)| (positive.to_string(), negative.to_string())).collect()
}

fn relevance(position: u32, text: &str) -> DocumentAnnotation {
    on_document(position, named("relevance", label(text)))
}

#[test]
fn explicit_irrelevance_comes_before_unclicked_documents() {
    let span = search(4, vec![relevance(1, "relevant"), relevance(3, "Irrelevant")]);
    let extraction = extract(embedding(&[]), vec![span.clone()]);
    assert_eq!(triplets(&extraction)[0].lineage.annotation_names, ["relevance"]);
    assert_eq!(triplets(&extraction)[0].lineage.span_ids, ["s"]);
    assert_eq!(sides(&[], span), expected(&[("d1", "d3")]));
}

#[test]
fn clicks_are_positives_by_position_by_id_and_by_annotation() {
    let one = [("negatives", "1")];
    for clicks in [
        AttributeValue::Integers(vec![1]),
        AttributeValue::Integer(1),
        AttributeValue::Texts(texts(&["id1"])),
        AttributeValue::Text("id1".into()),
    ] {
        assert_eq!(sides(&one, clicked(3, clicks)), expected(&[("d1", "d0")]));
    }
    let click = on_document(1, by(AnnotatorKind::Code, named("click", scored(1.0))));
    assert_eq!(sides(&one, search(3, vec![click])), expected(&[("d1", "d0")]));
    let no_click = on_document(1, by(AnnotatorKind::Code, named("click", scored(0.0))));
    assert!(sides(&one, search(3, vec![no_click])).is_empty());
}

#[test]
fn clicked_but_irrelevant_document_is_a_negative() {
    let mut span = clicked(3, AttributeValue::Integers(vec![0, 1]));
    span.document_annotations.push(relevance(0, "irrelevant"));
    assert_eq!(sides(&[], span), expected(&[("d1", "d0")]));
}

#[test]
fn top_k_takes_the_highest_ranked_unclicked_documents() {
    let span = || clicked(12, AttributeValue::Integers(vec![1]));
    // Rank 10 sorts before rank 2 as a text.
    assert_eq!(sides(&[], span()), expected(&[("d1", "d0"), ("d1", "d2"), ("d1", "d3")]));
    assert_eq!(sides(&[("strategy", "top_k"), ("negatives", "1")], span()), expected(&[("d1", "d0")]));
}

#[test]
fn above_threshold_takes_unclicked_documents_that_scored_high() {
    let settings = [("strategy", "above_threshold"), ("min_score", "0.65")];
    let span = || clicked(5, AttributeValue::Integers(vec![0]));
    assert_eq!(sides(&settings, span()), expected(&[("d0", "d1"), ("d0", "d2")]));
    let error = configuration_error(embedding(&settings[..1]));
    assert_eq!(error, "strategy `above_threshold` needs the setting `min_score`; give a number");
    let error = configuration_error(embedding(&[("strategy", "above_threshold"), ("min_score", "high")]));
    assert_eq!(error, "setting `min_score` is `high`; give a number");
}

#[test]
fn random_negatives_follow_the_seed_and_not_the_batch() {
    let settings = |seed| [("strategy", "random"), ("negatives", "5"), ("seed", seed)];
    let span = || clicked(40, AttributeValue::Integers(vec![0]));
    let first = sides(&settings("1"), span());
    assert_eq!(first.len(), 5);
    let other = Span { span_id: "other".into(), ..span() };
    let extraction = extract(embedding(&settings("1")), vec![other, span()]);
    let again: Vec<&str> = triplets(&extraction)[5..].iter().map(|triplet| triplet.negative.as_str()).collect();
    assert_eq!(again, first.iter().map(|(_, negative)| negative.as_str()).collect::<Vec<_>>());
    assert_ne!(sides(&settings("2"), span()), first);
    assert_ne!(first, sides(&[("negatives", "5")], span()), "not the top of the list");
}

#[test]
fn newest_word_on_a_document_wins_and_disputed_documents_are_left_out() {
    let newest = crate::fixtures::at(2, named("relevance", label("relevant")));
    let span = search(2, vec![on_document(0, newest), relevance(0, "irrelevant"), relevance(1, "irrelevant")]);
    assert_eq!(sides(&[], span), expected(&[("d0", "d1")]));

    let span = search(
        3,
        vec![relevance(0, "relevant"), on_document(1, named("topic", label("relevant"))), relevance(1, "irrelevant")],
    );
    let extraction = extract(embedding(&[]), vec![span]);
    assert_eq!(reasons(&extraction), [("s", "conflicting verdicts")]);
    let warning = extraction.skipped[0].warning.as_deref();
    assert_eq!(warning, Some("Skipping conflicting verdicts for document 1 of span s"));
    assert_eq!(triplets(&extraction).len(), 1);
    assert_eq!(triplets(&extraction)[0].negative, "d2");
}

#[test]
fn relevance_counts_besides_the_configured_annotation_names() {
    let mut config = embedding(&[("negatives", "1")]);
    config.verdicts.annotation_names = texts(&["approval"]);
    let triplets_of = |span| triplets(&extract(config.clone(), vec![span])).len();
    assert_eq!(triplets_of(search(2, vec![relevance(0, "relevant")])), 1);
    assert_eq!(triplets_of(search(2, vec![on_document(0, label("approved"))])), 1);
    assert_eq!(triplets_of(search(2, vec![on_document(0, named("tone", label("relevant")))])), 0);
}

#[test]
fn modality_filters_search_spans() {
    let of = |modality: &str| {
        let mut span = search(2, vec![relevance(0, "relevant")]);
        span.attributes.push(attribute("search.modality", modality));
        span
    };
    let config = || embedding(&[("modality", "video"), ("modality_attribute", "search.modality")]);
    assert_eq!(triplets(&extract(config(), vec![of("VIDEO")])).len(), 1);
    assert_eq!(reasons(&extract(config(), vec![of("image")])), [("s", "other modality")]);
    let without = search(2, vec![relevance(0, "relevant")]);
    assert_eq!(reasons(&extract(config(), vec![without])), [("s", "other modality")]);
    let error = configuration_error(embedding(&[("modality", "smell")]));
    assert_eq!(error, "setting `modality` is `smell`; give `video`, `image` or `text`");
}

#[test]
fn search_without_a_usable_side_has_a_reason() {
    let reason = |span| {
        let extraction = extract(embedding(&[]), vec![span]);
        assert!(extraction.examples.is_empty());
        let [("s", reason)] = reasons(&extraction)[..] else { panic!("{extraction:?}") };
        reason.to_string()
    };
    assert_eq!(reason(search(3, vec![])), "no relevant document");
    assert_eq!(reason(search(0, vec![relevance(0, "relevant")])), "no relevant document");
    assert_eq!(reason(search(1, vec![relevance(0, "relevant")])), "no irrelevant document");
    let mut silent = search(2, vec![relevance(0, "relevant")]);
    silent.attributes[0] = attribute("input.value", " ");
    assert_eq!(reason(silent), "empty input");
    let mut equal = search(2, vec![relevance(0, "relevant")]);
    equal.attributes[4] = attribute("retrieval.documents.1.document.content", "d0 ");
    assert_eq!(reason(equal), "identical positive and negative");
}
