//! The calls of `std::fs` on the disks of a simulation.

use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::disk::{Disk, Node, relative};
use super::world::disk_of;

/// An open file, or folder.
#[derive(Debug)]
pub struct File {
    disk: Arc<Disk>,
    path: PathBuf,
    /// `None`: a folder.
    inode: Option<u64>,
    at: AtomicU64,
    appends: bool,
    locks: bool,
}

/// How to open a file.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    write: bool,
    append: bool,
    create: bool,
    create_new: bool,
    truncate: bool,
}

/// What is known of a file without reading it.
#[derive(Debug, Clone)]
pub struct Metadata {
    is_file: bool,
    links: u64,
    len: u64,
    modified: SystemTime,
}

/// A name in a folder.
#[derive(Debug)]
pub struct DirEntry(PathBuf);

/// Reading and writing at an offset.
pub trait FileExt {
    /// As `std::os::unix::fs::FileExt::read_at`.
    ///
    /// # Errors
    /// Those of the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `std::os::unix::fs::FileExt::write_at`.
    ///
    /// # Errors
    /// Those of the disk.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// As `std::os::unix::fs::FileExt::read_exact_at`.
    ///
    /// # Errors
    /// Those of the disk, and `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(buffer, offset)? {
            read if read == buffer.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// As `std::os::unix::fs::FileExt::write_all_at`.
    ///
    /// # Errors
    /// Those of the disk.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_at(bytes, offset)?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }
}

/// Options that only a Unix has; they change nothing here.
pub trait OpenOptionsExt {
    /// Permissions.
    fn mode(&mut self, mode: u32) -> &mut Self;
    /// Flags of `open`.
    fn custom_flags(&mut self, flags: i32) -> &mut Self;
}

/// What only a Unix tells of a file.
pub trait MetadataExt {
    /// How many names it has.
    fn nlink(&self) -> u64;
}

impl MetadataExt for Metadata {
    fn nlink(&self) -> u64 {
        self.links
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

// === impl File ===

impl File {
    /// As `std::fs::File::open`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new().read(true).open(path)
    }

    /// As `std::fs::File::create`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    /// As `std::fs::File::options`.
    #[must_use]
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// As `std::fs::File::sync_all`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync_all(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if self.disk.operate(&mut state)? {
            return Err(super::disk::gone());
        }
        match self.inode {
            Some(inode) => state.sync(inode),
            None => {
                state.sync_folder(&self.path);
                Ok(())
            }
        }
    }

    /// As `std::fs::File::sync_data`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    /// As `std::fs::File::set_len`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        let inode = self.inode()?;
        let mut state = self.disk.state.lock();
        self.disk.operate(&mut state)?;
        state.set_len(inode, len as usize)
    }

    /// As `std::fs::File::metadata`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn metadata(&self) -> io::Result<Metadata> {
        let node = self.inode.map_or(Node::Folder, Node::File);
        metadata_of(&self.disk, node)
    }

    fn inode(&self) -> io::Result<u64> {
        self.inode.ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let (true, Some(inode)) = (self.locks, self.inode)
            && let Ok(content) = self.disk.state.lock().content(inode)
        {
            content.locked = false;
        }
    }
}

impl FileExt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inode = self.inode()?;
        let mut state = self.disk.state.lock();
        state.alive()?;
        let bytes = &state.content(inode)?.current;
        let start = (offset as usize).min(bytes.len());
        let read = buffer.len().min(bytes.len() - start);
        buffer[..read].copy_from_slice(&bytes[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let inode = self.inode()?;
        let mut state = self.disk.state.lock();
        self.disk.operate(&mut state)?;
        state.write(inode, offset as usize, bytes)
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at.load(Ordering::Relaxed);
        let read = self.read_at(buffer, at)?;
        self.at.store(at + read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let at = match self.appends {
            true => self.metadata()?.len,
            false => self.at.load(Ordering::Relaxed),
        };
        let written = self.write_at(bytes, at)?;
        self.at.store(at + written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.metadata()?.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.load(Ordering::Relaxed).checked_add_signed(by),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        self.at.store(at, Ordering::Relaxed);
        Ok(at)
    }
}

// === impl OpenOptions ===

impl OpenOptions {
    /// As `std::fs::OpenOptions::new`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every file can be read.
    pub fn read(&mut self, _: bool) -> &mut Self {
        self
    }

    /// As `std::fs::OpenOptions::write`.
    pub fn write(&mut self, yes: bool) -> &mut Self {
        self.write = yes;
        self
    }

    /// As `std::fs::OpenOptions::append`.
    pub fn append(&mut self, yes: bool) -> &mut Self {
        self.append = yes;
        self
    }

    /// As `std::fs::OpenOptions::create`.
    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.create = yes;
        self
    }

    /// As `std::fs::OpenOptions::create_new`.
    pub fn create_new(&mut self, yes: bool) -> &mut Self {
        self.create_new = yes;
        self
    }

    /// As `std::fs::OpenOptions::truncate`.
    pub fn truncate(&mut self, yes: bool) -> &mut Self {
        self.truncate = yes;
        self
    }

    /// As `std::fs::OpenOptions::open`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let disk = disk_of(path)?;
        let path = relative(path);
        let inode = {
            let mut state = disk.state.lock();
            state.alive()?;
            match state.node(&path) {
                Ok(_) if self.create_new => return Err(io::ErrorKind::AlreadyExists.into()),
                Ok(Node::File(inode)) => {
                    if self.truncate && !state.content(inode)?.current.is_empty() {
                        disk.operate(&mut state)?;
                        state.set_len(inode, 0)?;
                    }
                    Some(inode)
                }
                Ok(Node::Folder) if self.write => return Err(io::ErrorKind::IsADirectory.into()),
                Ok(Node::Folder) => None,
                Err(_) if self.create || self.create_new => {
                    disk.operate(&mut state)?;
                    Some(state.create(path.clone())?)
                }
                Err(error) => return Err(error),
            }
        };
        Ok(File {
            disk,
            path,
            inode,
            at: AtomicU64::new(0),
            appends: self.append,
            locks: false,
        })
    }
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }

    fn custom_flags(&mut self, _: i32) -> &mut Self {
        self
    }
}

// === impl Metadata ===

impl Metadata {
    /// Its bytes.
    #[allow(clippy::len_without_is_empty)]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.is_file
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        !self.is_file
    }

    /// When it was last written.
    ///
    /// # Errors
    /// None; as in `std`.
    pub fn modified(&self) -> io::Result<SystemTime> {
        Ok(self.modified)
    }
}

impl DirEntry {
    /// The whole path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// The name in its folder.
    #[must_use]
    pub fn file_name(&self) -> std::ffi::OsString {
        self.0.file_name().unwrap_or_default().to_owned()
    }
}

fn metadata_of(disk: &Disk, node: Node) -> io::Result<Metadata> {
    let mut state = disk.state.lock();
    state.alive()?;
    let links = state.links(node);
    let (len, modified) = match node {
        Node::File(inode) => {
            let content = state.content(inode)?;
            (content.current.len() as u64, content.modified)
        }
        Node::Folder => (0, std::time::Duration::ZERO),
    };
    Ok(Metadata {
        is_file: node != Node::Folder,
        links,
        len,
        modified: SystemTime::UNIX_EPOCH + modified,
    })
}

/// As `std::fs::metadata`.
///
/// # Errors
/// Those of the disk.
pub fn metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    let disk = disk_of(path.as_ref())?;
    let node = disk.state.lock().node(&relative(path.as_ref()))?;
    metadata_of(&disk, node)
}

/// Whether there is a folder of this name.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Whether there is anything of this name.
#[must_use]
pub fn exists(path: &Path) -> bool {
    metadata(path).is_ok()
}

/// As `std::fs::read`.
///
/// # Errors
/// Those of the disk.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let inode = file.inode()?;
    let mut state = file.disk.state.lock();
    state.alive()?;
    Ok(state.content(inode)?.current.clone())
}

/// As `std::fs::read_to_string`.
///
/// # Errors
/// Those of the disk, and `InvalidData`.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// As `std::fs::write`.
///
/// # Errors
/// Those of the disk.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    File::create(path)?.write_all_at(bytes.as_ref(), 0)
}

/// As `std::fs::copy`.
///
/// # Errors
/// Those of the disk.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<u64> {
    let bytes = read(from)?;
    write(to, &bytes)?;
    Ok(bytes.len() as u64)
}

/// As `std::fs::hard_link`.
///
/// # Errors
/// Those of the disk.
pub fn hard_link(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let disk = disk_of(from.as_ref())?;
    let (from, to) = (relative(from.as_ref()), relative(to.as_ref()));
    let mut state = disk.state.lock();
    state.alive()?;
    let node = state.node(&from)?;
    if state.node(&to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    disk.operate(&mut state)?;
    state.link(to, node);
    Ok(())
}

/// As `std::fs::create_dir_all`.
///
/// # Errors
/// Those of the disk.
pub fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let disk = disk_of(path.as_ref())?;
    let path = relative(path.as_ref());
    let mut state = disk.state.lock();
    state.alive()?;
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|folder| state.node(folder).is_err())
        .map(Path::to_owned)
        .collect();
    for folder in missing.into_iter().rev() {
        disk.operate(&mut state)?;
        state.create_folder(folder);
    }
    Ok(())
}

/// As `std::fs::remove_file`.
///
/// # Errors
/// Those of the disk.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    let disk = disk_of(path.as_ref())?;
    let path = relative(path.as_ref());
    let mut state = disk.state.lock();
    state.alive()?;
    state.node(&path)?;
    disk.operate(&mut state)?;
    state.remove(path)
}

/// As `std::fs::remove_dir_all`.
///
/// # Errors
/// Those of the disk.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    for entry in read_dir(path)? {
        let entry = entry?.path();
        match is_dir(&entry) {
            true => remove_dir_all(&entry)?,
            false => remove_file(&entry)?,
        }
    }
    remove_file(path)
}

/// As `std::fs::rename`.
///
/// # Errors
/// Those of the disk.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let disk = disk_of(from.as_ref())?;
    let (from, to) = (relative(from.as_ref()), relative(to.as_ref()));
    let mut state = disk.state.lock();
    state.alive()?;
    state.node(&from)?;
    disk.operate(&mut state)?;
    state.rename(from, to)
}

/// As `std::fs::read_dir`.
///
/// # Errors
/// Those of the disk.
pub fn read_dir(path: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<io::Result<DirEntry>>> {
    let path = path.as_ref();
    let disk = disk_of(path)?;
    let folder = relative(path);
    let state = disk.state.lock();
    state.alive()?;
    if state.node(&folder)? != Node::Folder {
        return Err(not_found());
    }
    let entries: Vec<_> = state
        .names_in(&folder)
        .into_iter()
        .map(|name| Ok(DirEntry(path.join(name.file_name().unwrap_or_default()))))
        .collect();
    Ok(entries.into_iter())
}

/// Bytes that may still be written.
///
/// # Errors
/// When there is no such disk.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    Ok(disk_of(dir)?.free())
}

/// Writes pieces, one after the other, at an offset; how many bytes were written.
///
/// # Errors
/// Those of the disk.
pub fn write_vectored_at(file: &File, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| piece.iter().copied())
        .collect();
    file.write_at(&bytes, offset)
}

/// The place of a folder: its path on its disk, whatever name that is mounted under.
///
/// # Errors
/// Those of the disk.
pub fn place_of(dir: &Path) -> io::Result<String> {
    let disk = disk_of(dir)?;
    disk.state.lock().node(&relative(dir))?;
    Ok(relative(dir).display().to_string())
}

/// Locks a file until it is closed. `false` when it is locked already.
///
/// # Errors
/// Those of the disk.
pub fn try_lock(file: &mut File) -> io::Result<bool> {
    let inode = file.inode()?;
    let disk = file.disk.clone();
    let mut state = disk.state.lock();
    state.alive()?;
    let content = state.content(inode)?;
    let free = !content.locked;
    content.locked = true;
    file.locks |= free;
    Ok(free)
}
