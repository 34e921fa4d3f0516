//! Runs that are killed.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::home::Home;

#[test]
fn a_run_that_is_killed_while_it_trains_leaves_no_folder_with_a_final_name() {
    let home = Home::ready();
    // 2000 epochs take half a minute: none ends before it is killed.
    let mut command = home.command(&["finetune", "--epochs", "2000"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let training = || {
        let metrics = home.outputs().first().map(|name| home.path("out").join(name).join("metrics.jsonl"));
        metrics.is_some_and(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0))
    };
    while !training() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(60), "no step in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));

    let left = home.outputs();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(".sft_routing_") && left[0].contains(".unfinished-"), "{left:?}");
    // The next run is whole, and removes what is left.
    let folder = home.trains(&[]);
    assert!(folder.join("adapter_model.safetensors").is_file());
    assert!(!home.outputs().contains(&left[0]), "{:?}", home.outputs());
}
