//! Bundles as they travel to a worker, and artefacts as they come back.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Component, Path};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use crate::job::{Bundle, JOB_FILE, PROGRAM};
use crate::plugins::hex;

/// From here on there are weights in it, which don't get smaller, and gzip takes 12 s a GB at its fastest.
const INCOMPRESSIBLE: u64 = 64 << 20;

/// A tar.gz of the files, each by its path in `folder` and its size; ready to be read from its start. The same files give the same
/// bytes.
pub(crate) fn pack(folder: &Path, files: &[(String, u64)], into: File) -> io::Result<File> {
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let level = if total < INCOMPRESSIBLE { Compression::fast() } else { Compression::none() };
    let mut tar = Builder::new(GzEncoder::new(BufWriter::new(into), level));
    for (path, size) in files {
        let mut header = Header::new_gnu();
        header.set_size(*size);
        header.set_mode(0o644);
        header.set_mtime(0);
        let source = File::open(folder.join(path))?;
        // One that grew since it was measured would shift all that follows.
        tar.append_data(&mut header, path, source.take(*size))?;
    }
    let mut file = tar.into_inner()?.finish()?.into_inner()?;
    file.flush()?;
    file.rewind()?;
    Ok(file)
}

/// SHA-256 of all that is left to read, in hexadecimal digits, and how many bytes that is.
pub(crate) fn sha256(mut from: impl Read) -> io::Result<(String, u64)> {
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((hex(&hash.finalize()), length)),
            n => {
                hash.update(&buffer[..n]);
                length += n as u64;
            }
        }
    }
}

/// What of a bundle travels: all but the program, `job.json` first.
pub(crate) fn travels(bundle: &Bundle) -> Vec<(String, u64)> {
    let files = bundle.files.iter().filter(|file| file.path != PROGRAM);
    let mut files: Vec<_> = files.map(|file| (file.path.clone(), file.size)).collect();
    files.sort_by_key(|(path, _)| (path != JOB_FILE, path.clone()));
    files
}

/// What a tar.gz may come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes, unpacked.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) entries: usize,
}

/// Unpacks plain files and folders below `into`; anything else, and any path that could lead elsewhere, is refused.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is wrong with the archive, in words; else those of the disk.
pub(crate) fn unpack(archive: impl Read, into: &Path, limits: Limits) -> io::Result<()> {
    let mut archive = Archive::new(MultiGzDecoder::new(archive));
    let mut left = limits.bytes;
    for (index, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if index >= limits.entries {
            return Err(wrong(format!("it has more than {} entries", limits.entries)));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let shown = path.display();
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            return Err(wrong(format!("`{shown}` is no plain path within it")));
        }
        let target = into.join(&path);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(&target)?,
            EntryType::Regular => {
                let size = entry.size();
                left = left
                    .checked_sub(size)
                    .ok_or_else(|| wrong(format!("it comes to more than {} bytes, unpacked", limits.bytes)))?;
                if let Some(folder) = target.parent() {
                    fs::create_dir_all(folder)?;
                }
                let mut file = File::create_new(&target).map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => wrong(format!("it has `{shown}` twice")),
                    _ => error,
                })?;
                let copied = copy(&mut entry, &mut file)?;
                if copied != size {
                    return Err(wrong(format!("it ends within `{shown}`")));
                }
            }
            other => return Err(wrong(format!("`{shown}` is neither a file nor a folder ({other:?})"))),
        }
    }
    // To the end of the gzip stream: its checksum is there.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// Errors of reading are the archive's, those of writing the disk's.
fn copy(from: &mut impl Read, to: &mut File) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0;
    loop {
        let n = from.read(&mut buffer).map_err(broken)?;
        if n == 0 {
            return Ok(copied);
        }
        to.write_all(&buffer[..n])?;
        copied += n as u64;
    }
}

fn broken(error: io::Error) -> io::Error {
    wrong(format!("it is damaged ({error})"))
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1000, entries: 4 };

    /// An archive whose entries are what they are, whatever the `tar` crate thinks of them.
    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, kind, body) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(body.len() as u64);
            header.set_mode(0o4777);
            if !matches!(kind, EntryType::Regular | EntryType::Directory) {
                header.set_link_name("target").unwrap();
            }
            header.set_cksum();
            tar.append(&header, *body).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("in");
        fs::create_dir(&into).unwrap();
        let error = unpack(bytes, &into, LIMITS).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["in"], "it wrote beside its folder");
        error.to_string()
    }

    #[test]
    fn files_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (folder.path().join("from"), folder.path().join("into"));
        fs::create_dir_all(from.join("base")).unwrap();
        fs::create_dir(&into).unwrap();
        fs::write(from.join("job.json"), "{}").unwrap();
        fs::write(from.join("base/weights"), [7; 300]).unwrap();
        let files = [("job.json".to_owned(), 2), ("base/weights".to_owned(), 300)];
        let packed = |()| {
            let mut bytes = Vec::new();
            pack(&from, &files, tempfile::tempfile().unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        let bytes = packed(());
        assert_eq!(bytes, packed(()), "the same files are the same bytes");
        unpack(bytes.as_slice(), &into, LIMITS).unwrap();
        assert_eq!(fs::read(into.join("job.json")).unwrap(), b"{}");
        assert_eq!(fs::read(into.join("base/weights")).unwrap(), [7; 300]);
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let file = EntryType::Regular;
        for path in ["../up", "base/../../up", "/etc/tunesmith"] {
            let error = refused(&archive(&[(path, file, b"x")]));
            assert_eq!(error, format!("`{path}` is no plain path within it"));
        }
        assert_eq!(
            refused(&archive(&[("link", EntryType::Symlink, b"")])),
            "`link` is neither a file nor a folder (Symlink)"
        );
        assert_eq!(
            refused(&archive(&[("hard", EntryType::Link, b"")])),
            "`hard` is neither a file nor a folder (Link)"
        );
        assert_eq!(
            refused(&archive(&[("pipe", EntryType::Fifo, b"")])),
            "`pipe` is neither a file nor a folder (Fifo)"
        );
    }

    #[test]
    fn an_archive_that_is_too_much_or_damaged_is_refused() {
        let file = EntryType::Regular;
        assert_eq!(refused(&archive(&[("a", file, b"1"), ("a", file, b"2")])), "it has `a` twice");
        let large = [0; 600];
        assert_eq!(
            refused(&archive(&[("a", file, &large), ("b", file, &large)])),
            "it comes to more than 1000 bytes, unpacked"
        );
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| (name, file, &b"x"[..])).to_vec();
        assert_eq!(refused(&archive(&many)), "it has more than 4 entries");
        let whole = archive(&[("a", file, &large)]);
        let error = refused(&whole[..whole.len() - 12]);
        assert!(error.starts_with("it is damaged ("), "{error}");
        assert!(refused(b"<html>not an archive</html>").starts_with("it is damaged ("));
    }
}
