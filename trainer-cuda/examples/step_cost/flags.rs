//! `--name value` pairs and switches of an example's command line.

use std::error::Error;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is left of the command line.
pub(crate) struct Flags(Vec<String>);

impl Flags {
    /// The command line without the program's name.
    pub(crate) fn of_command_line() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    /// Takes `name` out, and tells whether it was there.
    pub(crate) fn switch(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() < before
    }

    /// Takes `name` and the word behind it out; `None` where it is not there.
    pub(crate) fn value<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Box<dyn Error>> {
        let Some(at) = self.0.iter().position(|word| word == name) else { return Ok(None) };
        let Some(text) = self.0.get(at + 1).cloned() else { return Err(format!("{name} needs a value").into()) };
        self.0.drain(at..at + 2);
        let value = serde_json::from_str(&text).or_else(|_| serde_json::from_value(Value::String(text.clone())));
        value.map(Some).map_err(|error| format!("{name} `{text}`: {error}").into())
    }

    /// The value of `name`, which has to be there.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Box<dyn Error>> {
        self.value(name)?.ok_or_else(|| format!("{name} is missing").into())
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), Box<dyn Error>> {
        match self.0.first() {
            Some(word) => Err(format!("`{word}` is no flag of this example").into()),
            None => Ok(()),
        }
    }
}
