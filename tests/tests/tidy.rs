//! Rules of the repository, as tests.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// A file of one idea is far below it: the median here is 4-8 KB.
const MAX_LINES: usize = 800;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every file that is not built, below `folder`, with its path in the repository.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let hidden = name.starts_with('.') && ![".cargo", ".ci"].contains(&name);
            if hidden || ["target", "outputs", "__pycache__"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(repository()).unwrap().to_str().unwrap().to_owned(), path));
            }
        }
    }
    assert!(!files.is_empty(), "nothing in `{folder}`");
    files.sort();
    files
}

/// Text files and their contents.
fn texts(folder: &str) -> Vec<(String, String)> {
    let text = |(name, path): (String, PathBuf)| Some((name, String::from_utf8(fs::read(path).unwrap()).ok()?));
    files(folder).into_iter().filter_map(text).collect()
}

fn rust_files() -> Vec<(String, String)> {
    texts("").into_iter().filter(|(name, _)| name.ends_with(".rs")).collect()
}

/// The names of the crates directly in `folder` that are built as components.
fn guests(folder: &str) -> Vec<String> {
    let crates = fs::read_dir(repository().join(folder)).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let manifest: toml::Table = fs::read_to_string(path.join("Cargo.toml")).ok()?.parse().unwrap();
        let types = manifest.get("lib")?.get("crate-type")?.as_array()?;
        types.iter().any(|kind| kind.as_str() == Some("cdylib")).then(|| path.file_name().unwrap().to_owned())
    });
    let mut names: Vec<_> = crates.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty(), "no guest in `{folder}`");
    names
}

/// Lines with `pattern` in them, as `file:line`.
fn places(texts: &[(String, String)], pattern: &str) -> Vec<String> {
    let in_file = |(name, text): &(String, String)| {
        let lines = text.lines().enumerate().filter(|(_, line)| line.contains(pattern));
        lines.map(|(index, _)| format!("{name}:{}", index + 1)).collect::<Vec<_>>()
    };
    texts.iter().flat_map(in_file).collect()
}

#[test]
fn no_rust_file_is_longer_than_a_reader_can_hold() {
    let long: Vec<_> = rust_files().into_iter().filter(|(_, text)| text.lines().count() > MAX_LINES).collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {:?}", long.iter().map(|(name, _)| name).collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_place_on_the_machine_that_wrote_it() {
    let texts = texts("");
    for folder in ["work", "tmp", "home", "root", "Users"] {
        // Put together here, so that this file does not find itself.
        assert_eq!(places(&texts, &format!("/{folder}/")), [""; 0]);
    }
}

#[test]
fn nothing_is_left_to_do() {
    let rust = rust_files();
    for pattern in [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("TO", "DO"), concat!("FIX", "ME")] {
        assert_eq!(places(&rust, pattern), [""; 0], "{pattern}");
    }
}

#[test]
fn every_plugin_has_a_manifest_and_is_locked_by_its_digest() {
    for plugin in guests("plugins") {
        assert!(
            repository().join("plugins").join(&plugin).join("plugin.toml").is_file(),
            "`{plugin}` has no plugin.toml"
        );
    }
    for workspace in ["plugins", "tests/guests"] {
        let dist = repository().join(workspace).join("dist");
        let lock: toml::Table = fs::read_to_string(dist.join("plugins.lock")).unwrap().parse().unwrap();
        let locked: Vec<_> = lock["plugins"].as_table().unwrap().keys().cloned().collect();
        let names = guests(workspace);
        assert_eq!(locked, names, "the lock of `{workspace}` against its crates");

        let mut components: Vec<_> = files(&format!("{workspace}/dist")).into_iter().map(|(_, path)| path).collect();
        components.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
        assert_eq!(components.len(), names.len(), "{components:?}");
        for name in names {
            let bytes = fs::read(dist.join(&name).with_extension("wasm")).unwrap();
            let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(
                lock["plugins"][&name]["sha256"].as_str(),
                Some(sha256.as_str()),
                "{workspace}/dist/{name}.wasm"
            );
        }
    }
}

#[test]
fn every_guest_has_a_test() {
    let tests: String = texts("tests/end_to_end").into_iter().map(|(_, text)| text).collect();
    for guest in guests("tests/guests") {
        assert!(tests.contains(&format!("tests/guests/dist/{guest}.wasm")), "no test loads `{guest}`");
    }
}

#[test]
fn every_file_of_the_end_to_end_tests_is_compiled() {
    let folder = repository().join("tests/end_to_end");
    let main = fs::read_to_string(folder.join("main.rs")).unwrap();
    for (name, path) in files("tests/end_to_end") {
        let module = path.file_stem().unwrap().to_str().unwrap();
        assert!(module == "main" || main.contains(&format!("\nmod {module};\n")), "main.rs leaves `{name}` out");
    }
}

#[test]
fn the_readmes_quick_start_is_two_blocks_of_one_command() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let section = readme.split_once("\n## Quick start\n").unwrap().1.split("\n## ").next().unwrap();
    let blocks: Vec<_> = section.split("\n```sh\n").skip(1).map(|rest| rest.split_once("\n```").unwrap().0).collect();
    assert_eq!(
        blocks,
        [
            "cargo run --release -- finetune --config examples/quickstart/tunesmith.toml",
            "cargo test --release --workspace"
        ]
    );
    for (which, command) in ["main", "tests"].into_iter().zip(blocks) {
        let output = Command::new(repository().join("tests/quickstart.sh")).arg(which).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{command}\n"), "quickstart.sh {which}");
    }
}
