//! What holds between a kernel's source, its PTX, its launch and its budget. That the PTX is what the source compiles to is
//! for `kernels/build.py --check`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::path::Path;

/// The files of a folder that end so: stem and text.
fn files(folder: &str, extension: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).expect("the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let named = paths.filter(|path| path.extension().is_some_and(|ending| ending == extension));
    named
        .map(|path| (path.file_stem().expect("a name").to_string_lossy().into(), read_to_string(&path).expect("text")))
        .collect()
}

/// A kernel in a `.cu` file.
struct Kernel {
    name: String,
    /// As they are written, a line each or several.
    parameters: String,
}

/// The kernels of a source. One that is written in a macro is one for each use of it: `GEMM(gemm_nn_bf16, bf16, ..)`.
fn kernels(source: &str) -> Vec<Kernel> {
    let mut found = Vec::new();
    for (start, _) in source.match_indices("extern \"C\" __global__") {
        // With the comment behind the last parameter.
        let body = start + source[start..].find(") {").expect("a body");
        let head = &source[start..body + source[body..].find('\n').expect("a line")];
        // Behind `__launch_bounds__(..)`, the name is what stands before a bracket.
        let from = head.find("__launch_bounds__").map_or(0, |at| at + head[at..].find(')').expect("its end") + 1);
        let (before, parameters) = head[from..].split_once('(').expect("parameters");
        let name = before.split_whitespace().last().expect("a name");
        let kernel = |name: String| Kernel { name, parameters: parameters.to_owned() };
        if !head.contains('\\') {
            found.push(kernel(name.to_owned()));
            continue;
        }
        let (_, definition) = source[..start].rsplit_once("#define ").expect("its macro");
        let (called, formal) = definition.split_once('(').expect("parameters of the macro");
        let formal = formal.split_once(')').expect("their end").0.split(", ");
        for line in source.lines().filter_map(|line| line.strip_prefix(called)?.strip_prefix('(')) {
            let actual = line.split_once(')').expect("the end of the use").0.split(", ");
            let expanded = formal.clone().zip(actual).fold(name.to_owned(), |name, (formal, actual)| {
                if name == formal { actual.to_owned() } else { name.replace(&format!("##{formal}"), actual) }
            });
            found.push(kernel(expanded));
        }
    }
    found
}

/// Of all sources.
fn all_kernels() -> BTreeSet<String> {
    files("kernels", "cu").values().flat_map(|source| kernels(source)).map(|kernel| kernel.name).collect()
}

/// Every `"name"` of a text.
fn literals(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')).collect()
}

#[test]
fn every_source_has_ptx_with_its_kernels_and_nothing_else_has() {
    let (sources, ptx) = (files("kernels", "cu"), files("kernels/ptx", "ptx"));
    assert_eq!(sources.keys().collect::<Vec<_>>(), ptx.keys().collect::<Vec<_>>());
    for (stem, source) in &sources {
        assert!(ptx[stem].starts_with(&format!("// tunesmith: {stem}.cu\n")), "{stem}.ptx does not say what it is");
        let entries = ptx[stem].split(".entry ").skip(1).filter_map(|entry| entry.split_once('('));
        let entries: BTreeSet<&str> = entries.map(|(name, _)| name).collect();
        let kernels = kernels(source);
        assert_eq!(kernels.iter().map(|kernel| kernel.name.as_str()).collect::<BTreeSet<_>>(), entries, "{stem}");
    }
}

#[test]
fn every_kernel_is_launched_and_every_launch_has_a_kernel() {
    let (kernels, launches) = (all_kernels(), files("src/cuda", "rs"));
    let named: BTreeSet<&str> = launches.values().flat_map(|text| literals(text)).collect();
    let forgotten: Vec<_> = kernels.iter().filter(|kernel| !named.contains(kernel.as_str())).collect();
    assert!(forgotten.is_empty(), "never launched: {forgotten:?}");

    // What is called like a kernel's file is a kernel or, where a product stands for it, an operation.
    let device =
        read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/device/mod.rs")).expect("the operations");
    for stem in files("kernels", "cu").keys() {
        for name in named.iter().filter(|name| name.starts_with(&format!("{stem}_"))) {
            let is_operation = device.contains(&format!("fn {name}(")) || device.contains(&format!("fn {name}<"));
            assert!(kernels.contains(*name) || is_operation, "`{name}` is no kernel");
        }
    }
}

#[test]
fn every_pointer_has_its_shape() {
    for (stem, source) in files("kernels", "cu") {
        for Kernel { name, parameters } in kernels(&source) {
            for line in parameters.lines().filter(|line| line.contains('*') && !line.trim().starts_with("//")) {
                let (_, comment) = line.split_once("//").or_else(|| line.split_once("/*")).unwrap_or_default();
                let with_shape =
                    comment.trim_start().starts_with(|c: char| c == '[' || c.is_lowercase()) && comment.contains('[');
                assert!(with_shape, "{stem}.cu, `{name}`: no shape behind `{}`", line.trim());
            }
        }
    }
}

#[test]
fn every_kernel_has_a_budget() {
    let budgets = include_str!("../kernels/budgets.json");
    let budgets: BTreeMap<String, serde_json::Value> = serde_json::from_str(budgets).expect("the budgets");
    assert_eq!(budgets.into_keys().collect::<BTreeSet<_>>(), all_kernels());
}
