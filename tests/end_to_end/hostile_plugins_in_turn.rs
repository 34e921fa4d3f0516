//! Every attack in turn on one engine of one process, as a server has it: after each, the next job is fine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tunesmith::plugins::bindings::formatting::{Formatted, FormatterConfig};
use tunesmith::plugins::bindings::types::{Example, InstructionExample, Lineage};
use tunesmith::plugins::{
    Allowance, Fault, Formatter, Limits, PluginEngine, PluginError, PluginKind, PluginPackage, PluginRef, Want,
};

use crate::home::repository;
use crate::hostile_formatters::hostile_formatters;
use crate::wat::Core;

/// A folder of plugins, and the engine that they share.
struct Workshop {
    folder: tempfile::TempDir,
    engine: std::sync::Arc<PluginEngine>,
}

impl Workshop {
    fn new(limits: Limits) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), engine: PluginEngine::uncached(limits).unwrap() }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("mine.wasm");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, reference: &PluginRef, deadline_ms: u64) -> Result<Formatter, PluginError> {
        let mut package = PluginPackage::find(reference, PluginKind::Formatter, None)?;
        let limits = Limits { deadline: Duration::from_millis(deadline_ms), ..*self.engine.limits() };
        package.allowance = Allowance { limits, wants: [Want::Settings].into() };
        Formatter::load(&self.engine, &package)
    }

    fn built_in(&self) -> Formatter {
        self.load(&PluginRef::parse("alpaca-formatter"), 60_000).unwrap()
    }

    /// What becomes of these bytes as the formatter of 54 examples.
    fn run(&self, bytes: &[u8], deadline_ms: u64) -> Result<Vec<Formatted>, PluginError> {
        self.load(&PluginRef::File(self.file(bytes)), deadline_ms)?.format(&plain(), &examples())
    }

    /// The error of bytes that do not load.
    fn refuses(&self, bytes: &[u8]) -> PluginError {
        self.load(&PluginRef::File(self.file(bytes)), 60_000).err().unwrap()
    }
}

fn plain() -> FormatterConfig {
    FormatterConfig { agent_type: "routing".into(), settings: vec![] }
}

fn config(behaviour: &str) -> FormatterConfig {
    FormatterConfig { agent_type: "routing".into(), settings: vec![("behaviour".into(), behaviour.into())] }
}

fn examples() -> Vec<Example> {
    let example = |index| {
        Example::Instruction(InstructionExample {
            instruction: "Route".into(),
            input: format!("query {index} "),
            output: "agent".into(),
            corrected: false,
            lineage: Lineage {
                span_ids: vec![format!("{index:016x}")],
                trace_id: String::new(),
                session_id: None,
                annotation_names: vec![],
            },
        })
    };
    (0..54).map(example).collect()
}

/// The engine's: a plugin's deadline is its own.
fn limits() -> Limits {
    Limits { deadline: Duration::from_secs(60), ..Limits::default() }
}

#[test]
fn after_every_attack_the_next_job_is_fine() {
    let workshop = Workshop::new(limits());
    let good = workshop.built_in();
    let records = good.format(&plain(), &examples()).unwrap();
    assert_eq!(records.len(), 54);
    let still_good = |after: &str| assert_eq!(good.format(&plain(), &examples()).unwrap(), records, "after {after}");

    for hostile in hostile_formatters() {
        let error = workshop.run(&hostile.core.component(), hostile.deadline_ms()).unwrap_err().to_string();
        assert_eq!(error, format!("plugin `mine`, call `format` of batch 1: {}", hostile.fault), "{}", hostile.name);
        still_good(hostile.name);
    }

    let guest = PluginRef::File(repository("tests/guests/dist/hostile-formatter.wasm"));
    let (patient, hasty) = (workshop.load(&guest, 60_000).unwrap(), workshop.load(&guest, 300).unwrap());
    let faults = [
        (&hasty, "spin", "deadline"),
        (&hasty, "spin-deep", "deadline"),
        (&hasty, "allocate-slowly", "deadline"),
        (&patient, "allocate", "memory"),
        (&patient, "recurse", "trap"),
        (&patient, "flood", "output"),
        (&patient, "panic", "trap"),
        (&patient, "panic-at-query-0", "trap"),
        (&patient, "too-few", "invalid output"),
        (&patient, "split-character", "invalid output"),
        (&patient, "forge-error", "refused"),
    ];
    for (guest, behaviour, fault) in faults {
        let error = guest.format(&config(behaviour), &examples()).unwrap_err();
        assert!(matches!(&error, PluginError::Call { fault: found, .. } if found.name() == fault), "{error}");
        still_good(behaviour);
    }
    // What was stopped counts too.
    let (patient, hasty) = (patient.costs(), hasty.costs());
    assert_eq!((hasty.calls, patient.calls), (3, 8));
    assert!(hasty.max.wall >= Duration::from_millis(300), "{hasty:?}");
    assert!(patient.max.memory_bytes > 32 << 20 && patient.max.memory_bytes <= limits().memory_bytes, "{patient:?}");
}

#[test]
fn a_plugin_is_held_to_its_own_limits_not_to_the_engines() {
    let workshop = Workshop::new(Limits { fuel: Some(1 << 40), ..limits() });
    let mut package = PluginPackage::find(&PluginRef::parse("alpaca-formatter"), PluginKind::Formatter, None).unwrap();
    let mut fault = |limits: Limits| {
        package.allowance.limits = limits;
        let formatter = Formatter::load(&workshop.engine, &package).unwrap();
        match formatter.format(&plain(), &examples()) {
            Err(PluginError::Call { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(fault(Limits { fuel: Some(1000), ..limits() }), Fault::Fuel { limit: 1000 });
    assert_eq!(fault(Limits { output_bytes: 100, ..limits() }), Fault::OutputLimit { limit: 100 });
    assert!(matches!(fault(Limits { memory_bytes: 1 << 16, ..limits() }), Fault::Memory { limit: 65536, .. }));
    assert!(matches!(fault(Limits { table_elements: 1, ..limits() }), Fault::Table { limit: 1, .. }));
    package.allowance.limits = Limits { component_bytes: 1000, ..limits() };
    let error = Formatter::load(&workshop.engine, &package).err().unwrap().to_string();
    assert!(
        error.ends_with(
            "more than the cap of 1000; build it without debug information, or raise `plugins.component_mib`"
        )
    );
}

#[test]
fn the_largest_stack_fits_a_thread() {
    let workshop = Workshop::new(Limits { stack_bytes: 1 << 20, ..limits() });
    let recursion = hostile_formatters().into_iter().find(|hostile| hostile.name == "recursion without end").unwrap();
    let bytes = recursion.core.component();
    // 2 MiB is what a thread has where nobody says otherwise.
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let error = thread.spawn(move || workshop.run(&bytes, 60_000).unwrap_err().to_string()).unwrap().join().unwrap();
    assert!(error.contains(" used up its stack of 1024 KiB; "), "{error}");
}

#[test]
fn fuel_is_the_same_in_every_call() {
    let workshop = Workshop::new(Limits { fuel: Some(1 << 40), ..limits() });
    let fuel = || {
        let formatter = workshop.built_in();
        formatter.format(&plain(), &examples()).unwrap();
        formatter.costs().total.fuel.unwrap()
    };
    let first = fuel();
    assert!(first > 10_000 && first == fuel(), "{first}");
}

#[test]
fn a_component_that_is_cut_anywhere_is_refused() {
    let workshop = Workshop::new(limits());
    let whole = std::fs::read(repository("tests/guests/dist/terse-formatter.wasm")).unwrap();
    assert_eq!(workshop.run(&whole, 60_000).unwrap().len(), 54);
    for sixteenths in 0..16 {
        let error = workshop.refuses(&whole[..whole.len() * sixteenths / 16]);
        let refused = matches!(error, PluginError::NotAComponent { .. } | PluginError::Incompatible { .. });
        assert!(refused, "{sixteenths}/16: {error}");
    }
}

#[test]
fn a_component_with_one_wrong_bit_is_refused_or_keeps_to_its_limits() {
    let workshop = Workshop::new(limits());
    let whole = Core::default().component();
    let mut place: u64 = 1;
    for _ in 0..200 {
        // A linear congruential generator's upper bits: the same 200 places every time.
        place = place.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bit = (place >> 33) as usize % (whole.len() * 8);
        let mut wrong = whole.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        if let Err(error) = workshop.run(&wrong, 50) {
            assert!(!error.is_ours() && !error.to_string().contains(char::is_control), "bit {bit}: {error}");
        }
    }
}

#[test]
fn a_component_of_another_patch_of_the_wit_loads_and_one_of_another_minor_version_does_not() {
    let workshop = Workshop::new(limits());
    let whole = Core::default().component();
    let of = |version: &[u8; 5]| {
        let mut bytes = whole.clone();
        let places: Vec<_> = (0..bytes.len() - 5).filter(|&at| bytes[at..].starts_with(b"0.1.1")).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at..at + 5].copy_from_slice(version);
        }
        workshop.run(&bytes, 60_000).unwrap_err().to_string()
    };
    let answered = "plugin `mine`, call `format` of batch 1: handed back invalid output: 0 results for 54 examples; fix \
                    the plugin, or use another";
    assert_eq!(of(b"0.1.0"), answered);
    assert_eq!(of(b"0.1.9"), answered);
    for version in ["0.2.0", "0.0.9", "1.1.1"] {
        assert_eq!(
            of(version.as_bytes().try_into().unwrap()),
            format!(
                "plugin `mine` does not export `tunesmith:plugin/formatting@0.1.1`, which every formatter must; it \
                 exports: `tunesmith:plugin/formatting@{version}`; name another plugin, or build it for the world \
                 `formatter`"
            )
        );
    }
}

#[test]
fn imports_that_were_not_granted_are_refused_by_name() {
    let workshop = Workshop::new(limits());
    let refused = |import: &str| {
        let text = format!("(component (import \"{import}\" (instance (export \"get\" (func)))))");
        workshop.refuses(&wat::parse_str(text).unwrap()).to_string()
    };
    for import in [
        "tenant:reach/http",
        "tunesmith:plugin/secrets@0.1.1",
        "tunesmith:plugin/log@0.2.0",
        "tunesmith:plugin/logs@0.1.1",
        "wasi:filesystem/preopens@0.3.0",
    ] {
        let error = refused(import);
        assert!(error.starts_with(&format!("plugin `mine` imports `{import}`, and plugins get no imports")), "{error}");
    }
    for import in ["wasi:filesystem/preopens@0.2.0", "wasi:sockets/tcp@0.2.3", "wasi:cli/environment@0.2.0"] {
        let error = refused(import);
        let start = format!("plugin `mine` imports `{import}`, which it was not granted; its `plugin.toml` has to say");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn a_log_of_another_type_is_refused_although_it_was_granted() {
    let workshop = Workshop::new(limits());
    let text = r#"(component
        (import "tunesmith:plugin/log@0.1.1" (instance (export "write" (func))))
        (instance $formatting)
        (export "tunesmith:plugin/formatting@0.1.1" (instance $formatting)))"#;
    let file = PluginRef::File(workshop.file(&wat::parse_str(text).unwrap()));
    let mut package = PluginPackage::find(&file, PluginKind::Formatter, None).unwrap();
    let mut error = |wants: BTreeSet<Want>| {
        package.allowance.wants = wants;
        Formatter::load(&workshop.engine, &package).err().unwrap().to_string()
    };
    assert!(error(BTreeSet::new()).contains("which it was not granted"));
    let error = error(Want::ALL.into());
    assert!(error.starts_with("plugin `mine` does not fit this run: component imports instance"), "{error}");
    assert!(error.ends_with("; rebuild it against this version's `wit/` folder"), "{error}");
}

#[test]
fn files_of_other_kinds_are_refused_by_what_they_are() {
    let workshop = Workshop::new(limits());
    for bytes in [&b""[..], b"\x7fELF\x02\x01\x01", b"PK\x03\x04", b"#!/bin/sh\n", b"\0asm", b"\0as", &[0xff; 100]] {
        let error = workshop.refuses(bytes);
        assert!(matches!(error, PluginError::NotAComponent { .. }), "{error}");
    }
}

/// A number as WebAssembly writes it.
fn leb(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// A section of a module or a component.
fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [&[id], &leb(contents.len())[..], contents].concat()
}

/// A component in a component in a component.
fn nested(depth: usize) -> Vec<u8> {
    let mut reversed = Vec::new();
    let preamble = b"\0asm\x0d\0\x01\0";
    reversed.extend(preamble.iter().rev());
    for _ in 0..depth {
        let section = [vec![4], leb(reversed.len())].concat(); // of components
        reversed.extend(section.iter().rev());
        reversed.extend(preamble.iter().rev());
    }
    reversed.reverse();
    reversed
}

#[test]
fn a_component_of_ten_thousand_parts_is_refused() {
    let workshop = Workshop::new(limits());
    let refused = |bytes: &[u8]| workshop.refuses(bytes).to_string();
    let instances = "(core module $m)".to_owned() + &"(core instance (instantiate $m))".repeat(10_000);
    let error = refused(&wat::parse_str(format!("(component {instances})")).unwrap());
    let start = "plugin `mine` does not fit this run: it does not compile: failed to parse WebAssembly module: ";
    assert!(error.starts_with(&format!("{start}instances count exceeds limit of 1000")), "{error}");

    // These would compile: 10,000 components in one another to 2 GB, a few wide ones to 20 GB.
    let many = |what: &str| {
        format!(
            "plugin `mine` has more than {what}: its compilation would take minutes and gigabytes; build it of fewer"
        )
    };
    let preamble = b"\0asm\x0d\0\x01\0";
    let wide = [&preamble[..], &section(4, preamble).repeat(100)].concat();
    let wider = [&preamble[..], &section(4, &wide).repeat(100)].concat();
    for component in [nested(10_000), wider, [&preamble[..], &section(4, preamble).repeat(501)].concat()] {
        assert_eq!(refused(&component), many("500 modules and components"));
    }
    let n = leb(50_001);
    let declared = section(3, &[&n[..], &vec![0; 50_001]].concat());
    let bodies = section(10, &[&n[..], &[2, 0, 0x0b].repeat(50_001)].concat());
    let module = [b"\0asm\x01\0\0\0", &section(1, &[1, 0x60, 0, 0])[..], &declared, &bodies].concat();
    assert_eq!(refused(&[&preamble[..], &section(1, &module)].concat()), many("50000 functions"));

    let error = refused(&with_instances("(module)", 70));
    assert!(error.starts_with("plugin `mine` does not fit this run: it takes more than a plugin may: "), "{error}");
    assert!(error.ends_with("; build it of fewer or smaller parts"), "{error}");
}

#[test]
fn a_function_that_would_keep_its_compiler_for_minutes_is_not_compiled() {
    let workshop = Workshop::new(limits());
    // No locals, `nop` over and over, `end`; as bytes, because its text would take gigabytes to parse.
    let body = [&[0], &vec![1; 1_200_000][..], &[0x0b]].concat();
    let code = [&[1], &leb(body.len())[..], &body].concat();
    let types_and_functions = [section(1, &[1, 0x60, 0, 0]), section(3, &[1, 0])].concat();
    let module = [b"\0asm\x01\0\0\0", &types_and_functions[..], &section(10, &code)].concat();
    let component = [b"\0asm\x0d\0\x01\0", &section(1, &module)[..]].concat();
    assert_eq!(
        workshop.refuses(&component).to_string(),
        "plugin `mine` has a function of 1200002 bytes, more than the 1048576 that one may have: its compilation would \
         take minutes and gigabytes; split it"
    );
}

#[test]
fn a_component_of_more_memories_than_a_call_may_have() {
    let workshop = Workshop::new(limits());
    assert!(
        workshop.run(&with_instances("(module (memory 1))", 7), 60_000).unwrap_err().to_string().contains(" 0 results")
    );
    assert_eq!(
        workshop.run(&with_instances("(module (memory 1))", 8), 60_000).unwrap_err().to_string(),
        "plugin `mine`, call `format` of batch 1: is made of more than 8 memories; build it of fewer modules"
    );
    // Their pages are counted together.
    assert_eq!(
        workshop.run(&with_instances("(module (memory 200))", 6), 60_000).unwrap_err().to_string(),
        "plugin `mine`, call `format` of batch 1: wanted 79691776 bytes of memory, more than its cap of 67108864; the \
         plugin leaks or needs smaller batches: fix it, or raise `plugins.memory_mib`"
    );
}

/// A formatter, and this module so many times beside it.
fn with_instances(module: &str, n: u8) -> Vec<u8> {
    let mut bytes = Core::default().component();
    let modules = sections(&bytes).iter().filter(|&&id| id == 1).count() as u8;
    let module = wat::parse_str(module).unwrap();
    assert!(modules < 128 && n < 128, "numbers of one byte");
    // A section with the module, and one with the instances of it: each `(instantiate module)` with no argument.
    bytes.extend(section(1, &module));
    bytes.extend(section(2, &[&[n], &[0, modules, 0].repeat(n.into())[..]].concat()));
    bytes
}

/// The kinds of a component's sections, in order.
fn sections(component: &[u8]) -> Vec<u8> {
    let (mut ids, mut at) = (Vec::new(), 8);
    while at < component.len() {
        ids.push(component[at]);
        let (mut size, mut shift) = (0, 0);
        loop {
            at += 1;
            size |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] & 0x80 == 0 {
                break;
            }
        }
        at += 1 + size;
    }
    ids
}

#[test]
fn a_file_that_is_none() {
    let workshop = Workshop::new(limits());
    let error = workshop.load(&PluginRef::File(Path::new("no/such.wasm").into()), 60_000).err().unwrap();
    assert!(matches!(error, PluginError::Read { .. }), "{error}");
}
