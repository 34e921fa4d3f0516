//! `tunesmith plugins new`

use std::path::Path;

use crate::authoring;
use crate::cli::NewArgs;
use crate::commands::Answer;
use crate::error::HostError;

pub(super) fn run(args: &NewArgs) -> Result<Answer, HostError> {
    let folder = args.dir.as_deref().unwrap_or(Path::new(&args.name));
    let files = authoring::scaffold(args.lang, args.kind.into(), &args.name, folder)?;
    let text = format!(
        "{} files in `{}`; its README.md says what to install, then:\n\n  cd {}\n  ./build.sh\n  tunesmith plugins test dist/{}.wasm",
        files.len(),
        folder.display(),
        folder.display(),
        args.name
    );
    Ok(Answer::new(text, &serde_json::json!({ "folder": folder, "files": files })))
}
