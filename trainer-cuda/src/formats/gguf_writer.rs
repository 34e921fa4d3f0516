//! Writes a GGUF container: version 3, little-endian, every tensor f32.

use std::io::{self, Write};

use super::gguf::MAGIC;
use super::gguf_header::STRING;

const U32: u32 = 4;
const F32: u32 = 6;
/// Where a tensor may start, unless the file says otherwise.
const ALIGNMENT: usize = 32;

/// A file in the making.
#[derive(Default)]
pub(super) struct GgufWriter {
    n_metadata: u64,
    metadata: Vec<u8>,
    n_tensors: u64,
    entries: Vec<u8>,
    data: Vec<u8>,
}

impl GgufWriter {
    pub(super) fn string(&mut self, key: &str, text: &str) {
        self.key(key, STRING);
        string(&mut self.metadata, text);
    }

    pub(super) fn u32(&mut self, key: &str, number: u32) {
        self.key(key, U32);
        self.metadata.extend(number.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, number: f32) {
        self.key(key, F32);
        self.metadata.extend(number.to_le_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.n_metadata += 1;
        string(&mut self.metadata, key);
        self.metadata.extend(kind.to_le_bytes());
    }

    /// A row-major tensor; the file has its dimensions reversed.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], values: impl IntoIterator<Item = f32>) {
        self.n_tensors += 1;
        string(&mut self.entries, name);
        self.entries.extend((shape.len() as u32).to_le_bytes());
        self.entries.extend(shape.iter().rev().flat_map(|&extent| (extent as u64).to_le_bytes()));
        self.entries.extend(0u32.to_le_bytes()); // `GGML_TYPE_F32`
        self.entries.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(values.into_iter().flat_map(f32::to_le_bytes));
        self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
    }

    pub(super) fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        file.write_all(&MAGIC)?;
        file.write_all(&3u32.to_le_bytes())?;
        file.write_all(&self.n_tensors.to_le_bytes())?;
        file.write_all(&self.n_metadata.to_le_bytes())?;
        file.write_all(&self.metadata)?;
        file.write_all(&self.entries)?;
        let header = 4 + 4 + 8 + 8 + self.metadata.len() + self.entries.len();
        file.write_all(&vec![0; header.next_multiple_of(ALIGNMENT) - header])?;
        file.write_all(&self.data)
    }
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::HostTensor;
    use super::super::gguf::Gguf;
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let mut writer = GgufWriter::default();
        writer.string("general.name", "naïve");
        writer.u32("some.count", 7);
        writer.f32("some.scale", 0.1);
        // 12 and 8 bytes: the reader refuses an offset that is no multiple of 32.
        writer.tensor("first", &[1, 3], [1.0, 2.0, 3.0]);
        writer.tensor("second", &[2, 1], [4.0, 5.0]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writer.write(&mut file).unwrap();
        let gguf = Gguf::open(file.path()).unwrap();
        assert_eq!(gguf.string("general.name").unwrap(), Some("naïve"));
        assert_eq!(gguf.usize("some.count").unwrap(), Some(7));
        assert_eq!(gguf.float("some.scale").unwrap(), Some(f64::from(0.1f32)));
        assert_eq!(gguf.tensor("first").unwrap(), HostTensor { shape: vec![1, 3], data: vec![1.0, 2.0, 3.0] });
        assert_eq!(gguf.tensor("second").unwrap(), HostTensor { shape: vec![2, 1], data: vec![4.0, 5.0] });
    }
}
