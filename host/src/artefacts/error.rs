use std::path::PathBuf;

/// What can go wrong with an artefact store.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// No store is at such an address.
    #[error(
        "`{url}` is no address of an artefact store: {message}; use `file:///folder`, `s3://bucket/prefix`, `az://container/prefix` \
         or `https://host/folder`"
    )]
    Address {
        /// What was given.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// It does not let us in.
    #[error(
        "`{url}` refuses the credentials: {message}; S3's are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, Azure's \
         AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, in the environment of the machine that reads or writes"
    )]
    Credentials {
        /// The store.
        url: String,
        /// Its words.
        message: String,
    },
    /// It takes no signature of ours, because its clock and ours differ.
    #[error(
        "`{url}` does not take our signatures ({message}): this machine's clock is wrong; set it (`timedatectl set-ntp true`)"
    )]
    Clock {
        /// The store.
        url: String,
        /// Its words.
        message: String,
    },
    /// It understands and does not want: a bucket that isn't there, a name that it does not take.
    #[error("cannot {action} `{url}/{path}`: {message}; is that the right bucket or container, and the right region?")]
    Refused {
        /// `read`, `write`, `list`, `remove`
        action: &'static str,
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// Its words.
        message: String,
    },
    /// The store failed, or the way there: a little later it may go better.
    #[error("cannot {action} `{url}/{path}`: {message}")]
    Store {
        /// `read`, `write`, `list`, `remove`
        action: &'static str,
        /// The store.
        url: String,
        /// The object.
        path: String,
        /// Its words.
        message: String,
    },
    /// A file of this machine.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}
