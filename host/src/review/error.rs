use std::path::PathBuf;

use crate::approval::Refused;

/// What is wrong with what a reviewer gave. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum ReviewError {
    #[error("`{given}` names no item: give its handle, such as `12-ab12cd34`, which `tunesmith review list` prints")]
    NoHandle { given: String },

    #[error(
        "`{item}` does not say which text was seen: give the handle, such as `{item}-ab12cd34`, that `tunesmith review show \
         {item}` prints"
    )]
    NumberOnly { item: i64 },

    #[error(
        "there is no terminal to ask on: use `tunesmith review list`, and `approve`, `reject` or `edit` with a handle"
    )]
    NoTerminal,

    #[error(
        "cannot use the terminal ({source}): use `tunesmith review list`, and `approve`, `reject` or `edit` with a handle"
    )]
    Terminal { source: std::io::Error },

    #[error("the editor `{editor}` failed ({what}): nothing was stored; name another in `VISUAL` or `EDITOR`")]
    Editor { editor: String, what: String },

    #[error("the file was left empty: item {item} is as it was; reject it where it is not wanted")]
    NothingWritten { item: i64 },

    #[error("cannot read the fields in `{path}` ({source}): nothing was stored", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("`{path}` does not have the fields of an item ({what}): mend it and give it with `--from`; nothing was stored", path = path.display())]
    Form { path: PathBuf, what: String },

    #[error("{refused}; what you wrote is in `{path}`", path = path.display())]
    RefusedEdit { refused: Refused, path: PathBuf },
}
