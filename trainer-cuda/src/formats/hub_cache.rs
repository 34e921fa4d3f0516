//! Models by their hub name, where Hugging Face's tools have put them on this machine.

use std::fs;
use std::path::{Path, PathBuf};

/// True where `path` reads as `organisation/name` and not as a path: nothing is there, and `organisation` is no folder here.
pub(super) fn is_hub_name(path: &Path) -> bool {
    let parts: Vec<_> = path.to_str().unwrap_or_default().split('/').collect();
    let [organisation, name] = parts.as_slice() else { return false };
    let is_word = |word: &str| !word.is_empty() && !word.starts_with(['.', '~']);
    is_word(organisation) && is_word(name) && !name.ends_with(".gguf") && !Path::new(organisation).exists()
}

/// The folder of the hub cache, as `huggingface_hub` finds it: `$HF_HUB_CACHE`, `$HF_HOME/hub`, `~/.cache/huggingface/hub`.
pub(super) fn folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HF_HOME").map(|home| home.join("hub")))
        .unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache/huggingface/hub"))
}

/// The snapshot of a model's `main` revision in `cache`, if it is there.
pub(super) fn snapshot(cache: &Path, hub_name: &Path) -> Option<PathBuf> {
    let repository = cache.join(format!("models--{}", hub_name.to_str()?.replace('/', "--")));
    let revision = fs::read_to_string(repository.join("refs/main")).ok()?;
    let snapshot = repository.join("snapshots").join(revision.trim());
    snapshot.join("config.json").is_file().then_some(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_name_is_two_words_and_no_path() {
        assert!(is_hub_name(Path::new("HuggingFaceTB/SmolLM-135M")));
        for path in ["/models/smol", "./smol", "../smol/x", "~/smol", "smol", "a/b/c", "a/", "org/model.gguf", "src/x"]
        {
            assert!(!is_hub_name(Path::new(path)), "{path}"); // `src` is a folder of this crate
        }
    }

    #[test]
    fn the_main_revision_of_a_cached_model_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let wanted = repository.join("snapshots/abc123");
        fs::create_dir_all(&wanted).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "abc123").unwrap();
        assert_eq!(snapshot(cache.path(), Path::new("org/name")), None); // its download did not end
        fs::write(wanted.join("config.json"), "{}").unwrap();
        assert_eq!(snapshot(cache.path(), Path::new("org/name")), Some(wanted));
        assert_eq!(snapshot(cache.path(), Path::new("org/other")), None);
    }
}
