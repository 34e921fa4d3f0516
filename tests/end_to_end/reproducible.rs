//! The same inputs and the same seed give the same bytes.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::home::{Home, read_json, repository, run};

/// A run on the quick start's base: its products are large enough to be shared among threads, the tiny model's are not.
fn home() -> Home {
    let home = Home::ready();
    home.configure("batch_size = 8");
    home
}

fn base() -> String {
    repository("examples/quickstart/base").to_str().unwrap().to_owned()
}

fn adapter(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_adapter_and_another_seed_another() {
    let train = |seed| adapter(&home().trains(&["--base-model", &base(), "--seed", seed]));
    let first = train("7");
    assert!(first == train("7"), "two runs with one seed differ");
    assert!(first != train("8"), "the seed changes nothing");
}

#[test]
fn one_thread_gives_the_same_adapter_as_several() {
    let home = home();
    let several = home.trains(&["--base-model", &base()]);
    let mut command = home.command(&["finetune", "--base-model", &base(), "--output-dir", "out/single"]);
    // SAFETY: between fork and exec the closure calls `sched_getaffinity` and `sched_setaffinity` alone, system calls
    // that neither allocate nor lock; a zeroed set is a valid one.
    unsafe { command.pre_exec(|| stay_on_one_core().then_some(()).ok_or_else(std::io::Error::last_os_error)) };
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let single = fs::read_dir(home.path("out/single")).unwrap().next().unwrap().unwrap().path();

    let device = |folder: &Path| read_json(&folder.join("run.json"))["report"]["device"].as_str().unwrap().to_owned();
    assert!(device(&single).starts_with("cpu (1 thread"), "{}", device(&single));
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert_ne!(device(&several), device(&single));
    }
    assert!(adapter(&several) == adapter(&single), "the number of threads changes the adapter");
}

/// Leaves this process the first core that it may run on.
fn stay_on_one_core() -> bool {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: both calls read or write `size` bytes of a set that lives on this stack.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return false;
        }
        let first = (0..8 * size).find(|&core| libc::CPU_ISSET(core, &allowed));
        let Some(first) = first else { return false };
        libc::CPU_SET(first, &mut one);
        libc::sched_setaffinity(0, size, &one) == 0
    }
}
