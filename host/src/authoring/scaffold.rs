//! Folders to start a plugin from: the examples of the repository, with another name.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::ValueEnum;

use super::AuthoringError;
use crate::plugins::{PluginKind, WIT_VERSION};

/// What a plugin can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Smallest and fastest
    Rust,
    /// CPython in a component of 18 MB
    Python,
    /// QuickJS in a component of 1 MB
    #[value(name = "js", alias = "javascript")]
    JavaScript,
    /// Compiled by Zig
    C,
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::JavaScript => "js",
            Self::C => "c",
        })
    }
}

/// A file of a scaffold: its path in the folder, and its contents.
type File = (&'static str, &'static [u8]);

macro_rules! file {
    ($to:literal, $from:literal) => {
        ($to, include_bytes!(concat!("../../../", $from)).as_slice())
    };
}

const WIT: &[File] = &[
    file!("wit/types.wit", "wit/types.wit"),
    file!("wit/extractor.wit", "wit/extractor.wit"),
    file!("wit/formatter.wit", "wit/formatter.wit"),
    file!("wit/log.wit", "wit/log.wit"),
    file!("wit/policy.wit", "wit/policy.wit"),
];

const RUST: &[File] = &[
    file!("Cargo.toml", "plugins/templates/rust/Cargo.toml.in"),
    file!("README.md", "plugins/templates/rust/README.md"),
    file!("build.sh", "plugins/templates/rust/build.sh"),
];

const PYTHON: &[File] =
    &[file!("README.md", "plugins/examples/python/README.md"), file!("build.sh", "plugins/examples/python/build.sh")];

/// What a language has for a kind, beside `wit/` and `plugin.toml`; none where there is nothing.
fn files(language: Language, kind: PluginKind) -> Option<Vec<File>> {
    use PluginKind::{Extractor, Formatter, Policy};
    let own: &[File] = match (language, kind) {
        (Language::Rust, Extractor) => &[file!("src/lib.rs", "plugins/templates/rust/extractor.rs")],
        (Language::Rust, Formatter) => &[file!("src/lib.rs", "plugins/templates/rust/formatter.rs")],
        (Language::Rust, Policy) => &[file!("src/lib.rs", "plugins/templates/rust/policy.rs")],
        (Language::Python, Extractor) => &[file!("plugin.py", "plugins/templates/python/extractor.py")],
        (Language::Python, Formatter) => &[file!("plugin.py", "plugins/examples/python/plugin.py")],
        (Language::Python, Policy) => &[file!("plugin.py", "plugins/templates/python/policy.py")],
        (Language::JavaScript, Formatter) => &[
            file!("README.md", "plugins/examples/javascript/README.md"),
            file!("build.sh", "plugins/examples/javascript/build.sh"),
            file!("plugin.js", "plugins/examples/javascript/plugin.js"),
        ],
        (Language::C, Formatter) => &[
            file!("README.md", "plugins/examples/c/README.md"),
            file!("build.sh", "plugins/examples/c/build.sh"),
            file!("plugin.c", "plugins/examples/c/plugin.c"),
            file!("bindings/formatter.c", "plugins/examples/c/bindings/formatter.c"),
            file!("bindings/formatter.h", "plugins/examples/c/bindings/formatter.h"),
            file!("bindings/formatter_component_type.o", "plugins/examples/c/bindings/formatter_component_type.o"),
        ],
        (Language::JavaScript | Language::C, _) => return None,
    };
    let shared = match language {
        Language::Rust => RUST,
        Language::Python => PYTHON,
        Language::JavaScript | Language::C => &[],
    };
    Some([own, shared, WIT].concat())
}

/// Writes a plugin called `name` into `folder`, which is made; returns the paths of its files in it.
///
/// # Errors
/// [`AuthoringError::Name`], [`AuthoringError::NoTemplate`], [`AuthoringError::FolderTaken`] or [`AuthoringError::Io`].
pub fn scaffold(
    language: Language,
    kind: PluginKind,
    name: &str,
    folder: &Path,
) -> Result<Vec<String>, AuthoringError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // A crate and a Python package start with a letter too.
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) || name.len() > 64 {
        return Err(AuthoringError::Name { name: name.to_owned() });
    }
    let files = files(language, kind).ok_or_else(|| {
        let has = |language: &&Language| files(**language, kind).is_some();
        let known: Vec<_> =
            Language::value_variants().iter().filter(has).map(|language| format!("`{language}`")).collect();
        AuthoringError::NoTemplate { kind, language, known: known.join(", ") }
    })?;
    let is_taken = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(AuthoringError::io("write into", folder)(error)),
    };
    if is_taken {
        return Err(AuthoringError::FolderTaken { path: folder.to_owned() });
    }
    let mut written = Vec::new();
    let mut write = |path: &str, contents: &[u8]| {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(AuthoringError::io("create", parent))?;
        fs::write(&file, contents).map_err(AuthoringError::io("write", &file))?;
        if path.ends_with(".sh") {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .map_err(AuthoringError::io("write", &file))?;
        }
        written.push(path.to_owned());
        Ok(())
    };
    write("plugin.toml", manifest(language, kind, name).as_bytes())?;
    write(".gitignore", b"dist/\n.tools/\ntarget/\n")?;
    for (path, contents) in files {
        match path {
            "Cargo.toml" => write(path, String::from_utf8_lossy(contents).replace("NAME", name).as_bytes())?,
            _ => write(path, contents)?,
        }
    }
    written.sort();
    Ok(written)
}

fn manifest(language: Language, kind: PluginKind, name: &str) -> String {
    let wants = match language {
        // Their compilers import all of the world, whether the plugin calls it or not.
        Language::Python | Language::JavaScript => "\"log\", \"settings\"",
        Language::Rust | Language::C => "\"settings\"",
    };
    format!(
        "name = \"{name}\"\nversion = \"0.1.0\"\nkind = \"{kind}\"\nwit = \"{WIT_VERSION}\"\n\
         description = \"What it does, in one line; written in {language}\"\nagent_types = [\"*\"]\n\
         wants = [{wants}]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::PluginManifest;

    #[test]
    fn a_scaffold_has_a_manifest_a_contract_and_a_script_that_runs() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("deep/mine");
        let files = scaffold(Language::Rust, PluginKind::Policy, "mine", &folder).unwrap();
        assert_eq!(
            files,
            [
                ".gitignore",
                "Cargo.toml",
                "README.md",
                "build.sh",
                "plugin.toml",
                "src/lib.rs",
                "wit/extractor.wit",
                "wit/formatter.wit",
                "wit/log.wit",
                "wit/policy.wit",
                "wit/types.wit"
            ]
        );
        let manifest = fs::read_to_string(folder.join("plugin.toml")).unwrap();
        let manifest = PluginManifest::parse(&manifest, Path::new("plugin.toml")).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.kind), ("mine", PluginKind::Policy));
        assert!(fs::read_to_string(folder.join("Cargo.toml")).unwrap().contains("name = \"mine\""));
        assert_eq!(fs::metadata(folder.join("build.sh")).unwrap().permissions().mode() & 0o111, 0o111);
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("notes.txt"), "mine").unwrap();
        let error = scaffold(Language::C, PluginKind::Formatter, "mine", root.path()).unwrap_err().to_string();
        assert!(error.ends_with("is there and not empty; name another folder with `--dir`"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_has_no_template_is_told_with_what_has() {
        let error = scaffold(Language::C, PluginKind::Policy, "mine", Path::new("nowhere")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no policy in c to start from; policy plugins can start in `rust`, `python`"
        );
        for name in ["Mine", "1st", "-x", "", "a/b", &"x".repeat(65)] {
            let error = scaffold(Language::C, PluginKind::Formatter, name, Path::new("nowhere")).unwrap_err();
            assert!(matches!(error, AuthoringError::Name { .. }), "{name}");
        }
        for kind in [PluginKind::Extractor, PluginKind::Formatter, PluginKind::Policy] {
            assert!(files(Language::Rust, kind).is_some() && files(Language::Python, kind).is_some());
        }
    }
}
