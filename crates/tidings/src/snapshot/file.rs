//! Files with snapshots: read with a bar, and written so that a name stands for a whole file only.

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::Context as _;
use futures_util::{Stream, stream};
use indicatif::{ProgressBar, ProgressStyle};
use tidings_raft::{SnapshotFileError, SnapshotInfo, snapshot_inspect, snapshot_without_history};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;

use crate::failure::UsageError;

/// Bytes between whoever reads a file and whoever checks or sends it.
const PIPE_BYTES: usize = 256 << 10;
/// Bytes that are read or sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// How far it is, on a terminal.
pub fn progress(bytes: Option<u64>) -> ProgressBar {
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    match bytes {
        _ if !io::stderr().is_terminal() => ProgressBar::hidden(),
        Some(bytes) => ProgressBar::new(bytes)
            .with_style(style("{bar:30} {bytes}/{total_bytes} {bytes_per_sec}")),
        None => ProgressBar::new_spinner().with_style(style("{spinner} {bytes} {bytes_per_sec}")),
    }
}

/// A file that is read.
pub struct Reading {
    path: PathBuf,
    file: tokio::fs::File,
    bar: ProgressBar,
}

impl Reading {
    pub async fn open(path: &Path) -> anyhow::Result<Reading> {
        let failed = || format!("cannot read {}", path.display());
        let file = tokio::fs::File::open(path).await.with_context(failed)?;
        let metadata = file.metadata().await.with_context(failed)?;
        Ok(Reading {
            path: path.to_owned(),
            file,
            bar: progress(metadata.is_file().then_some(metadata.len())),
        })
    }

    /// Hands it to whoever reads it.
    pub async fn with<T, F>(self, read: impl FnOnce(Counted) -> F) -> Result<T, SnapshotFileError>
    where
        F: Future<Output = Result<T, SnapshotFileError>>,
    {
        let bar = self.bar.clone();
        let done = read(Counted {
            file: self.file,
            bar: self.bar,
        })
        .await;
        bar.finish_and_clear();
        done
    }

    /// What it holds, once all of it was checked.
    pub async fn inspect(self) -> anyhow::Result<SnapshotInfo> {
        let path = self.path.clone();
        let info = self.with(snapshot_inspect).await;
        info.with_context(|| format!("cannot use {}", path.display()))
    }
}

/// A file whose bytes are counted on a bar.
pub struct Counted {
    file: tokio::fs::File,
    bar: ProgressBar,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.file).poll_read(cx, buffer));
        self.bar.inc((buffer.filled().len() - before) as u64);
        Poll::Ready(read)
    }
}

/// The state in a file, as a snapshot of its own. A file that cannot be read ends it early, which
/// whoever takes it refuses.
pub fn state_of(path: PathBuf) -> impl Stream<Item = io::Result<bytes::Bytes>> + Send + 'static {
    let (reader, writer) = duplex(PIPE_BYTES);
    let copying: JoinHandle<io::Result<()>> = tokio::spawn(async move {
        let file = tokio::fs::File::open(path).await?;
        let copied = snapshot_without_history(file, writer).await;
        copied.map_err(io::Error::other)
    });
    stream::try_unfold((reader, copying), async |(mut reader, mut copying)| {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        if reader.read_buf(&mut piece).await? > 0 {
            return Ok(Some((piece.freeze(), (reader, copying))));
        }
        (&mut copying).await.map_err(io::Error::other)??;
        Ok(None)
    })
}

/// A file that is written beside its place, checked as it comes, and takes its place once it is whole
/// and on the disk. Removed when it does not come to that.
pub struct NewFile {
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
    pipe: Option<DuplexStream>,
    checking: JoinHandle<Result<SnapshotInfo, SnapshotFileError>>,
}

impl NewFile {
    /// Begins one. What it holds is for its owner alone, as the data directory is.
    pub fn create(path: &Path, replaces: bool) -> anyhow::Result<NewFile> {
        let failed = || format!("cannot write {}", path.display());
        let Some(name) = path.file_name() else {
            return Err(UsageError::new(format!("{} is no name of a file", path.display())).into());
        };
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(UsageError::new(format!(
                    "{} is a directory: name a file in it",
                    path.display()
                ))
                .into());
            }
            Ok(_) if !replaces => {
                return Err(UsageError::new(format!(
                    "{} is there already: give another name, or --force to replace it",
                    path.display()
                ))
                .into());
            }
            _ => {}
        }
        let unfinished = format!(".{}.{}.part", name.to_string_lossy(), std::process::id());
        let unfinished = path.with_file_name(unfinished);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .with_context(failed)?;
        let (pipe, reader) = duplex(PIPE_BYTES);
        Ok(NewFile {
            path: path.to_owned(),
            unfinished,
            file,
            pipe: Some(pipe),
            checking: tokio::spawn(snapshot_inspect(reader)),
        })
    }

    /// Writes what comes next. `false` when it is of no use any more: [`NewFile::complete`] tells why.
    pub async fn write(&mut self, piece: &[u8]) -> io::Result<bool> {
        self.file.write_all(piece)?;
        match &mut self.pipe {
            Some(pipe) => Ok(pipe.write_all(piece).await.is_ok()),
            None => Ok(false),
        }
    }

    /// Puts it in its place.
    pub async fn complete(mut self) -> anyhow::Result<SnapshotInfo> {
        self.pipe = None;
        let checked = (&mut self.checking).await;
        let info = checked.context("the check has failed")?;
        let info = info.context("what came is no whole snapshot")?;
        self.file.sync_all().context("the disk has failed")?;
        fs::rename(&self.unfinished, &self.path)?;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()?;
        Ok(info)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        self.checking.abort();
        // Not there any more once it has its name.
        let _ = fs::remove_file(&self.unfinished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_never_stands_for_half_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.snap");
        let mut file = NewFile::create(&path, false).unwrap();
        assert!(file.write(b"tdgarch1").await.unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = file.complete().await.unwrap_err();
        assert!(format!("{error:#}").contains("is damaged"), "{error:#}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        fs::write(&path, "mine").unwrap();
        let refused = NewFile::create(&path, false).err().unwrap();
        assert!(refused.to_string().contains("--force"), "{refused}");
        let mut file = NewFile::create(&path, true).unwrap();
        let _ = file.write(b"something else").await;
        let error = file.complete().await.unwrap_err();
        assert!(format!("{error:#}").contains("no snapshot"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(NewFile::create(dir.path(), true).is_err());
    }
}
