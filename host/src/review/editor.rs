use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::ReviewError;

/// Lets the user's editor change a file that starts as `text`, and returns the file.
///
/// # Errors
/// [`ReviewError::Editor`].
pub fn edit(text: &str, prefix: &str) -> Result<tempfile::NamedTempFile, ReviewError> {
    let editor =
        ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let failed = |what: String| ReviewError::Editor { editor: editor.clone(), what };
    let mut file = tempfile::Builder::new()
        .prefix(prefix)
        .suffix(".toml")
        .tempfile()
        .map_err(|error| failed(format!("no file for it: {error}")))?;
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(|error| failed(error.to_string()))?;
    run(&editor, file.path()).map_err(failed)?;
    Ok(file)
}

/// By the shell, as git runs it: an editor has arguments, and names with blanks are quoted.
fn run(editor: &str, file: &Path) -> Result<(), String> {
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(editor).arg(file).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
