//! Answers: what greedy decoding says, when it ends, what is refused, and text that is never cut inside a character.
#![allow(clippy::unwrap_used)] // clippy.toml's exception covers #[test] functions, not their helpers

use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use trainer_cuda::TrainerError;
use trainer_cuda::batch::{Forest, TokenExample};
use trainer_cuda::config::Precision;
use trainer_cuda::cpu::Cpu;
use trainer_cuda::decoder::Decoder;
use trainer_cuda::formats::text_stream::TextStream;
use trainer_cuda::formats::{Adapter, BaseModel, TextTokenizer, peft};
use trainer_cuda::generator::sampling::Sampling;
use trainer_cuda::generator::{Answer, AnswerConfig, End, Generator, check_prompt};
use trainer_cuda::loader::Training;

const PROMPT: &str = "### Instruction:\nRoute the query to an agent.\n### Input:\nmove my meeting\n### Response:\n";

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn tied() -> BaseModel {
    BaseModel::open(&fixture("golden/llama_tied/base")).unwrap()
}

fn adapter() -> Adapter {
    Adapter::open(&fixture("golden/llama_tied/adapter_init")).unwrap()
}

/// A copy of the tied golden model with one file changed.
fn changed(file: &str, key: &str, value: Value) -> (tempfile::TempDir, BaseModel) {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("golden/llama_tied/base")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join(file);
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json[key] = value;
    fs::write(path, json.to_string()).unwrap();
    let base = BaseModel::open(dir.path()).unwrap();
    (dir, base)
}

fn generator(base: &BaseModel, adapter: Option<&Adapter>) -> Generator<Cpu> {
    Generator::load(Cpu::new(Some(2)), base, adapter, Precision::F32, usize::MAX).unwrap()
}

fn greedy(max_new_tokens: usize) -> AnswerConfig {
    AnswerConfig { max_new_tokens, sampling: Sampling::default() }
}

fn answer(generator: &mut Generator<Cpu>, base: &BaseModel, config: AnswerConfig) -> Answer {
    let prompt = base.tokenizer.encode(PROMPT).unwrap();
    generator.answer(&base.tokenizer, &prompt, config, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The likeliest token after each prefix of `ids`, as the training forward pass scores the whole sequence.
fn teacher_forced(base: &BaseModel, adapter: Option<&Path>, ids: &[u32]) -> Vec<u32> {
    let example = TokenExample { input_ids: ids.to_vec(), labels: vec![true; ids.len()], response_start: 0 };
    let forest = Forest::new(&[&example]);
    let adapter = adapter.map(|folder| (Adapter::open(folder).unwrap(), peft::read_adapter(folder).unwrap()));
    let training = match &adapter {
        Some((adapter, _)) => Training::Lora { config: &adapter.lora, seed: 0, precision: Precision::F32 },
        None => Training::Nothing { precision: Precision::F32 },
    };
    let mut decoder = Decoder::load(Cpu::new(Some(2)), base, training, forest.budget(), false, false).unwrap();
    if let Some((_, tensors)) = &adapter {
        decoder.write_adapter(tensors).unwrap();
    }
    decoder.score(&forest).argmax
}

#[test]
fn a_greedy_answer_is_the_training_forwards_argmax_after_each_of_its_tokens() {
    for name in ["llama_tied", "llama_untied_rope3", "qwen2", "qwen3"] {
        let base = BaseModel::open(&fixture("golden").join(name).join("base")).unwrap();
        let folder = fixture("golden").join(name).join("adapter_init");
        for adapter_folder in [None, Some(folder.as_path())] {
            let adapter = adapter_folder.map(|folder| Adapter::open(folder).unwrap());
            let answer = answer(&mut generator(&base, adapter.as_ref()), &base, greedy(60));
            let prompt = base.tokenizer.encode(PROMPT).unwrap();
            let whole = [prompt.as_slice(), &answer.token_ids].concat();
            let argmax = teacher_forced(&base, adapter_folder, &whole);
            assert!(answer.token_ids.len() > 20, "{answer:?}");
            assert_eq!(answer.token_ids, argmax[prompt.len() - 1..], "{name}, {adapter_folder:?}");
        }
    }
}

#[test]
fn an_adapter_changes_the_answer_and_forgetting_gives_the_same_again() {
    let base = tied();
    let adapter = adapter();
    let mut with = generator(&base, Some(&adapter));
    let first = answer(&mut with, &base, greedy(20));
    assert_ne!(first, answer(&mut generator(&base, None), &base, greedy(20)));
    assert_eq!(first, answer(&mut with, &base, greedy(20)));
}

#[test]
fn a_prompt_of_several_passes_is_the_training_forwards_too() {
    let (_dir, base) = changed("config.json", "max_position_embeddings", json!(2048));
    let prompt: Vec<u32> = (0..1100).map(|i| 3 + i * 7 % 390).collect(); // 512 + 512 + 76
    let config = greedy(3);
    let answer =
        generator(&base, None).answer(&base.tokenizer, &prompt, config, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(answer.token_ids.len(), 3);
    let argmax = teacher_forced(&base, None, &[prompt.as_slice(), &answer.token_ids].concat());
    assert_eq!(answer.token_ids, argmax[prompt.len() - 1..]);
}

#[test]
fn an_answer_ends_at_any_token_that_generation_config_lists() {
    let whole = answer(&mut generator(&tied(), None), &tied(), greedy(10));
    assert_eq!((whole.end, whole.token_ids.len()), (End::MaxNewTokens, 10));
    let end = whole.token_ids[5];
    let until = whole.token_ids.iter().position(|&id| id == end).unwrap();

    let (_dir, base) = changed("generation_config.json", "eos_token_id", json!([2, end]));
    assert_eq!(base.end_token_ids(), { [2, end] });
    let cut = answer(&mut generator(&base, None), &base, greedy(10));
    assert_eq!((cut.end, cut.token_ids.as_slice()), (End::EndOfSequence, &whole.token_ids[..until]));
}

#[test]
fn an_answer_ends_where_the_positions_do_and_where_the_caller_stops_it() {
    let base = tied();
    let prompt = base.tokenizer.encode(PROMPT).unwrap();
    let mut short = Generator::load(Cpu::new(Some(1)), &base, None, Precision::F32, prompt.len() + 4).unwrap();
    let ended = answer(&mut short, &base, greedy(100));
    assert_eq!((ended.end, ended.token_ids.len()), (End::MaxLength, 4));
    assert_eq!(answer(&mut short, &base, greedy(4)).end, End::MaxNewTokens);

    let mut pieces = Vec::new();
    let stopped = generator(&base, None).answer(&base.tokenizer, &prompt, greedy(100), &mut |text| {
        pieces.push(text.to_owned());
        if pieces.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let stopped = stopped.unwrap();
    assert_eq!((stopped.end, stopped.text), (End::Stopped, pieces.concat()));
    assert_eq!(pieces.len(), 3);
}

#[test]
fn a_seed_gives_the_same_sampled_answer_on_any_number_of_threads() {
    let base = tied();
    let sampled = |threads, seed| {
        let mut generator = Generator::load(Cpu::new(Some(threads)), &base, None, Precision::F32, 512).unwrap();
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, seed };
        answer(&mut generator, &base, AnswerConfig { max_new_tokens: 30, sampling })
    };
    assert_eq!(sampled(1, 5), sampled(3, 5));
    assert_ne!(sampled(1, 5), sampled(1, 6));
}

#[test]
fn a_prompt_without_an_answer_is_refused() {
    let base = tied();
    let config = base.decoder().unwrap();
    let error = |prompt: &[u32]| {
        let error = check_prompt(config, prompt, config.max_position_embeddings).unwrap_err();
        assert!(matches!(error, TrainerError::Prompt(_)));
        let answered = generator(&base, None).answer(&base.tokenizer, prompt, greedy(1), &mut |_| unreachable!());
        assert_eq!(answered.unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    assert_eq!(error(&[]), "the prompt is empty: there is no token to go on from");
    assert_eq!(
        error(&[5; 512]),
        "the prompt has 512 tokens, which leaves no room for an answer in the model's 512 positions; shorten it"
    );
    assert_eq!(
        error(&[5, 400]),
        "token id 400 is outside the model's vocabulary of 400; the tokenizer is not this model's"
    );
    assert!(check_prompt(config, &[5; 511], 512).is_ok());
}

#[test]
fn a_stream_gives_whole_characters_and_loses_nothing() {
    let tokenizer = tied().tokenizer;
    // Its 400 tokens hold no emoji: each is several byte tokens.
    let text = "naïve 👩‍🚀 日本語 end";
    let ids = tokenizer.encode(text).unwrap();
    let mut stream = TextStream::new(&tokenizer);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(stream.finish().unwrap(), "");
    assert_eq!(pieces.concat(), text);
    assert!(pieces.iter().any(|piece| piece == "👩") && pieces.contains(&String::new()), "{pieces:?}");
    assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
}

#[test]
fn bytes_that_never_become_a_character_are_given_at_the_end() {
    let tokenizer = tied().tokenizer;
    let ids = tokenizer.encode("a👩").unwrap();
    let mut stream = TextStream::new(&tokenizer);
    let pieces: Vec<String> = ids[..ids.len() - 1].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces.concat(), "a");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
}

#[test]
fn special_tokens_have_no_text_in_an_answer() {
    let tokenizer: TextTokenizer = tied().tokenizer;
    let start = tokenizer.bos_id().unwrap();
    let word = tokenizer.encode("agent").unwrap();
    let mut stream = TextStream::new(&tokenizer);
    let ids = [&[start], word.as_slice(), &[start], &word].concat();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces.concat(), "agentagent");
}
