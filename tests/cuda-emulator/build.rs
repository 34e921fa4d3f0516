//! Compiles the emulated driver to `libcuda.so`, an empty `libcublasLt.so` that needs it, and a `libnccl.so` on top of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What runs for each instruction of each warp; the rest runs once.
const HOT: [&str; 4] = ["instructions", "execution", "checks", "blas"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(emulates)");
    println!("cargo::rerun-if-changed=emulator");
    println!("cargo::rerun-if-changed=nccl");
    let target = |name| env::var(name).unwrap_or_default();
    if target("CARGO_CFG_TARGET_OS") != "linux" || target("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        return; // `load` says so
    }
    println!("cargo::rustc-cfg=emulates");

    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let (hot, cold): (Vec<_>, Vec<_>) = sources(Path::new("emulator"))
        .into_iter()
        .partition(|path| HOT.iter().any(|folder| path.starts_with(Path::new("emulator").join(folder))));
    let mut objects = compiler(3).files(hot).compile_intermediates();
    objects.extend(compiler(1).files(cold).compile_intermediates());

    let nccl = compiler(1).file("nccl/nccl.cpp").compile_intermediates();

    // One folder with all libraries, and one for runs on a machine that has no cuBLASLt.
    for (folder, has_blas) in [("libraries", true), ("libraries-without-blas", false)] {
        let folder = out.join(folder);
        fs::create_dir_all(&folder).expect("OUT_DIR can be written");
        link(&folder, "libcuda.so", |command| command.args(&objects).arg("-lpthread"));
        if has_blas {
            link(&folder, "libcublasLt.so", |command| {
                command.args(["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-l:libcuda.so", "-L"]).arg(&folder)
            });
            link(&folder, "libnccl.so", |command| {
                command.args(&nccl).args(["-Wl,-rpath,$ORIGIN", "-l:libcuda.so", "-lpthread", "-L"]).arg(&folder)
            });
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the crate has its sources") {
        let path = entry.expect("the crate has its sources").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "cpp") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn compiler(optimisation: u32) -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(optimisation).debug(false).pic(true).warnings(true).extra_warnings(true);
    // AVX2, FMA and F16C: any x86-64 processor of the last ten years. `load` looks whether they are there.
    build.flag("-march=x86-64-v3").flag("-fvisibility=hidden");
    // The arithmetic is PTX's: no contraction that was not asked for, integers wrap, and nobody looks at errno or traps.
    build.flag("-ffp-contract=off").flag("-fwrapv").flag("-fno-math-errno").flag("-fno-trapping-math");
    // Registers and memory are bytes that are read as what the instruction says.
    build.flag("-fno-strict-aliasing");
    build
}

fn link(folder: &Path, name: &str, inputs: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = compiler(1).get_compiler().to_command();
    command.args(["-shared", "-Wl,-soname"]).arg(format!("-Wl,{name}")).arg("-o").arg(folder.join(name));
    let status = inputs(&mut command).status().expect("the C++ compiler runs");
    assert!(status.success(), "linking {name} failed");
}
