//! Tests of this binary in a process of their own: what it loads, and a GPU that has failed, stay so.

use std::process::Command;

/// Runs the tests whose names contain one of `filters`, with more in the environment. Whether all of them passed, and what was
/// printed.
pub(crate) fn run(filters: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let executable = std::env::current_exe().expect("this program");
    let mut command = Command::new(executable);
    command.args(filters).args(["--test-threads=1", "--nocapture"]).envs(environment.iter().copied());
    let output = command.output().expect("it starts");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(!text.contains("running 0 tests"), "no test is called {filters:?}");
    (output.status.success(), text)
}
