//! Where a path leads, whatever it looks like.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders below a folder whose links are looked at: a sentence-transformers model has its modules one below.
const DEPTH: usize = 3;

/// True where `path`, and every link in the folder that it may be, leads into one of `roots`, which are real paths.
pub(super) fn leads_into(path: &Path, roots: &[&Path]) -> bool {
    let within = |path: &Path| real(path).is_some_and(|real| roots.iter().any(|root| real.starts_with(root)));
    within(path) && links_lead_into(path, &within, DEPTH)
}

fn links_lead_into(folder: &Path, within: &impl Fn(&Path) -> bool, depth: usize) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?))).all(|(path, kind)| {
        let leads = !kind.is_symlink() || within(&path);
        leads && (depth == 0 || !kind.is_dir() || links_lead_into(&path, within, depth - 1))
    })
}

/// The path without links and `..`; what is not there yet must be named without both. `None` where that can't be said: a
/// link that leads nowhere, a `..` behind something that is not there.
pub(super) fn real(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let (mut there, mut missing) = (path.as_path(), Vec::new());
    while there.symlink_metadata().is_err() {
        missing.push(there.file_name()?);
        there = there.parent()?;
    }
    let mut real = there.canonicalize().ok()?;
    real.extend(missing.iter().rev());
    Some(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_leads_where_its_links_and_dots_lead() {
        let box_ = tempfile::tempdir().unwrap();
        let root = box_.path().canonicalize().unwrap();
        let (own, other) = (root.join("own"), root.join("other"));
        fs::create_dir_all(own.join("models/base")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("secret"), "x").unwrap();
        symlink(&other, own.join("link")).unwrap();
        symlink(other.join("not there"), own.join("dangling")).unwrap();
        symlink(own.join("models"), own.join("inside")).unwrap();
        symlink(other.join("secret"), own.join("models/base/tokenizer.json")).unwrap();

        let leads = |path: &str| leads_into(&own.join(path), &[&own]);
        for inside in ["new", "new/and/newer", "models/../new", "link/../own/new"] {
            assert!(leads(inside), "{inside}");
        }
        let outside = [
            "..",
            "../other",
            "../other/secret",
            "../own2",
            "link",
            "link/secret",
            "link/new",
            "dangling",
            "dangling/x",
            "new/../../other/secret",
            "models/../../other",
            "/etc/passwd",
            "inside/../../other/secret",
        ];
        for outside in outside {
            assert!(!leads(outside), "{outside}");
        }
        for folder in ["", ".", "models"] {
            assert!(!leads(folder), "{folder}: a link in it leads elsewhere");
        }
        assert!(!leads("inside/base"), "a file of the model is another's");
        fs::remove_file(own.join("models/base/tokenizer.json")).unwrap();
        assert!(leads("inside/base"));
        assert!(leads_into(&own.join("link/secret"), &[&own, &other]));
    }
}
