//! A file as a sequence of JSON values: one per line, or the whole file as one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::Value;

/// A file of JSON lines or of one JSON document, which can be read again and again.
pub(super) struct Documents {
    path: PathBuf,
    pub(super) bytes_total: u64,
    one_document: bool,
}

/// The values of a file in order; see [`Documents::read`].
pub(super) struct DocumentReader {
    reader: BufReader<File>,
    one_document: bool,
    line: u64,
    pub(super) bytes_done: u64,
}

impl Documents {
    /// Looks which of the two it is. A first line that is a whole JSON value makes it lines, even where the file
    /// has but this one; else it is one document if it parses as one, and lines, the first of them broken, if not.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut documents = Self { path: path.to_owned(), bytes_total: path.metadata()?.len(), one_document: false };
        let first = documents.read()?.next().transpose()?;
        if first.is_some_and(|(_, value)| value.is_err()) {
            let reader = after_byte_order_mark(File::open(path)?)?;
            documents.one_document = serde_json::from_reader::<_, IgnoredAny>(reader).is_ok();
        }
        Ok(documents)
    }

    /// The values, each with its line (counted from 1), or the reason why the line is no JSON. Blank lines are none.
    pub(super) fn read(&self) -> io::Result<DocumentReader> {
        let reader = after_byte_order_mark(File::open(&self.path)?)?;
        Ok(DocumentReader { reader, one_document: self.one_document, line: 0, bytes_done: 0 })
    }
}

impl Iterator for DocumentReader {
    type Item = io::Result<(u64, Result<Value, String>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        loop {
            let read = match self.one_document {
                true => self.reader.read_to_end(&mut bytes),
                false => self.reader.read_until(b'\n', &mut bytes),
            };
            match read {
                Ok(0) => return None,
                Ok(read) => self.bytes_done += read as u64,
                Err(error) => return Some(Err(error)),
            }
            self.line += 1;
            // The line's end is no part of it: an error at the end would be told as one of line 2.
            let text = bytes.trim_ascii_end();
            if !text.is_empty() {
                return Some(Ok((self.line, serde_json::from_slice(text).map_err(not_json))));
            }
            bytes.clear();
        }
    }
}

fn not_json(error: serde_json::Error) -> String {
    format!("not JSON: {}", error.to_string().replace(" at line 1 column ", " at column "))
}

fn after_byte_order_mark(file: File) -> io::Result<BufReader<File>> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    if reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &[u8]) -> Vec<(u64, Result<Value, String>)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        Documents::open(file.path()).unwrap().read().unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn lines_are_counted_blank_ones_too_and_a_broken_one_is_told() {
        let found = values(b"\xef\xbb\xbf{\"a\": 1}\r\n\n{\"a\": \n{\"a\": 2}");
        let broken = "not JSON: EOF while parsing a value at column 5".to_owned();
        assert_eq!(found, [(1, Ok(json!({"a": 1}))), (3, Err(broken)), (4, Ok(json!({"a": 2})))]);
    }

    #[test]
    fn a_pretty_printed_file_is_one_document() {
        assert_eq!(values(b"{\n  \"a\": [\n    1\n  ]\n}\n"), [(1, Ok(json!({"a": [1]})))]);
    }

    #[test]
    fn a_broken_first_line_leaves_the_file_lines() {
        let found = values(b"{\"a\": \"cut off\n{\"a\": 2}\n");
        assert_eq!(found.len(), 2);
        assert!(found[0].1.is_err());
        assert_eq!(found[1], (2, Ok(json!({"a": 2}))));
    }

    #[test]
    fn invalid_utf_8_is_a_broken_line() {
        let found = values(b"{\"a\": \"\xff\"}\n");
        assert_eq!(found, [(1, Err("not JSON: invalid unicode code point at column 8".to_owned()))]);
    }
}
