use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};

use super::failure::{Call, is_missing_file};
use super::{ArtefactError, open};
use crate::http::block_on;

/// A larger file goes in parts, so that no more than a part is in memory.
const WHOLE: u64 = 64 << 20;
const PART: usize = 16 << 20;

/// A folder of an object store.
#[derive(Debug, Clone)]
pub struct ArtefactStore {
    store: Arc<dyn ObjectStore>,
    /// Of the folder, without a `/` at its end.
    url: String,
    root: ObjectPath,
    /// Whether the store takes a file in parts: plain HTTP does not.
    takes_parts: bool,
}

/// A file in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path within the folder, with `/` between its parts.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

impl ArtefactStore {
    /// The folder at `url`: `file:///mnt/shared`, `s3://bucket/prefix`, `az://container/prefix`, `https://host/folder`. With
    /// `environment`, credentials and endpoints are those that the tools of S3 (`AWS_...`) and of Azure (`AZURE_...`) read there.
    ///
    /// # Errors
    /// [`ArtefactError::Address`].
    pub fn open(url: &str, environment: bool) -> Result<Self, ArtefactError> {
        let ours = |(name, _): &(String, String)| name.starts_with("AWS_") || name.starts_with("AZURE_");
        let variables = std::env::vars().filter(|pair| environment && ours(pair));
        let options = variables.map(|(name, value)| (name.to_ascii_lowercase(), value));
        // Who may not have the environment's keys may not have the machine's role either: requests go unsigned.
        let unsigned = (!environment).then(|| ("skip_signature".to_owned(), "true".to_owned()));
        Self::with_options(url, options.chain(unsigned))
    }

    /// The folder at `url`, with the options of `object_store`: `aws_access_key_id`, `azure_storage_account_key`, `allow_http`.
    ///
    /// # Errors
    /// [`ArtefactError::Address`].
    pub fn with_options(url: &str, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, ArtefactError> {
        let address = |message: String| ArtefactError::Address { url: url.to_owned(), message };
        let parsed = reqwest::Url::parse(url).map_err(|error| address(error.to_string()))?;
        let mut options: Vec<_> = options.into_iter().collect();
        // Who writes `http://` means it.
        let is_plain = |(key, value): &(String, String)| key.contains("endpoint") && value.starts_with("http://");
        if parsed.scheme() == "http" || options.iter().any(is_plain) {
            options.push(("allow_http".to_owned(), "true".to_owned()));
        }
        crate::http::install_crypto();
        let (store, root) = open::open(&parsed, options).map_err(|error| address(error.to_string()))?;
        let takes_parts = !matches!(parsed.scheme(), "http" | "https");
        Ok(Self { store: store.into(), url: url.trim_end_matches('/').to_owned(), root, takes_parts })
    }

    /// A folder within it.
    #[must_use]
    pub fn at(&self, folder: &str) -> Self {
        Self { url: format!("{}/{folder}", self.url), root: self.object(folder), ..self.clone() }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it is on this machine, for a `file://` store.
    pub fn local_folder(&self) -> Option<std::path::PathBuf> {
        reqwest::Url::parse(&self.url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
    }

    /// Writes `bytes`, whole or not at all.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn put(&self, path: &str, bytes: Vec<u8>) -> Result<(), ArtefactError> {
        let object = self.object(path);
        block_on(async { self.store.put(&object, PutPayload::from(bytes)).await })
            .map(drop)
            .map_err(self.failed("write", path))
    }

    /// Writes a copy of `file`, whole or not at all.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn put_file(&self, path: &str, file: &Path) -> Result<(), ArtefactError> {
        let io = |source| ArtefactError::Io { action: "read", path: file.to_owned(), source };
        let mut input = File::open(file).map_err(io)?;
        let size = input.metadata().map_err(io)?.len();
        if size <= WHOLE || !self.takes_parts {
            let mut bytes = Vec::with_capacity(size as usize);
            input.read_to_end(&mut bytes).map_err(io)?;
            return self.put(path, bytes);
        }
        let object = self.object(path);
        let upload = block_on(async { self.store.put_multipart(&object).await });
        let upload = upload.map_err(self.failed("write", path))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut part = vec![0; PART];
        loop {
            let n = input.read(&mut part).map_err(io)?;
            if n == 0 {
                return block_on(upload.finish()).map(drop).map_err(self.failed("write", path));
            }
            block_on(async {
                upload.wait_for_capacity(2).await?;
                upload.write(&part[..n]);
                Ok(())
            })
            .map_err(self.failed("write", path))?;
        }
    }

    /// Reads a file; `None` where there is none.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn get(&self, path: &str) -> Result<Option<Vec<u8>>, ArtefactError> {
        let object = self.object(path);
        match block_on(async { self.store.get(&object).await?.bytes().await }) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) if is_missing_file(&error) => Ok(None),
            Err(error) => Err(self.failed("read", path)(error)),
        }
    }

    /// Reads what a file has from byte `from` on: nothing where it is no longer than that, `None` where there is none.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn get_from(&self, path: &str, from: u64) -> Result<Option<Vec<u8>>, ArtefactError> {
        let object = self.object(path);
        let size = match block_on(async { self.store.head(&object).await }) {
            Ok(meta) => meta.size,
            Err(error) if is_missing_file(&error) => return Ok(None),
            Err(error) => return Err(self.failed("read", path)(error)),
        };
        if size <= from {
            return Ok(Some(Vec::new()));
        }
        match block_on(async { self.store.get_range(&object, from..size).await }) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(error) if is_missing_file(&error) => Ok(None),
            Err(error) => Err(self.failed("read", path)(error)),
        }
    }

    /// Copies a file to `to`, whole or not at all; false where there is none.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn get_file(&self, path: &str, to: &Path) -> Result<bool, ArtefactError> {
        let io = |source| ArtefactError::Io { action: "write", path: to.to_owned(), source };
        let object = self.object(path);
        let stream = match block_on(async { self.store.get(&object).await }) {
            Ok(result) => result.into_stream(),
            Err(error) if is_missing_file(&error) => return Ok(false),
            Err(error) => return Err(self.failed("read", path)(error)),
        };
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
        let mut stream = std::pin::pin!(stream);
        while let Some(bytes) = block_on(stream.try_next()).map_err(self.failed("read", path))? {
            std::io::Write::write_all(&mut file, &bytes).map_err(io)?;
        }
        file.as_file().sync_all().map_err(io)?;
        file.persist(to).map_err(|error| io(error.error))?;
        Ok(true)
    }

    /// All files below the folder, by path.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn list(&self) -> Result<Vec<Entry>, ArtefactError> {
        let listed = self.store.list(Some(&self.root)).try_collect::<Vec<_>>();
        let mut entries: Vec<_> = block_on(listed)
            .map_err(self.failed("list", ""))?
            .into_iter()
            .filter_map(|meta| {
                let parts: Vec<_> =
                    meta.location.prefix_match(&self.root)?.map(|part| part.as_ref().to_owned()).collect();
                Some(Entry { path: parts.join("/"), size: meta.size })
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Removes a file; one that is not there is removed already.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn remove(&self, path: &str) -> Result<(), ArtefactError> {
        let object = self.object(path);
        match block_on(async { self.store.delete(&object).await }) {
            Ok(()) => Ok(()),
            Err(error) if is_missing_file(&error) => Ok(()),
            Err(error) => Err(self.failed("remove", path)(error)),
        }
    }

    /// Removes the folder, whatever is in it.
    ///
    /// # Errors
    /// [`ArtefactError`].
    pub fn remove_all(&self) -> Result<(), ArtefactError> {
        self.list()?.iter().try_for_each(|entry| self.remove(&entry.path))?;
        if let Some(folder) = self.local_folder() {
            let _ = std::fs::remove_dir_all(folder); // empty by now: object stores have no folders
        }
        Ok(())
    }

    fn object(&self, path: &str) -> ObjectPath {
        path.split('/').filter(|part| !part.is_empty()).fold(self.root.clone(), |root, part| root.join(part))
    }

    fn failed(&self, action: &'static str, path: &str) -> impl FnOnce(object_store::Error) -> ArtefactError {
        let (url, path) = (self.url.clone(), path.to_owned());
        move |error| Call { action, url: &url, path: &path }.failed(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_what_was_put_there_and_nothing_once_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}", root.path().display());
        let store = ArtefactStore::open(&url, false).unwrap().at("acme-0123");
        let entry = |path: &str, size| Entry { path: path.to_owned(), size };
        store.put("out/result.json", b"{}".to_vec()).unwrap();
        std::fs::write(root.path().join("large"), vec![7; (WHOLE + 5) as usize]).unwrap();
        store.put_file("bundle/large", &root.path().join("large")).unwrap();
        assert_eq!(store.list().unwrap(), [entry("bundle/large", WHOLE + 5), entry("out/result.json", 2)]);
        assert_eq!(store.at("out").list().unwrap(), [entry("result.json", 2)]);
        assert_eq!(store.at("out").get("result.json").unwrap().as_deref(), Some(&b"{}"[..]));
        assert_eq!(store.get("out/nothing").unwrap(), None);
        assert_eq!(store.get_from("out/result.json", 1).unwrap().as_deref(), Some(&b"}"[..]));
        assert_eq!(store.get_from("out/result.json", 2).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(store.get_from("out/nothing", 1).unwrap(), None);

        let copy = root.path().join("copies/large");
        assert!(store.get_file("bundle/large", &copy).unwrap());
        assert_eq!(std::fs::read(&copy).unwrap(), vec![7; (WHOLE + 5) as usize]);
        assert!(!store.get_file("bundle/nothing", &copy).unwrap());

        store.remove("out/result.json").unwrap();
        store.remove("out/result.json").unwrap();
        store.remove_all().unwrap();
        assert_eq!(store.list().unwrap(), []);
        assert!(!root.path().join("acme-0123").exists());
    }

    #[test]
    fn an_address_without_a_store_is_told_with_those_that_have_one() {
        let told = |url| ArtefactStore::open(url, false).unwrap_err().to_string();
        assert!(told("/mnt/shared").starts_with("`/mnt/shared` is no address of an artefact store: "));
        assert!(told("ftp://host/folder").contains("use `file:///folder`, `s3://bucket/prefix`"));
    }
}
