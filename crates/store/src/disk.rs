//! The few file operations that everything here is built from.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tidings_host::fs::{self, File, FileExt as _, OpenOptions, OpenOptionsExt as _};

use crate::error::StoreError;
use crate::layout::TEMPORARY_SUFFIX;

/// Permissions of new files: events may carry secrets of those who publish them.
pub(crate) const FILE_MODE: u32 = 0o640;

/// Makes the entries of a folder (creations, renames, removals) durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::io("sync", dir))
}

/// Creates a folder, with those above it, and makes their names durable; one that exists is left as
/// it is.
pub(crate) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    if fs::is_dir(dir) {
        return Ok(());
    }
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !fs::is_dir(ancestor))
        .collect();
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    for created in missing.into_iter().rev() {
        sync_name(created)?;
    }
    Ok(())
}

/// Makes the name of a file or folder durable: it is once the folder that holds it is synced.
pub(crate) fn sync_name(path: &Path) -> Result<(), StoreError> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Opens a file for reading and writing and creates it, empty, when it is not there.
pub(crate) fn open_or_create(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Opens an existing file for reading and writing.
pub(crate) fn open_existing(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open", path))
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path)(source))
        }
        _ => Ok(()),
    }
}

/// The whole file, or `None` when there is none.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::io("read", path)(source)),
    }
}

/// Replaces a file so that after a crash either the old or the new content is there, whole:
/// temporary file, fsync, rename, fsync of the folder.
pub(crate) fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY_SUFFIX);
    let temporary = path.with_file_name(name);
    let written = (|| -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()
    })();
    if let Err(source) = written {
        // A disk that is full gets its space back; the old file is untouched.
        let _ = fs::remove_file(&temporary);
        return Err(StoreError::io("write", &temporary)(source));
    }
    fs::rename(&temporary, path).map_err(StoreError::io("rename", &temporary))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// What a write past the page cache begins and ends at: no disk has larger blocks, and a page of
/// the cache has this size too.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Zeros to write, where a write past the page cache wants them to lie. Few enough at once that a
/// flush of the same file does not wait long for them.
#[repr(align(4096))]
struct Zeros([u8; 256 * 1024]);

static ZEROS: Zeros = Zeros([0; 256 * 1024]);

/// Zeros that fill a block up.
pub(crate) fn block_of_zeros() -> &'static [u8] {
    &ZEROS.0[..BLOCK_BYTES as usize]
}

/// Writes `bytes` zeros at `offset`.
pub(crate) fn write_zeros(file: &File, mut offset: u64, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let piece = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(ZEROS.0.len());
        file.write_all_at(&ZEROS.0[..piece], offset)?;
        offset += piece as u64;
        bytes -= piece as u64;
    }
    Ok(())
}

/// Opens an existing file for writing past the page cache. `InvalidInput` where the file system
/// cannot; some say so only at the first write.
pub(crate) fn open_past_cache(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(path)
}

/// Writes zeros over `from..to` of `file`, which is at `path`: past the page cache where the file
/// system can, so that they are not copied into it and push nothing out of it.
pub(crate) fn write_zeros_past_cache(
    path: &Path,
    file: &File,
    from: u64,
    to: u64,
) -> io::Result<()> {
    let begin = from.next_multiple_of(BLOCK_BYTES).min(to);
    let end = (to - to % BLOCK_BYTES).max(begin);
    write_zeros(file, from, begin - from)?;
    let past_cache =
        open_past_cache(path).and_then(|direct| write_zeros(&direct, begin, end - begin));
    match past_cache {
        // Not every file system can, and some say so only at the first write.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            write_zeros(file, begin, end - begin)?;
        }
        written => written?,
    }
    write_zeros(file, end, to - end)
}

/// The names in a folder, sorted. Unfinished files of an earlier run are removed when `clean`.
pub(crate) fn list(dir: &Path, clean: bool) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let path = entry.map_err(StoreError::io("list", dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name.ends_with(TEMPORARY_SUFFIX) {
            if clean {
                remove_file(&path)?;
            }
            continue;
        }
        names.push((name.to_owned(), path));
    }
    names.sort();
    Ok(names)
}

/// Bytes that may still be written to the file system of `dir` by an ordinary user.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    fs::free_bytes(dir)
}

/// A `u32` from little-endian bytes at `at`. The caller has checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// A `u64` from little-endian bytes at `at`. The caller has checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_past_the_cache_cover_just_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let (from, to) = (BLOCK_BYTES + 7, 3 * 1024 * 1024 + 11);
        fs::write(&path, vec![1; to as usize + 5]).unwrap();
        let file = open_existing(&path).unwrap();
        write_zeros_past_cache(&path, &file, from, to).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..from as usize].iter().all(|byte| *byte == 1));
        assert!(
            bytes[from as usize..to as usize]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert_eq!(bytes[to as usize..], [1; 5]);
        // Less than a block, within one.
        write_zeros_past_cache(&path, &file, 1, 3).unwrap();
        assert_eq!(fs::read(&path).unwrap()[..4], [1, 0, 0, 1]);
    }
}
