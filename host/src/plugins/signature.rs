//! Signatures of plugins: ed25519 over what a plugin is, in a small file beside its component.
//!
//! `NAME.wasm.sig` is one line, `ed25519 KEY SIGNATURE`, both in base64. What is signed names the kind, the name, the
//! version and the digests of component and manifest, so that neither file can be swapped for that of another plugin,
//! or of another version, with its signature.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::engine::digest;
use super::manifest::PluginManifest;

const ALGORITHM: &str = "ed25519";

/// Whose signature it is: the key itself, written `ed25519:BASE64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}:{}", BASE64.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.strip_prefix("ed25519:").and_then(|key| BASE64.decode(key).ok()?.try_into().ok());
        key.map(Self).ok_or_else(|| {
            format!("`{text}` is no public key: give the line that `tunesmith plugins keygen` prints, `ed25519:` and 44 characters")
        })
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The contents of a signature file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) key: PublicKey,
    signature: Vec<u8>,
}

impl Signature {
    /// `None` where the text is no signature.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let [algorithm, key, signature] = [words.next()?, words.next()?, words.next()?];
        if algorithm != ALGORITHM || words.next().is_some() {
            return None;
        }
        let key = PublicKey(BASE64.decode(key).ok()?.try_into().ok()?);
        Some(Self { key, signature: BASE64.decode(signature).ok()? })
    }

    /// True where the key's owner signed exactly this.
    pub(super) fn fits(&self, statement: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key.0).verify(statement, &self.signature).is_ok()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM} {} {}", BASE64.encode(self.key.0), BASE64.encode(&self.signature))
    }
}

/// Where the signature of a component is.
pub(super) fn path_of(component: &Path) -> PathBuf {
    let mut path = component.as_os_str().to_owned();
    path.push(".sig");
    path.into()
}

/// What is signed. The first line keeps these signatures apart from any others that a key may make; no value can hold a
/// line break, because a manifest's name and version can't.
pub(super) fn statement(manifest: &PluginManifest, component_sha256: &str, manifest_bytes: &[u8]) -> Vec<u8> {
    let PluginManifest { kind, name, version, .. } = manifest;
    let manifest_sha256 = digest(manifest_bytes);
    format!(
        "tunesmith plugin signature 1\nkind {kind}\nname {name}\nversion {version}\ncomponent sha256:{component_sha256}\n\
         manifest sha256:{manifest_sha256}\n"
    )
    .into_bytes()
}

/// Writes a signature file under a temporary name first: a reader finds the old one, or the new one whole.
pub(super) fn write(path: &Path, text: &str) -> Result<(), SigningError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // A temporary file is its owner's alone; a signature is for whoever may read the component.
        file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    });
    let remedy = "sign in a folder that you may write to";
    written.map_err(|source| SigningError::File { action: "write", path: path.to_owned(), source, remedy })
}

/// A key that signs; a PKCS#8 file.
pub struct SigningKey(Ed25519KeyPair);

/// Why a key or a signature could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A file could not be read or written.
    #[error("cannot {action} `{}` ({source}); {remedy}", path.display())]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// The file is no key.
    #[error("`{}` is no ed25519 key in PKCS#8; make one with `tunesmith plugins keygen --out FILE`", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// What is signed names kind, name and version, and those are the manifest's.
    #[error("`{}` has no manifest; write `plugin.toml` beside it, and sign both", path.display())]
    NoManifest {
        /// The component.
        path: PathBuf,
    },
    /// The system has no random numbers to give.
    #[error("no key could be made: the system's random numbers can't be read; try again")]
    NoRandomness,
}

impl SigningKey {
    /// Makes a new key in `path`, which only its owner can read. What is there already is never replaced.
    ///
    /// # Errors
    /// [`SigningError::File`] and [`SigningError::NoRandomness`].
    pub fn create(path: &Path) -> Result<Self, SigningError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| SigningError::NoRandomness)?;
        let file_error = |source| SigningError::File {
            action: "write",
            path: path.to_owned(),
            source,
            remedy: "name a file that is not there yet, in a folder that you may write to",
        };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let write = |mut file: fs::File| file.write_all(pkcs8.as_ref()).and_then(|()| file.sync_all());
        file.and_then(write).map_err(file_error)?;
        Self::of(pkcs8.as_ref(), path)
    }

    /// Reads the key in `path`.
    ///
    /// # Errors
    /// [`SigningError::File`] and [`SigningError::NotAKey`].
    pub fn read(path: &Path) -> Result<Self, SigningError> {
        let pkcs8 = fs::read(path).map_err(|source| SigningError::File {
            action: "read",
            path: path.to_owned(),
            source,
            remedy: "name the key's file with `--key`",
        })?;
        Self::of(&pkcs8, path)
    }

    fn of(pkcs8: &[u8], path: &Path) -> Result<Self, SigningError> {
        // "Maybe unchecked": other tools' files leave the public half out, which follows from the private one.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
        pair.map(Self).map_err(|_| SigningError::NotAKey { path: path.to_owned() })
    }

    /// The half that others know it by.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(key)
    }

    pub(super) fn sign(&self, statement: &[u8]) -> Signature {
        Signature { key: self.public(), signature: self.0.sign(statement).as_ref().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str) -> PluginManifest {
        let text = format!(
            "name = \"{name}\"\nversion = \"1.2\"\nkind = \"formatter\"\nwit = \"0.1\"\ndescription = \"\"\nagent_types = [\"*\"]\n"
        );
        PluginManifest::parse(&text, Path::new("plugin.toml")).unwrap()
    }

    #[test]
    fn what_is_signed_is_text_with_every_field_on_its_line() {
        // SHA-256 of `abc` (FIPS 180-2, appendix B.1) stands for a component's, and that of nothing for a manifest's.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            String::from_utf8(statement(&manifest("mine"), abc, b"")).unwrap(),
            format!(
                "tunesmith plugin signature 1\nkind formatter\nname mine\nversion 1.2\ncomponent sha256:{abc}\n\
                 manifest sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
            )
        );
    }

    #[test]
    fn a_key_is_made_once_is_its_owners_alone_and_signs() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        let key = SigningKey::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(SigningKey::create(&path), Err(SigningError::File { action: "write", .. })));
        let read = SigningKey::read(&path).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(read.public().to_string().parse(), Ok(key.public()));

        let signature = Signature::parse(&format!("{}\n", key.sign(b"this"))).unwrap();
        assert_eq!(signature.key, key.public());
        assert!(signature.fits(b"this"));
        assert!(!signature.fits(b"that"));
    }

    #[test]
    fn the_signature_of_rfc_8032_is_checked_as_the_rfc_says() {
        // Section 7.1, test 2: the message is one byte, 0x72.
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        let signature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
        let signature = Signature { key: PublicKey(bytes(key).try_into().unwrap()), signature: bytes(signature) };
        assert!(signature.fits(&[0x72]));
        assert!(!signature.fits(&[0x73]));
    }

    #[test]
    fn what_is_no_signature_and_no_key_is_refused() {
        let key = BASE64.encode([7; 32]);
        for text in
            ["", "ed25519", "rsa a b", "ed25519 x y", &format!("ed25519 {key} !"), &format!("ed25519 {key} AA== x")]
        {
            assert_eq!(Signature::parse(text), None, "{text}");
        }
        for text in [key.as_str(), "ed25519:AAAA", "ed25519:", &format!("rsa:{key}")] {
            let error = text.parse::<PublicKey>().unwrap_err();
            assert!(error.starts_with(&format!("`{text}` is no public key: give the line that")), "{error}");
        }
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("key");
        fs::write(&path, "no key").unwrap();
        assert_eq!(
            SigningKey::read(&path).err().unwrap().to_string(),
            format!(
                "`{}` is no ed25519 key in PKCS#8; make one with `tunesmith plugins keygen --out FILE`",
                path.display()
            )
        );
    }
}
