//! Compiled components kept between runs: compiling takes 50 ms for a Rust guest and tens of seconds for a
//! Python or JavaScript one, loading takes 40 us.
//!
//! Loading native code is only as safe as the file it comes from. So a file is used only where its folder is ours
//! alone, and only where its name and contents still have the digest they were written with; nobody but this module
//! writes there, and a tenant's own `.cwasm` is never accepted. Where any of that fails, we compile in memory.

use std::fs::{self, DirBuilder};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::hex;

/// The folder of compiled components of one engine configuration.
#[derive(Debug)]
pub(super) struct ComponentCache {
    dir: Option<PathBuf>,
    compatibility: String,
}

impl ComponentCache {
    /// The user's cache: `$XDG_CACHE_HOME/tunesmith/components` or `~/.cache/tunesmith/components`.
    pub(super) fn for_user(engine: &Engine) -> Self {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        Self::at(base.map(|base| base.join("tunesmith").join("components")), engine)
    }

    /// A cache in `dir`; none, or a folder that is not ours alone, means that nothing is kept.
    pub(super) fn at(dir: Option<PathBuf>, engine: &Engine) -> Self {
        let dir = dir.filter(|dir| {
            let private = make_private(dir);
            if !private {
                tracing::debug!("not caching compiled plugins: `{}` is not a folder of ours alone", dir.display());
            }
            private
        });
        let mut hasher = DigestHasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { dir, compatibility: hex(&hasher.0.finalize())[..16].to_owned() }
    }

    /// Where compiled components are kept, if anywhere.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The component of `wasm`, whose SHA-256 is `digest`.
    ///
    /// # Errors
    /// The compiler's, where `wasm` is not a component.
    pub(super) fn load_or_compile(&self, engine: &Engine, wasm: &[u8], digest: &str) -> wasmtime::Result<Component> {
        let Some(dir) = &self.dir else { return Component::new(engine, wasm) };
        let path = dir.join(format!("{digest}-{}.cwasm", self.compatibility));
        if let Some(code) = read_sealed(&path) {
            // SAFETY: the bytes are the output of `Component::serialize` of an engine with this compatibility hash:
            // the file lies in a folder that only this user can write, and it has the digest it was sealed with.
            match unsafe { Component::deserialize(engine, &code) } {
                Ok(component) => return Ok(component),
                Err(error) => tracing::debug!("compiling anew, `{}` does not load: {error:#}", path.display()),
            }
        }
        let component = Component::new(engine, wasm)?;
        if let Err(error) =
            component.serialize().map_err(std::io::Error::other).and_then(|code| write_sealed(&path, &code))
        {
            tracing::debug!("compiled plugin not kept at `{}`: {error}", path.display());
        }
        Ok(component)
    }
}

/// Creates `dir` with mode 0700; true where it is a real folder of ours that nobody else can write.
fn make_private(dir: &Path) -> bool {
    // SAFETY: `geteuid` reads a number and cannot fail.
    let user = unsafe { libc::geteuid() };
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir).is_ok();
    created
        && fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == user && meta.mode() & 0o077 == 0)
}

/// A file's contents after its seal, where the seal is theirs.
fn read_sealed(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(path).ok()?;
    let code = bytes.get(SEAL_BYTES..)?;
    if seal(path, code) != bytes[..SEAL_BYTES] {
        tracing::debug!("compiling anew, `{}` is damaged", path.display());
        return None;
    }
    Some(bytes.split_off(SEAL_BYTES))
}

/// Writes under a temporary name and renames: two runs at once both succeed.
fn write_sealed(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(&seal(path, code))?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

const SEAL_BYTES: usize = 32;

/// The SHA-256 of the file's name and contents: one plugin's code is not taken for another's either.
fn seal(path: &Path, code: &[u8]) -> [u8; SEAL_BYTES] {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    Sha256::new().chain_update(name).chain_update(code).finalize().into()
}

/// A `Hasher` whose result is the same in every build, as `DefaultHasher` does not promise.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest[..8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn cached(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_compiled_component_is_kept_and_used_again() {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = ComponentCache::at(Some(root.path().join("components")), &engine);
        cache.load_or_compile(&engine, EMPTY_COMPONENT, "00").unwrap();
        let files = cached(cache.dir().unwrap());
        assert_eq!(files.len(), 1);
        // No wasm at all, yet it loads: the file was used.
        assert!(cache.load_or_compile(&engine, b"", "00").is_ok());
    }

    #[test]
    fn a_damaged_compiled_component_is_compiled_anew() {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = ComponentCache::at(Some(root.path().join("components")), &engine);
        cache.load_or_compile(&engine, EMPTY_COMPONENT, "00").unwrap();
        let path = &cached(cache.dir().unwrap())[0];
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(path, &bad).unwrap();
        cache.load_or_compile(&engine, EMPTY_COMPONENT, "00").unwrap();
        assert_eq!(fs::read(path).unwrap(), good);
    }

    #[test]
    fn compiled_code_under_another_plugins_name_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = ComponentCache::at(Some(root.path().join("components")), &engine);
        cache.load_or_compile(&engine, EMPTY_COMPONENT, "00").unwrap();
        let file = cached(cache.dir().unwrap()).remove(0);
        let other = file.with_file_name(file.file_name().unwrap().to_str().unwrap().replacen("00-", "11-", 1));
        fs::rename(&file, &other).unwrap();
        // It would load if the file were used.
        assert!(cache.load_or_compile(&engine, b"", "11").is_err());
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("components");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let engine = Engine::default();
        let cache = ComponentCache::at(Some(dir.clone()), &engine);
        assert_eq!(cache.dir(), None);
        assert!(cache.load_or_compile(&engine, EMPTY_COMPONENT, "00").is_ok());
        assert!(cached(&dir).is_empty());
    }
}
