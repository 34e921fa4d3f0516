//! Which files a copy of a model takes.

use super::sentence_files;
use crate::{Result, TrainerError};
use std::path::{Path, PathBuf};

/// What this build reads of a model's folder: constants, weights, tokenizers, templates. Other weights (`*.bin`, `onnx/`) are of other
/// programs.
const KINDS: [&str; 5] = ["json", "safetensors", "txt", "model", "jinja"];

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// Each with its path within the copy, by that path.
    pub files: Vec<(String, PathBuf)>,
    /// What opens the copy, within it: empty where that is the folder itself.
    pub opened: String,
}

pub(super) fn files(location: &Path) -> Result<ModelFiles> {
    if location.is_file() {
        let name = "model.gguf".to_owned();
        return Ok(ModelFiles { files: vec![(name.clone(), location.to_owned())], opened: name });
    }
    let (root, opened) = match (location.parent(), location.file_name()) {
        // The modules around the transformer are part of the model.
        (Some(parent), Some(name)) if sentence_files::has_modules(parent) && !sentence_files::has_modules(location) => {
            (parent, name.to_string_lossy().into_owned())
        }
        _ => (location, String::new()),
    };
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    files.sort();
    Ok(ModelFiles { files, opened })
}

/// A folder of a model has folders of modules (`1_Pooling`), and those have none.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    let io = |source| TrainerError::Io { action: "list", path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_ours = path.extension().is_some_and(|kind| KINDS.iter().any(|ours| kind == *ours));
        if path.is_file() && is_ours {
            files.push((format!("{prefix}{name}"), path));
        } else if path.is_dir() && prefix.is_empty() && name.starts_with(|c: char| c.is_ascii_digit()) {
            collect(&path, &format!("{name}/"), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_transformers_folder_goes_with_its_modules_and_without_other_weights() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "modules.json",
            "0_Transformer/config.json",
            "0_Transformer/model.safetensors",
            "1_Pooling/config.json",
            "onnx/model.json",
            "pytorch_model.bin",
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let found = files(&root.path().join("0_Transformer")).unwrap();
        let names: Vec<_> = found.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["0_Transformer/config.json", "0_Transformer/model.safetensors", "1_Pooling/config.json", "modules.json"]
        );
        assert_eq!(found.opened, "0_Transformer");
    }
}
