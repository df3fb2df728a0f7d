use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{End, PIECE_BYTES, SnapshotFileError};

// Wire value: append only.
pub(super) const MAGIC: &[u8; 8] = b"tdgarch1";
const HEAD_BYTES: usize = 9;

/// What a block is. Wire value: append only.
pub(super) mod kind {
    pub const HEAD: u8 = 1;
    pub const SEGMENTS: u8 = 2;
    pub const STATE: u8 = 3;
    pub const LINES: u8 = 4;
    pub const END: u8 = 5;
}

/// What has gone by: for the block at the end.
struct Passed {
    blocks: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl Passed {
    fn new() -> Passed {
        Passed {
            blocks: 0,
            bytes: MAGIC.len() as u64,
            crc: crc32fast::Hasher::new(),
        }
    }

    fn count(&mut self, body: usize, crc: u32) {
        self.blocks += 1;
        self.bytes += (HEAD_BYTES + body) as u64;
        self.crc.update(&crc.to_le_bytes());
    }

    fn end(&self) -> End {
        End {
            blocks: self.blocks,
            bytes: self.bytes,
            crc: self.crc.clone().finalize(),
        }
    }
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(&(body.len() as u32).to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Writes blocks.
pub(super) struct BlockWriter<W> {
    writer: W,
    passed: Passed,
}

impl<W: AsyncWrite + Unpin> BlockWriter<W> {
    pub async fn begin(mut writer: W) -> io::Result<BlockWriter<W>> {
        writer.write_all(MAGIC).await?;
        Ok(BlockWriter {
            writer,
            passed: Passed::new(),
        })
    }

    /// Writes one block, whose body is no larger than a piece.
    pub async fn block(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        if body.len() > PIECE_BYTES {
            return Err(io::Error::other("a block is larger than readers take"));
        }
        let crc = checksum(kind, body);
        let mut head = [0; HEAD_BYTES];
        head[0] = kind;
        head[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[5..].copy_from_slice(&crc.to_le_bytes());
        self.writer.write_all(&head).await?;
        self.writer.write_all(body).await?;
        self.passed.count(body.len(), crc);
        Ok(())
    }

    /// Writes the last block, and gives the bytes of the file.
    pub async fn end(mut self) -> io::Result<u64> {
        let end = postcard::to_extend(&self.passed.end(), Vec::new()).map_err(io::Error::other)?;
        self.block(kind::END, &end).await?;
        self.writer.flush().await?;
        Ok(self.passed.bytes)
    }
}

/// Reads blocks, each checked.
pub(super) struct BlockReader<R> {
    reader: R,
    passed: Passed,
}

impl<R: AsyncRead + Unpin> BlockReader<R> {
    pub async fn begin(mut reader: R) -> Result<BlockReader<R>, SnapshotFileError> {
        let mut magic = Vec::with_capacity(MAGIC.len());
        let mut beginning = (&mut reader).take(MAGIC.len() as u64);
        let read = beginning.read_to_end(&mut magic).await;
        read.map_err(SnapshotFileError::Read)?;
        if magic != MAGIC {
            return Err(SnapshotFileError::NotASnapshot { found: magic });
        }
        Ok(BlockReader {
            reader,
            passed: Passed::new(),
        })
    }

    /// Where the next block begins.
    pub fn offset(&self) -> u64 {
        self.passed.bytes
    }

    pub fn damaged(&self, what: impl Into<String>) -> SnapshotFileError {
        SnapshotFileError::Damaged {
            offset: self.passed.bytes,
            what: what.into(),
        }
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotFileError> {
        match self.reader.read_exact(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends within a block"))
            }
            Err(error) => Err(SnapshotFileError::Read(error)),
        }
    }

    /// The next block. The last one is checked against what came before it, and nothing may follow.
    pub async fn block(&mut self) -> Result<(u8, Bytes), SnapshotFileError> {
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head).await?;
        let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        if bytes > PIECE_BYTES {
            return Err(self.damaged(format!(
                "a block of {bytes} bytes, {PIECE_BYTES} are written"
            )));
        }
        let mut body = vec![0; bytes];
        self.fill(&mut body).await?;
        if checksum(kind, &body) != crc {
            return Err(self.damaged("a block's checksum does not match"));
        }
        if kind == kind::END {
            self.check_end(&body).await?;
        }
        self.passed.count(bytes, crc);
        Ok((kind, body.into()))
    }

    async fn check_end(&mut self, body: &[u8]) -> Result<(), SnapshotFileError> {
        let end = postcard::from_bytes::<End>(body);
        if end.ok() != Some(self.passed.end()) {
            return Err(self.damaged("its end does not tell of what comes before"));
        }
        let mut more = [0];
        match self.reader.read(&mut more).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something follows after its end")),
            Err(error) => Err(SnapshotFileError::Read(error)),
        }
    }
}
