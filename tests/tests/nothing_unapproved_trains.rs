//! Code that would let something into a training set that no person approved does not compile.
//!
//! The first line of each file in `not_approved/` has the errors that the compiler must give, one for each of its functions, which is
//! compiled alone; what is approved shows that it is not for another reason that they fail.
#![allow(clippy::unwrap_used)] // clippy allows it in test functions only, and these have helpers

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Beside the test itself lies what it was linked with.
fn newest_library() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let libraries = fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("libtunesmith-") && name.ends_with(".rlib")
    });
    libraries.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap()
}

/// The codes of the compiler's errors.
fn errors(code: &str) -> Vec<String> {
    let library = newest_library();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("attempt.rs");
    fs::write(&file, code).unwrap();
    let output = Command::new("rustc")
        .args(["--edition=2024", "--crate-type=lib", "--crate-name=attempt", "--emit=metadata", "--error-format=short"])
        .arg(file)
        .arg("--out-dir")
        .arg(scratch.path())
        .arg("--extern")
        .arg(format!("tunesmith={}", library.display()))
        .arg("-L")
        .arg(format!("dependency={}", library.parent().unwrap().display()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let code = |line: &str| Some(line.split_once("error[")?.1.split_once(']')?.0.to_owned());
    let errors: Vec<_> = text.lines().filter_map(code).collect();
    assert_eq!(output.status.success(), errors.is_empty(), "{text}");
    errors
}

#[test]
fn nothing_unapproved_can_be_written_into_a_training_set() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/not_approved");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let mut parts = text.split("\npub fn ");
        let header = parts.next().unwrap();
        let expected: Vec<_> = header.lines().next().unwrap().strip_prefix("//! ").unwrap().split(' ').collect();
        let found: Vec<_> = parts.map(|function| errors(&format!("{header}\npub fn {function}")).join(" ")).collect();
        assert_eq!(found, expected, "{}", file.display());
    }
    let approved = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/approved.rs.txt")).unwrap();
    assert_eq!(errors(&approved), [""; 0]);
}
