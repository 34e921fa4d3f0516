//! How much a tenant's runs may fill.

use std::fs;
use std::path::Path;

use super::TenantError;
use crate::memory::human;

/// Checks that a run may still begin in `output_dir`: what is there, runs that were stopped included, is below `quota`
/// bytes. A run that begins is not broken off, so the folder can end one adapter above it.
///
/// # Errors
/// [`TenantError::OutputQuota`].
pub fn check_output(output_dir: &Path, quota: Option<u64>) -> Result<(), TenantError> {
    let Some(quota) = quota else { return Ok(()) };
    let used = size(output_dir);
    if used < quota {
        return Ok(());
    }
    Err(TenantError::OutputQuota { folder: output_dir.to_owned(), used: human(used), quota: human(quota) })
}

/// Bytes of the files in a folder and below it; links count for nothing, and are not followed.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_count_and_links_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        assert_eq!(check_output(&out, Some(1)), Ok(()), "nothing is there yet");
        fs::create_dir_all(out.join("run/checkpoint")).unwrap();
        fs::write(out.join("run/adapter"), [0; 700]).unwrap();
        fs::write(out.join("run/checkpoint/state"), [0; 300]).unwrap();
        std::os::unix::fs::symlink(folder.path(), out.join("link")).unwrap();
        assert_eq!(check_output(&out, Some(1001)), Ok(()));
        assert_eq!(
            check_output(&out, Some(1000)).unwrap_err().to_string(),
            format!(
                "`{}` holds {}, and its quota is {}: remove adapters that are not needed, or have the operator raise \
                 `output_quota`",
                out.display(),
                human(1000),
                human(1000)
            )
        );
        assert_eq!(check_output(&out, None), Ok(()));
    }
}
