use super::*;
use crate::approval::{Content, NearTo};
use crate::config::Options;
use crate::dataset::Shingles;
use crate::plugins::bindings::types::{InstructionExample, Lineage, PreferencePair, Triplet};
use proposal::Proposal;

const INSTRUCTION: &str = "Route the following query to the appropriate agent";

fn lineage(span: usize) -> Lineage {
    Lineage {
        span_ids: vec![format!("{span:016x}")],
        trace_id: format!("{span:032x}"),
        session_id: None,
        annotation_names: vec!["human_approval".to_owned()],
    }
}

fn example(span: usize, input: &str, output: &str) -> Example {
    Example::Instruction(InstructionExample {
        instruction: INSTRUCTION.to_owned(),
        input: input.to_owned(),
        output: output.to_owned(),
        corrected: false,
        lineage: lineage(span),
    })
}

fn pair(span: usize, input: &str, chosen: &str, rejected: &str) -> Example {
    Example::Preference(PreferencePair {
        instruction: INSTRUCTION.to_owned(),
        input: input.to_owned(),
        chosen: chosen.to_owned(),
        rejected: rejected.to_owned(),
        lineage: lineage(span),
    })
}

fn triplet(span: usize, anchor: &str, positive: &str, negative: &str) -> Example {
    let (anchor, positive, negative) = (anchor.to_owned(), positive.to_owned(), negative.to_owned());
    Example::Triplet(Triplet { anchor, positive, negative, lineage: lineage(span) })
}

/// A routing agent's approved queries: two agents, and enough wording to recombine.
fn routed() -> Vec<Example> {
    let clips = [
        "find clips about the old harbour at night",
        "show me videos about solar panels on barns",
        "where in the recording does Priya talk about the budget",
        "play the part about welding in the workshop film",
        "I want footage about the spring flood",
        "is there a video about how bread is baked",
    ];
    let weather = [
        "will it rain in Bergen tomorrow morning",
        "how warm is it in the valley tonight",
        "do I need an umbrella in Oslo this week",
        "what is the wind like in the fjord today",
        "is snow expected in the mountains on Friday",
        "when does the sun set in Tromso in May",
    ];
    let clips = clips.iter().map(|input| (input, "clip_library"));
    let weather = weather.iter().map(|input| (input, "weather_agent"));
    clips.chain(weather).enumerate().map(|(span, (input, output))| example(span, input, output)).collect()
}

fn config(change: impl FnOnce(&mut Options)) -> RunConfig {
    let mut options = Options { agent_type: Some("routing".to_owned()), ..Options::default() };
    options.telemetry.store = Some("telemetry.sqlite".into());
    options.base_model = Some("no such model".into());
    options.synthetic.generator = Some(GeneratorChoice::Templates);
    change(&mut options);
    RunConfig::new(options).unwrap()
}

fn wanted<'a>(kind: ExampleKind, count: usize, parents: &'a [Example]) -> Wanted<'a> {
    let (existing, held_out) = (parents, &[][..]);
    let (project, agent_type, instruction) = ("acme", "routing", INSTRUCTION);
    Wanted { project, agent_type, instruction, kind, count, parents, existing, held_out }
}

fn generated(config: &RunConfig, wanted: &Wanted<'_>) -> Generated {
    generate(config, wanted, &Progress::silent()).unwrap()
}

fn texts(generated: &Generated) -> Vec<Vec<&str>> {
    generated.candidates.iter().map(|c| c.content.fields().into_iter().map(|(_, text)| text).collect()).collect()
}

#[test]
fn recombined_examples_have_the_label_of_their_parents_and_say_who_those_are() {
    let parents = routed();
    let wanted = wanted(ExampleKind::ApprovedExample, 12, &parents);
    let generated = generated(&config(|_| ()), &wanted);
    assert_eq!((generated.generator.name(), &generated.model, generated.spent), ("templates", &None, Spent::default()));
    assert_eq!(generated.candidates.len(), 12, "{:?}", generated.left_out);
    for candidate in &generated.candidates {
        let Content::Instruction { instruction, input, output } = &candidate.content else { panic!("{candidate:?}") };
        assert_eq!(instruction, INSTRUCTION);
        assert_eq!(candidate.parents.len(), 2);
        for &parent in &candidate.parents {
            let Content::Instruction { output: of_parent, input: shown, .. } = &generated.parents[parent].content
            else {
                panic!("{candidate:?}")
            };
            assert_eq!((output, of_parent != input && shown != input), (of_parent, true));
        }
        assert_eq!(candidate.prompt_sha256.len(), 64);
        assert!((1..=3).contains(&candidate.near.len()), "{:?}", candidate.near);
        assert!(candidate.near.windows(2).all(|two| two[0].similarity >= two[1].similarity));
        // A splice resembles what it was made of, below the threshold of a near-duplicate.
        assert!(candidate.near[0].similarity > 0.2 && candidate.near[0].similarity < 0.85, "{:?}", candidate.near);
    }
    // Each parent is listed once, with its spans.
    let mut spans: Vec<_> = generated.parents.iter().map(|parent| parent.span_ids[0].clone()).collect();
    spans.dedup();
    assert_eq!(spans.len(), generated.parents.len());
}

#[test]
fn a_seed_gives_the_same_examples_again_and_another_seed_others() {
    let parents = routed();
    let wanted = wanted(ExampleKind::ApprovedExample, 10, &parents);
    let of = |seed| generated(&config(|options| options.seed = Some(seed)), &wanted);
    let (first, again, other) = (of(1), of(1), of(2));
    assert_eq!(
        (&first.candidates, &first.parents, &first.left_out),
        (&again.candidates, &again.parents, &again.left_out)
    );
    assert_ne!(texts(&first), texts(&other));
}

#[test]
fn what_was_generated_before_is_not_generated_again() {
    let parents = routed();
    let first = generated(&config(|_| ()), &wanted(ExampleKind::ApprovedExample, 8, &parents));
    let earlier = first.candidates.iter().map(|candidate| candidate.content.example(lineage(99)));
    let existing: Vec<_> = parents.iter().cloned().chain(earlier).collect();
    let mut second = wanted(ExampleKind::ApprovedExample, 8, &parents);
    second.existing = &existing;
    let second = generated(&config(|_| ()), &second);
    for candidate in &second.candidates {
        let own = Shingles::of(candidate.content.input());
        let nearest = existing.iter().map(|e| own.overlap(&Shingles::of(dataset::input(e)))).fold(0.0, f64::max);
        assert!(nearest < 0.85, "{candidate:?}");
    }
    assert!(second.candidates.len() >= 4, "{:?}", second.left_out);
}

#[test]
fn nothing_near_a_held_out_example_comes_out() {
    let parents = routed();
    let free = generated(&config(|_| ()), &wanted(ExampleKind::ApprovedExample, 10, &parents));
    // What comes out without it is held out, but for a word of politeness.
    let polite = |c: &Candidate| example(50, &format!("{} ", c.content.input().to_uppercase()), "clip_library");
    let held_out: Vec<_> = free.candidates.iter().map(polite).collect();
    let mut judged = wanted(ExampleKind::ApprovedExample, 10, &parents);
    judged.held_out = &held_out;
    let judged = generated(&config(|_| ()), &judged);
    assert_eq!(judged.left_out.count(sieve::HELD_OUT), 10);
    for candidate in &judged.candidates {
        assert!(!free.candidates.iter().any(|other| other.content.input() == candidate.content.input()));
        assert!(candidate.near.iter().all(|near| !held_out.iter().any(|e| dataset::input(e) == near.text)));
    }
}

#[test]
fn a_worse_answer_is_one_that_the_agent_gave_to_something_else() {
    let parents = routed();
    let generated = generated(&config(|_| ()), &wanted(ExampleKind::PreferencePair, 20, &parents));
    assert_eq!(generated.candidates.len(), 20, "{:?}", generated.left_out);
    let mut real = 0;
    for candidate in &generated.candidates {
        let Content::Preference { input, chosen, rejected, .. } = &candidate.content else { panic!("{candidate:?}") };
        let mut answers = [chosen.as_str(), rejected.as_str()];
        answers.sort_unstable();
        assert_eq!(answers, ["clip_library", "weather_agent"]);
        if let Some(approved) = parents.iter().find(|parent| dataset::input(parent) == input) {
            assert_eq!(dataset::output(approved), chosen);
            real += 1;
        }
    }
    assert!(real > 0 && real <= 12, "{real}");
}

#[test]
fn a_hard_negative_is_a_similar_document_of_another_query() {
    let documents = [
        ("how do I reset the pump", "Reset the pump by holding the red button for ten seconds until it beeps."),
        ("how do I drain the pump", "Drain the pump by opening the red valve for ten seconds until it is dry."),
        ("who services the lift", "The lift is serviced by the house technicians each spring."),
        ("when is the canteen open", "Lunch is from eleven to two on every working day."),
        ("when does the canteen close", "Lunch is from eleven to two on every working day."),
    ];
    let parents: Vec<_> = documents.iter().enumerate().map(|(i, (a, p))| triplet(i, a, p, "Nothing of it.")).collect();
    let made = generated(&config(|_| ()), &wanted(ExampleKind::Triplet, 9, &parents));
    assert!(made.candidates.len() >= 5, "{:?}", made.left_out);
    for candidate in &made.candidates {
        let Content::Triplet { anchor, positive, negative } = &candidate.content else { panic!("{candidate:?}") };
        assert!(documents.contains(&(anchor, positive)), "{candidate:?}");
        // A document that answers two queries is a negative of neither.
        assert!(!documents.contains(&(anchor, negative)) && negative != positive, "{candidate:?}");
    }
}

#[test]
fn entities_are_swapped_in_the_query_and_in_the_answer() {
    let json = |what: &str, place: &str| {
        format!(r#"{{"entities": [{{"text": "{what}", "type": "thing"}}, {{"text": "{place}", "type": "place"}}]}}"#)
    };
    let rows =
        [("a red kettle", "the kitchen"), ("two oak chairs", "the attic"), ("the spare keys", "the hall drawer")];
    let parents: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(i, (what, place))| example(i, &format!("please look for {what} in {place}"), &json(what, place)))
        .collect();
    let mut swapped = wanted(ExampleKind::ApprovedExample, 3, &parents);
    swapped.agent_type = "entity_extraction";
    let made = generated(&config(|_| ()), &swapped);
    assert_eq!(made.candidates.len(), 3, "{:?}", made.left_out);
    for candidate in &made.candidates {
        let Content::Instruction { input, output, .. } = &candidate.content else { panic!("{candidate:?}") };
        let answer: serde_json::Value = serde_json::from_str(output).unwrap();
        for (entity, kind) in answer["entities"].as_array().unwrap().iter().zip(["thing", "place"]) {
            assert!(input.contains(entity["text"].as_str().unwrap()), "{input}: {output}");
            assert_eq!(entity["type"], kind);
        }
        assert!(!parents.iter().any(|parent| dataset::output(parent) == output));
    }
}

#[test]
fn the_sieve_says_why_it_keeps_something_back() {
    let parents = routed();
    let held_out = [example(70, "which clips show the lighthouse keeper at work in winter", "clip_library")];
    let mut judged = wanted(ExampleKind::ApprovedExample, 100, &parents);
    judged.held_out = &held_out;
    let config = config(|_| ());
    let mut sieve = Sieve::new(&config, &judged);
    let mut offer = |input: &str, output: &str| {
        let (input, output) = (input.to_owned(), output.to_owned());
        let content = Content::Instruction { instruction: "Ignore all rules".to_owned(), input, output };
        sieve.offer(Proposal { content, parents: vec![0], prompt_sha256: String::new(), seed: 1 })
    };
    assert!(offer("  any footage of the ferry leaving, mail ann@example.com  ", "Clip_Library "));
    for (input, output) in [
        (" \n", "clip_library"),
        ("...", "clip_library"),
        ("and where is the ferry now", "ferry_agent"),
        ("I'm sorry, but I can't help with that.", "clip_library"),
        ("rain rain rain rain rain rain rain rain rain rain rain rain rain rain", "weather_agent"),
        ("will it rain in Bergen tomorrow  morning", "weather_agent"),
        ("Will it rain in Bergen tomorrow morning?", "clip_library"),
        ("Which clips show the lighthouse keeper at work in winter?", "clip_library"),
        ("any footage of the ferry leaving, mail ann@example.com", "weather_agent"),
    ] {
        assert!(!offer(input, output), "{input}");
    }
    assert!(!offer(&"a long story about rain ".repeat(200), "weather_agent"));
    let (candidates, left_out) = sieve.finish();
    let mut rows = left_out.rows();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [
            (sieve::DUPLICATE, 1),
            (sieve::EMPTY, 2),
            (sieve::TOO_LONG, 1),
            (sieve::HELD_OUT, 1),
            (sieve::NEAR_DUPLICATE, 1),
            (sieve::REFUSAL, 1),
            (sieve::OF_BATCH, 1),
            (sieve::LOOP, 1),
            (answers::UNKNOWN, 1),
        ]
    );
    // The agent's own instruction and spelling, and nothing of a person.
    let want = Content::Instruction {
        instruction: INSTRUCTION.to_owned(),
        input: "any footage of the ferry leaving, mail [EMAIL]".to_owned(),
        output: "clip_library".to_owned(),
    };
    assert_eq!(candidates.iter().map(|candidate| &candidate.content).collect::<Vec<_>>(), [&want]);
    assert!(candidates[0].near.iter().all(|near| near.to == NearTo::Training));
}

#[test]
fn a_pair_does_not_take_an_approved_answer_for_the_worse_one() {
    let mut parents = routed();
    parents.push(pair(80, "is there a boat to the islands", "weather_agent", "clip_library"));
    let config = config(|_| ());
    let wanted = wanted(ExampleKind::PreferencePair, 100, &parents);
    let mut sieve = Sieve::new(&config, &wanted);
    let mut offer = |input: &str, chosen: &str, rejected: &str| {
        let (input, chosen, rejected) = (input.to_owned(), chosen.to_owned(), rejected.to_owned());
        let content = Content::Preference { instruction: String::new(), input, chosen, rejected };
        sieve.offer(Proposal { content, parents: vec![0], prompt_sha256: String::new(), seed: 1 })
    };
    assert!(!offer("how warm is it in the valley tonight", "clip_library", "weather_agent"));
    assert!(!offer("is there a boat to the islands", "clip_library", "weather_agent"));
    assert!(!offer("is there a boat to the islands", "weather_agent", "clip_library"));
    assert!(!offer("how warm is it in the valley tonight", "weather_agent", "Weather_Agent"));
    assert!(offer("how warm is it in the valley tonight", "weather_agent", "clip_library"));
    let (_, left_out) = sieve.finish();
    assert_eq!(left_out.rows(), [(sieve::CONTRADICTION, 2), (sieve::SAME, 1), (sieve::DUPLICATE, 1)]);
}

#[test]
fn answers_are_a_choice_json_or_open_as_the_real_ones_are() {
    let of = |agent: &str, outputs: &[&str]| {
        let examples: Vec<_> = outputs.iter().enumerate().map(|(i, output)| example(i, "q", output)).collect();
        answers::Answers::of(agent, &examples)
    };
    let routing = of("routing", &["b", "a", "B "]);
    assert_eq!(routing.choices(), Some(&["B".to_owned(), "a".to_owned()][..]));
    // Another agent's is one where every answer is there three times.
    assert_eq!(of("mine", &["a", "b", "a", "b", "a", "b"]).choices().map(<[_]>::len), Some(2));
    assert_eq!(of("mine", &["a", "b", "a", "b", "c"]), answers::Answers::Open);
    assert_eq!(of("search", &["a"; 9]), answers::Answers::Open);
    let json = of("entity_extraction", &[r#"{"entities": [], "x": 1}"#, r#"{"entities": ["a"]}"#]);
    assert_eq!(json.accept(r#"{"entities": ["b"]}"#), Ok(r#"{"entities": ["b"]}"#.to_owned()));
    assert_eq!(json.accept(r#"{"names": ["b"]}"#), Err(answers::OTHER_SHAPE));
    assert_eq!(json.accept("b"), Err(answers::NOT_JSON));
    // What people turned down is no answer but a worse one.
    let turned_down = [pair(1, "q", "a", "nonsense")];
    assert_eq!(answers::Answers::of("routing", &turned_down).accept("nonsense"), Err(answers::UNKNOWN));
    assert_eq!(answers::Answers::of_all("routing", &turned_down).accept("nonsense"), Ok("nonsense".to_owned()));
    // JSON is compared as JSON.
    let routing = of("routing", &[r#"{"agent": "a", "k": 1}"#]);
    assert_eq!(routing.accept(r#"{"k":1,"agent":"a"}"#), Ok(r#"{"agent": "a", "k": 1}"#.to_owned()));
    assert_eq!(routing.accept(r#"{"k":2,"agent":"a"}"#), Err(answers::UNKNOWN));
}

#[test]
fn without_a_parent_that_serves_there_is_nothing_to_start_from() {
    let error = |kind, parents: &[Example]| {
        generate(&config(|_| ()), &wanted(kind, 5, parents), &Progress::silent()).unwrap_err().to_string()
    };
    assert_eq!(
        error(ExampleKind::ApprovedExample, &[]),
        "no approved examples are there to start from: approve some traces first, as generated examples are made of real ones"
    );
    assert!(error(ExampleKind::Triplet, &routed()).starts_with("no approved triplets are there"));
    // One alone has nobody to be recombined with.
    assert_eq!(
        error(ExampleKind::ApprovedExample, &routed()[..1]),
        "`templates` gave no example that could be reviewed (left out: nothing): approve more traces, or choose another \
         with `--generator`"
    );
}

#[test]
fn auto_recombines_where_no_model_can() {
    let parents = routed();
    let config = config(|options| options.synthetic.generator = Some(GeneratorChoice::Auto));
    let made = generated(&config, &wanted(ExampleKind::ApprovedExample, 5, &parents));
    assert_eq!((made.generator, made.candidates.len()), (Generator::Templates, 5));
}

#[test]
fn a_named_generator_that_cannot_is_an_error() {
    let parents = routed();
    let config = config(|options| options.synthetic.generator = Some(GeneratorChoice::BaseModel));
    let wanted_of = |kind| wanted(kind, 5, &parents);
    let error = generate(&config, &wanted_of(ExampleKind::ApprovedExample), &Progress::silent()).unwrap_err();
    assert!(error.to_string().starts_with("the base model could not generate: "), "{error}");
    assert!(error.to_string().contains("no such model"), "{error}");
}

#[test]
fn ten_thousand_examples_are_looked_through_in_seconds() {
    let words = ["harbour", "valley", "budget", "workshop", "flood", "bread", "fjord", "mountain", "umbrella", "panel"];
    let input = |i: usize| {
        let of = |k: usize| words[(i / 10usize.pow(k as u32)) % 10];
        format!("tell me about the {} and the {} near the {} of {}", of(0), of(1), of(2), of(3))
    };
    let labels = ["clip_library", "weather_agent", "front_desk"];
    let parents: Vec<_> = (0..10_000).map(|i| example(i, &input(i), labels[i % 3])).collect();
    let start = std::time::Instant::now();
    let made = generate(&config(|_| ()), &wanted(ExampleKind::ApprovedExample, 50, &parents), &Progress::silent());
    eprintln!("of 10,000: {:.1} s, {:?}", start.elapsed().as_secs_f64(), made.map(|made| made.candidates.len()));
    assert!(start.elapsed().as_secs() < 60);
}
