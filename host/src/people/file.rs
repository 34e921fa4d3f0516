//! The file of people: TOML, a table for each, with the digest of a token. The token itself is nowhere but with its person.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Person, Role};

/// Those who may review, by name.
#[derive(Debug, Clone)]
pub struct People {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// What the file says of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: Role,
    token_sha256: String,
}

/// Why the file of people can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say what each field is
pub enum PeopleError {
    #[error("cannot read the file of people `{path}` ({source}): name another with `--people`", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },

    #[error("`{path}` is not a file of people ({what}): mend it, or remove it and add them again", path = path.display())]
    Syntax { path: PathBuf, what: String },

    #[error("cannot write the file of people `{path}` ({source})", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },

    #[error("`{name}` is no name for a person: use up to 64 letters, digits, `_`, `-`, `.` and `@`")]
    Name { name: String },

    #[error("`{name}` is there already: remove them first, and their token with them")]
    Known { name: String },

    #[error("`{path}` has no `{name}`: `tunesmith people list` has those there are", path = path.display())]
    Unknown { path: PathBuf, name: String },
}

impl People {
    /// Reads the file; without one there is nobody.
    ///
    /// # Errors
    /// [`PeopleError::Read`], [`PeopleError::Syntax`].
    pub fn open(path: &Path) -> Result<Self, PeopleError> {
        let entries = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| PeopleError::Syntax { path: path.to_owned(), what: error.message().to_owned() })?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(PeopleError::Read { path: path.to_owned(), source }),
        };
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everybody, by name.
    pub fn list(&self) -> impl Iterator<Item = Person> {
        self.entries.iter().map(|(name, entry)| Person::new(name.clone(), entry.role))
    }

    /// Whose token it is. How long the answer takes does not depend on the token.
    pub fn of_token(&self, token: &str) -> Option<Person> {
        self.of_token_sha256(&digest(token))
    }

    /// As [`People::of_token`], by the token's SHA-256 in hexadecimal: a session that keeps it ends with the token.
    pub fn of_token_sha256(&self, given: &str) -> Option<Person> {
        let mut found = None;
        for (name, entry) in &self.entries {
            if bool::from(entry.token_sha256.as_bytes().ct_eq(given.as_bytes())) {
                found = Some(Person::new(name.clone(), entry.role));
            }
        }
        found
    }

    /// Somebody by name, as the file has them now: a session outlives no removal.
    pub fn named(&self, name: &str) -> Option<Person> {
        self.entries.get(name).map(|entry| Person::new(name.to_owned(), entry.role))
    }

    /// Adds a person, writes the file, and returns their token: it is told once.
    ///
    /// # Errors
    /// [`PeopleError::Name`], [`PeopleError::Known`], [`PeopleError::Write`].
    pub fn add(&mut self, name: &str, role: Role) -> Result<String, PeopleError> {
        let plain = |c: char| c.is_alphanumeric() || "_-.@".contains(c);
        // `tunesmith` and `phoenix:...` sign events of their own.
        if name.is_empty() || name.chars().count() > 64 || !name.chars().all(plain) || name == "tunesmith" {
            return Err(PeopleError::Name { name: name.to_owned() });
        }
        if self.entries.contains_key(name) {
            return Err(PeopleError::Known { name: name.to_owned() });
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| PeopleError::Write { path: self.path.clone(), source: std::io::Error::other(error) })?;
        let token = URL_SAFE_NO_PAD.encode(random);
        self.entries.insert(name.to_owned(), Entry { role, token_sha256: digest(&token) });
        self.write()?;
        Ok(token)
    }

    /// Removes a person, and writes the file.
    ///
    /// # Errors
    /// [`PeopleError::Unknown`], [`PeopleError::Write`].
    pub fn remove(&mut self, name: &str) -> Result<(), PeopleError> {
        let unknown = || PeopleError::Unknown { path: self.path.clone(), name: name.to_owned() };
        self.entries.remove(name).ok_or_else(unknown)?;
        self.write()
    }

    fn write(&self) -> Result<(), PeopleError> {
        let failed = |source| PeopleError::Write { path: self.path.clone(), source };
        let text = toml::to_string(&self.entries).map_err(|error| failed(std::io::Error::other(error)))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?; // 0600
        std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

fn digest(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_once_and_kept_as_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("people.toml");
        let mut people = People::open(&path).unwrap();
        assert!(people.is_empty());
        let token = people.add("anna", Role::Reviewer).unwrap();
        assert!(matches!(people.add("anna", Role::Admin), Err(PeopleError::Known { .. })));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token), "{text}");

        let mut people = People::open(&path).unwrap();
        let anna = people.of_token(&token).unwrap();
        assert_eq!((anna.name(), anna.role()), ("anna", Role::Reviewer));
        assert_eq!(people.of_token("another token"), None);
        people.remove("anna").unwrap();
        assert_eq!(People::open(&path).unwrap().of_token(&token), None);
    }

    #[test]
    fn nobody_is_called_as_tunesmith_signs_its_own_events() {
        let folder = tempfile::tempdir().unwrap();
        let mut people = People::open(&folder.path().join("people.toml")).unwrap();
        for name in ["tunesmith", "phoenix:anna", "", "anna <b>"] {
            assert!(matches!(people.add(name, Role::Reviewer), Err(PeopleError::Name { .. })), "{name}");
        }
    }
}
