//! Reads a GGUF header, checking everything that it says against the length of the file.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::gguf::MAGIC;
use super::gguf_blocks::BlockType;
use super::{corrupt, unsupported};
use crate::error::Result;

/// A metadata value. Arrays stay in the file until they are asked for.
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array { element: u32, len: usize, bytes: Range<usize> },
}

pub(super) struct Tensor {
    pub(super) block: BlockType,
    pub(super) shape: Vec<usize>, // row-major: the file's dimensions reversed
    pub(super) bytes: Range<usize>,
}

// Metadata value types (gguf.md, `gguf_metadata_value_type`).
pub(super) const I32: u32 = 5;
pub(super) const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Fewest bytes that a key with its value and a tensor's entry take: they bound what a count can claim.
const MIN_METADATA_BYTES: usize = 8 + 4 + 1;
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

type Header = (HashMap<String, Value>, HashMap<String, Tensor>);

/// Reads forward through the header; every read is checked.
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// `path` is named in errors; reading starts at byte `at`.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], at: usize) -> Self {
        Self { path, bytes, at }
    }

    /// The whole header: the metadata, and where each tensor lies in the file.
    pub(super) fn header(&mut self) -> Result<Header> {
        if self.array::<4>()? != MAGIC {
            return Err(corrupt(self.path, "it does not start with `GGUF`"));
        }
        match self.u32()? {
            2 | 3 => {}
            version => return Err(unsupported(self.path, format!("GGUF version {version} (2 and 3 are read)"))),
        }
        let n_tensors = self.count(MIN_TENSOR_BYTES, "tensors")?;
        let n_metadata = self.count(MIN_METADATA_BYTES, "metadata entries")?;

        let mut metadata = HashMap::new();
        for _ in 0..n_metadata {
            let key = self.string()?;
            let kind = self.u32()?;
            let value = self.value(kind, key)?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(corrupt(self.path, format!("metadata `{key}` is there twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(bytes)) if bytes.is_power_of_two() && *bytes <= 1 << 20 => *bytes as usize,
            Some(_) => return Err(corrupt(self.path, "metadata `general.alignment` is not a power of two")),
        };
        let tensors = self.tensors(n_tensors, alignment)?;
        Ok((metadata, tensors))
    }

    fn tensors(&mut self, n_tensors: usize, alignment: usize) -> Result<HashMap<String, Tensor>> {
        let mut tensors = HashMap::new();
        for _ in 0..n_tensors {
            let (name, tensor) = self.tensor()?;
            if tensors.insert(name.to_owned(), tensor).is_some() {
                return Err(corrupt(self.path, format!("tensor `{name}` is there twice")));
            }
        }
        // The entries' offsets count from here.
        let data_start = self.at.next_multiple_of(alignment);
        let mut by_offset: Vec<_> = tensors.iter_mut().collect();
        by_offset.sort_by_key(|(_, tensor)| tensor.bytes.start);
        let mut free_from = 0;
        for (name, tensor) in by_offset {
            let Range { start, end } = tensor.bytes;
            if !start.is_multiple_of(alignment) {
                let what = format!("tensor `{name}` is at offset {start}, not a multiple of {alignment}");
                return Err(corrupt(self.path, what));
            }
            if start < free_from {
                let what = format!("tensor `{name}` at offset {start} overlaps one that ends at {free_from}");
                return Err(corrupt(self.path, what));
            }
            if end.checked_add(data_start).is_none_or(|end| end > self.bytes.len()) {
                let left = self.bytes.len().saturating_sub(data_start);
                let what = format!("tensor `{name}` takes bytes {start} to {end} of the data, which has {left}");
                return Err(corrupt(self.path, what));
            }
            free_from = end;
            tensor.bytes = data_start + start..data_start + end;
        }
        Ok(tensors)
    }

    /// A tensor's entry; its byte range still counts from the start of the data.
    fn tensor(&mut self) -> Result<(&'a str, Tensor)> {
        let name = self.string()?;
        let n_dims = self.u32()?;
        if !(1..=4).contains(&n_dims) {
            return Err(corrupt(self.path, format!("tensor `{name}` has {n_dims} dimensions")));
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            shape.push(self.u64()?);
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        let block = BlockType::from_id(kind)
            .map_err(|kind| unsupported(self.path, format!("GGUF type `{kind}` of tensor `{name}`")))?;
        let (values, bytes) = block.block();
        if !shape[0].is_multiple_of(values as u64) {
            let what = format!("tensor `{name}` has rows of {} values, not a multiple of {values}", shape[0]);
            return Err(corrupt(self.path, what));
        }
        let end = shape
            .iter()
            .try_fold(1u64, |product, dim| product.checked_mul(*dim))
            .and_then(|n_values| (n_values / values as u64).checked_mul(bytes as u64))
            .and_then(|n_bytes| n_bytes.checked_add(offset))
            .and_then(|end| usize::try_from(end).ok())
            .ok_or_else(|| corrupt(self.path, format!("tensor `{name}` of shape {shape:?} is beyond any file")))?;
        let shape = shape.iter().rev().map(|dim| *dim as usize).collect();
        Ok((name, Tensor { block, shape, bytes: offset as usize..end }))
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            I32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            STRING => Value::String(self.string()?.to_owned()),
            ARRAY => self.array_value(key)?,
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(corrupt(self.path, format!("metadata `{key}` has the unknown type {kind}"))),
        })
    }

    /// Walks past an array, remembering where it lies.
    fn array_value(&mut self, key: &str) -> Result<Value> {
        let element = self.u32()?;
        let element_bytes = match element {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4 | I32 | 6 => 4,
            10..=12 | STRING => 8,
            ARRAY => return Err(unsupported(self.path, format!("an array of arrays in metadata `{key}`"))),
            _ => return Err(corrupt(self.path, format!("metadata `{key}` is an array of the unknown type {element}"))),
        };
        let len = self.count(element_bytes, "array elements")?;
        let start = self.at;
        if element == STRING {
            for _ in 0..len {
                self.string()?;
            }
        } else {
            self.take(len * element_bytes)?; // `count` has bounded the product
        }
        Ok(Value::Array { element, len, bytes: start..self.at })
    }

    /// A count of things that take at least `min_bytes` each; more than the rest of the file could hold is damage.
    fn count(&mut self, min_bytes: usize, things: &str) -> Result<usize> {
        let at = self.at;
        let claimed = self.u64()?;
        let left = self.bytes.len() - self.at;
        usize::try_from(claimed).ok().filter(|count| *count <= left / min_bytes).ok_or_else(|| {
            corrupt(self.path, format!("{claimed} {things} at byte {at}, with {left} bytes left in the file"))
        })
    }

    /// A length and as much UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let len = self.count(1, "bytes of text")?;
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|_| corrupt(self.path, format!("text at byte {at} is not UTF-8")))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (start, length) = (self.at, self.bytes.len());
        let Some(bytes) = start.checked_add(len).and_then(|end| self.bytes.get(start..end)) else {
            return Err(corrupt(self.path, format!("it ends at byte {length}, inside a header field at byte {start}")));
        };
        self.at += len;
        Ok(bytes)
    }
}
