//! The GGUF container (versions 2 and 3, little-endian): metadata and tensors of a memory-mapped file.
//!
//! Everything the file says is checked against its length when it is opened, so that reading a tensor later can't
//! run past the end. Nothing is allocated by a count that the file merely claims.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::gguf_header::{I32, Reader, STRING, Tensor, Value};
use super::{HostTensor, StoredTensor, corrupt, map_file, missing};
use crate::error::Result;

/// The first four bytes of a GGUF file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, Tensor>,
}

impl Gguf {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// [`TrainerError::Corrupt`](crate::TrainerError::Corrupt) with the offset or the tensor;
    /// [`TrainerError::Unsupported`](crate::TrainerError::Unsupported) for a version or an element type.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map_file(path)?;
        let (metadata, tensors) = Reader::new(path, &map, 0).header()?;
        Ok(Self { path: path.to_owned(), map, metadata, tensors })
    }

    /// A tensor as f32, by its name in the file.
    ///
    /// # Errors
    /// [`TrainerError::Missing`](crate::TrainerError::Missing) where there is none of that name.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        Ok(self.stored(name)?.to_host())
    }

    /// A tensor as stored, by its name in the file.
    ///
    /// # Errors
    /// [`TrainerError::Missing`](crate::TrainerError::Missing) where there is none of that name.
    pub fn stored(&self, name: &str) -> Result<StoredTensor<'_>> {
        let tensor = self.tensors.get(name).ok_or_else(|| missing(&self.path, format!("tensor `{name}`")))?;
        Ok(StoredTensor::mapped(tensor.shape.clone(), tensor.block, &self.map, tensor.bytes.clone()))
    }

    /// Names of the tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, row-major.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn map(&self) -> &Mmap {
        &self.map
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a non-negative integer", |value| match value {
            Value::Unsigned(number) => usize::try_from(*number).ok(),
            Value::Signed(number) => usize::try_from(*number).ok(),
            _ => None,
        })
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a float", |value| match value {
            Value::Float(number) => Some(*number),
            _ => None,
        })
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some((len, bytes)) = self.array(key, STRING, "an array of strings")? else { return Ok(None) };
        let mut reader = Reader::new(&self.path, &self.map[..bytes.end], bytes.start);
        (0..len).map(|_| reader.string()).collect::<Result<_>>().map(Some)
    }

    pub(crate) fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let Some((_, bytes)) = self.array(key, I32, "an array of i32")? else { return Ok(None) };
        let (numbers, _) = self.map[bytes].as_chunks();
        Ok(Some(numbers.iter().map(|number| i32::from_le_bytes(*number)).collect()))
    }

    /// Unwraps a metadata value that the model can't do without.
    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| missing(&self.path, format!("metadata `{key}`")))
    }

    fn array(&self, key: &str, wanted: u32, expected: &str) -> Result<Option<(usize, Range<usize>)>> {
        self.get(key, expected, |value| match value {
            Value::Array { element, len, bytes } if *element == wanted => Some((*len, bytes.clone())),
            _ => None,
        })
    }

    fn get<'a, T>(&'a self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| corrupt(&self.path, format!("metadata `{key}` is not {expected}")))
    }
}
