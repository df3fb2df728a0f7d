//! What goes over a connection between servers: frames.
//!
//! ```text
//! magic "td" │ version u8 = 1 │ kind u8 │ request u32 LE │ length u32 LE │ crc32 u32 LE │ body
//! ```
//!
//! The checksum is of the body. An answer bears the number of the request that it answers.

use std::{
    io::{self, IoSlice},
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time,
};

use super::{
    room::{Held, Purse},
    wire::TLS_FIRST_BYTE,
};

/// Wire value: append only.
const MAGIC: [u8; 2] = *b"td";
/// Wire value: append only. The layout of frames; what they mean is agreed upon by `Hello`.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 16;

/// The largest body before both sides know each other, and of everything that carries no events.
pub(crate) const SMALL_BODY_BYTES_MAX: usize = 64 << 10;
/// The largest body at all: one record of the log, and those that go along with it.
pub(crate) const BODY_BYTES_MAX: usize = 288 << 20;
/// What is set aside for a body before any of it has come: who announces much must send it as well.
const BODY_BYTES_AHEAD_MAX: usize = 64 << 10;
/// What is set aside at a time for the rest: what a busy proposer puts into an entry, so that little of
/// it is moved while it comes.
const BODY_BYTES_STEP: usize = 512 << 10;
/// How long nothing may come of a body that has begun: it holds memory meanwhile.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is read at once: heads and small messages. The rest of a larger body is read into its place.
pub(crate) const READ_BUFFER_BYTES: usize = 4 << 10;
/// A part of a body up to this size is copied behind its head: cheaper than a slice of its own.
const COPY_BYTES_MAX: usize = 1 << 10;
/// Bytes that are gathered before they are written: so much waits, however many frames it is.
const GATHERED_BYTES_MAX: usize = 256 << 10;
/// Pieces of one write. Linux: `UIO_MAXIOV` in `include/uapi/linux/uio.h`, less than which a kernel
/// takes at once anyway.
const IO_SLICES_MAX: usize = 64;

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub kind: u8,
    pub request: u32,
    pub body: Bytes,
    /// The memory that it has.
    pub held: Held,
}

/// A body as it goes: its parts are written one after the other, never joined.
pub(crate) type Parts = Vec<Bytes>;

/// Why what came is no frame. The connection cannot go on after it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the connection failed")]
    Io(#[source] io::Error),
    #[error("what came is not of a tidings server (it begins with {found:02x?})")]
    Magic { found: [u8; 2] },
    #[error(
        "the other side speaks TLS and this server does not: set tls_cert, tls_key and tls_ca of \
         peers on all servers, or on none"
    )]
    Tls,
    #[error("frames of version {found} are not known here, only {VERSION}")]
    Version { found: u8 },
    #[error("a message of kind {kind} has {bytes} bytes, {bytes_max} are allowed")]
    TooLarge {
        kind: u8,
        bytes: usize,
        bytes_max: usize,
    },
    #[error("a message of kind {kind} was damaged on its way")]
    Checksum { kind: u8 },
    #[error("the connection ended within a message")]
    Cut,
    #[error("nothing came for {} s in the middle of a message", BODY_PAUSE_MAX.as_secs())]
    Paused,
    #[error(
        "messages of other servers fill the {} MiB that they may have here together: send again later, \
         or raise peers.buffered_bytes of this server",
        bytes_max >> 20
    )]
    NoRoom { bytes_max: u64 },
}

/// The next frame, which is a small one; `None` when the connection has ended between two.
pub(crate) async fn read_small_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<Option<Frame>, FrameError> {
    read_frame(reader, |_| SMALL_BODY_BYTES_MAX, None).await
}

/// The next frame; `None` when the connection has ended between two. `bytes_max` tells how large a
/// body of a kind may be; its memory comes from `purse`.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    bytes_max: impl Fn(u8) -> usize,
    purse: Option<&Purse>,
) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; HEAD_BYTES];
    let first = reader.read(&mut head).await.map_err(FrameError::Io)?;
    if first == 0 {
        return Ok(None);
    }
    read_rest(reader, &mut head[first..]).await?;
    let [m0, m1, version, kind, rest @ ..] = head;
    if m0 == TLS_FIRST_BYTE {
        return Err(FrameError::Tls);
    }
    if [m0, m1] != MAGIC {
        return Err(FrameError::Magic { found: [m0, m1] });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&rest[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    let (request, bytes, crc) = (number(0), number(4) as usize, number(8));
    let bytes_max = bytes_max(kind);
    if bytes > bytes_max {
        return Err(FrameError::TooLarge {
            kind,
            bytes,
            bytes_max,
        });
    }
    let (body, held) = read_body(reader, bytes, purse).await?;
    if crc32fast::hash(&body) != crc {
        return Err(FrameError::Checksum { kind });
    }
    Ok(Some(Frame {
        kind,
        request,
        body: body.into(),
        held,
    }))
}

/// Reads a body of so many bytes. Memory is taken as they come: a little, then a step, then for what has
/// come as much again.
async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    bytes: usize,
    purse: Option<&Purse>,
) -> Result<(Vec<u8>, Held), FrameError> {
    let (mut body, mut held) = (Vec::new(), Held::default());
    while body.len() < bytes {
        let missing = bytes - body.len();
        if body.len() == body.capacity() {
            let more = match body.len() {
                0 => BODY_BYTES_AHEAD_MAX,
                come => come.max(BODY_BYTES_STEP),
            };
            let more = missing.min(more);
            if let Some(purse) = purse {
                held.grow(purse, more).await?;
            }
            body.reserve_exact(more);
        }
        let room = missing.min(body.capacity() - body.len());
        let mut piece = (&mut *reader).take(room as u64);
        let read = time::timeout(BODY_PAUSE_MAX, piece.read_buf(&mut body)).await;
        if read
            .map_err(|_| FrameError::Paused)?
            .map_err(FrameError::Io)?
            == 0
        {
            return Err(FrameError::Cut);
        }
    }
    Ok((body, held))
}

async fn read_rest<R: AsyncRead + Unpin>(
    reader: &mut R,
    rest: &mut [u8],
) -> Result<(), FrameError> {
    match reader.read_exact(rest).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(FrameError::Cut),
        Err(error) => Err(FrameError::Io(error)),
    }
}

/// Writes one frame, and flushes.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    kind: u8,
    request: u32,
    body: &[Bytes],
) -> io::Result<()> {
    let mut frames = FrameWriter::new(writer);
    frames.push(kind, request, body).await?;
    frames.flush().await
}

/// Writes frames, several at once: what is small is gathered, what is large is written from where it
/// lies.
///
/// ```text
/// small   head│a reply│head│a batch's head │head│…
/// pieces  └────────── 0 ──────────────────┘└ a group of commands, shared ┘└── 2 ──…
/// ```
pub(crate) struct FrameWriter<W> {
    writer: W,
    small: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
}

enum Piece {
    /// A range of `small`.
    Small(Range<usize>),
    /// A part of a body.
    Part(Bytes),
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(writer: W) -> FrameWriter<W> {
        FrameWriter {
            writer,
            small: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a frame. It waits for [`FrameWriter::flush`], or until much has gathered.
    pub async fn push(&mut self, kind: u8, request: u32, body: &[Bytes]) -> io::Result<()> {
        self.copy(&head(kind, request, body)?);
        for part in body {
            if part.len() <= COPY_BYTES_MAX {
                self.copy(part);
            } else {
                self.bytes += part.len();
                self.pieces.push(Piece::Part(part.clone()));
            }
        }
        match self.bytes >= GATHERED_BYTES_MAX {
            true => self.write_gathered().await,
            false => Ok(()),
        }
    }

    /// Writes what has gathered, all of it.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.write_gathered().await?;
        self.writer.flush().await
    }

    fn copy(&mut self, bytes: &[u8]) {
        let start = self.small.len();
        self.small.extend_from_slice(bytes);
        let end = self.small.len();
        self.bytes += bytes.len();
        match self.pieces.last_mut() {
            Some(Piece::Small(range)) => range.end = end,
            _ => self.pieces.push(Piece::Small(start..end)),
        }
    }

    async fn write_gathered(&mut self) -> io::Result<()> {
        // the piece that is next, and how much of it is written
        let (mut next, mut begun) = (0, 0);
        while next < self.pieces.len() {
            let mut slices = [IoSlice::new(&[]); IO_SLICES_MAX];
            let pieces = &self.pieces[next..];
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece.bytes(&self.small));
            }
            let slices = &mut slices[..pieces.len().min(IO_SLICES_MAX)];
            slices[0].advance(begun);
            let mut written = self.writer.write_vectored(slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            written += begun;
            while let Some(piece) = self.pieces.get(next) {
                let bytes = piece.bytes(&self.small).len();
                if written < bytes {
                    break;
                }
                written -= bytes;
                next += 1;
            }
            begun = written;
        }
        self.small.clear();
        self.pieces.clear();
        self.bytes = 0;
        Ok(())
    }
}

impl Piece {
    fn bytes<'b>(&'b self, small: &'b [u8]) -> &'b [u8] {
        match self {
            Piece::Small(range) => &small[range.clone()],
            Piece::Part(part) => part,
        }
    }
}

fn head(kind: u8, request: u32, body: &[Bytes]) -> io::Result<[u8; HEAD_BYTES]> {
    let bytes: usize = body.iter().map(Bytes::len).sum();
    if bytes > BODY_BYTES_MAX {
        return Err(io::Error::other(format!(
            "a message of {bytes} bytes is larger than another server takes ({BODY_BYTES_MAX})"
        )));
    }
    let mut crc = crc32fast::Hasher::new();
    body.iter().for_each(|part| crc.update(part));
    let mut head = [0; HEAD_BYTES];
    head[..2].copy_from_slice(&MAGIC);
    head[2] = VERSION;
    head[3] = kind;
    head[4..8].copy_from_slice(&request.to_le_bytes());
    head[8..12].copy_from_slice(&(bytes as u32).to_le_bytes());
    head[12..].copy_from_slice(&crc.finalize().to_le_bytes());
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn written(kind: u8, request: u32, body: &[Bytes]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, kind, request, body).await.unwrap();
        bytes
    }

    async fn read(mut bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        read_frame(&mut bytes, |_| 1000, None).await
    }

    #[tokio::test]
    async fn a_frame_is_pinned_and_read_back() {
        let parts = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        let bytes = written(4, 0x0102, &parts).await;
        let mut pinned = b"td\x01\x04\x02\x01\x00\x00\x03\x00\x00\x00".to_vec();
        pinned.extend_from_slice(&0x3524_41c2u32.to_le_bytes());
        pinned.extend_from_slice(b"abc");
        assert_eq!(bytes, pinned);
        let frame = read(&bytes).await.unwrap().unwrap();
        assert_eq!((frame.kind, frame.request), (4, 0x0102));
        assert_eq!(frame.body, "abc");
        assert!(read(&[]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn frames_written_together_are_those_written_alone() {
        let sizes = [0, 1, COPY_BYTES_MAX, COPY_BYTES_MAX + 1, 3000, 90_000];
        let bodies: Vec<Vec<Bytes>> = (0..IO_SLICES_MAX)
            .map(|number| {
                let size = |at: usize| sizes[(number * 5 + at * 7) % sizes.len()];
                (0..number % 4)
                    .map(|at| vec![number as u8; size(at)].into())
                    .collect()
            })
            .collect();
        let mut alone = Vec::new();
        // a socket that takes a little at a time, beginning and ending anywhere
        let (end, mut other) = tokio::io::duplex(7777);
        let mut together = FrameWriter::new(end);
        let pushed = async {
            for (request, body) in (0..).zip(&bodies) {
                together.push(4, request, body).await.unwrap();
            }
            together.flush().await.unwrap();
            drop(together);
        };
        let mut came = Vec::new();
        let (_, read) = tokio::join!(pushed, other.read_to_end(&mut came));
        read.unwrap();
        for (request, body) in (0..).zip(&bodies) {
            alone.extend(written(4, request, body).await);
        }
        assert!(came == alone);
        let mut reader = tokio::io::BufReader::with_capacity(READ_BUFFER_BYTES, &came[..]);
        for (request, body) in (0..).zip(&bodies) {
            let frame = read_frame(&mut reader, |_| 1 << 20, None)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(frame.request, request);
            assert!(frame.body == body.concat());
        }
    }

    #[tokio::test]
    async fn a_body_larger_than_what_is_set_aside_is_read() {
        let body = Bytes::from(vec![7; 3 * BODY_BYTES_STEP + 5]);
        let bytes = written(4, 1, std::slice::from_ref(&body)).await;
        let read = read_frame(&mut &bytes[..], |_| BODY_BYTES_MAX, None).await;
        assert!(read.unwrap().unwrap().body == body);
        let cut = read_frame(&mut &bytes[..bytes.len() - 1], |_| BODY_BYTES_MAX, None).await;
        assert!(matches!(cut, Err(FrameError::Cut)));
    }

    #[tokio::test]
    async fn other_bytes_are_refused() {
        let whole = written(4, 1, &[Bytes::from_static(b"abc")]).await;
        for end in 1..whole.len() {
            assert!(matches!(read(&whole[..end]).await, Err(FrameError::Cut)));
        }
        let changed = |at: usize| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x80;
            bytes
        };
        assert!(matches!(
            read(&changed(0)).await,
            Err(FrameError::Magic { .. })
        ));
        assert!(matches!(
            read(&changed(2)).await,
            Err(FrameError::Version { found: 0x81 })
        ));
        assert!(matches!(
            read(&changed(11)).await,
            Err(FrameError::TooLarge { .. })
        ));
        for at in [12, 16, 18] {
            assert!(matches!(
                read(&changed(at)).await,
                Err(FrameError::Checksum { kind: 4 })
            ));
        }
    }

    /// What was announced takes no memory, only what has come; and it is given back.
    #[tokio::test(start_paused = true)]
    async fn memory_is_taken_as_bytes_come() {
        const MIB: usize = 1 << 20;
        let room = super::super::room::Room::new(3 * MIB);
        let purse = room.purse();
        let whole = written(4, 1, &[vec![7; 2 * MIB].into()]).await;
        let read = |bytes: Vec<u8>| {
            let purse = purse.clone();
            async move {
                let (mut writer, mut reader) = tokio::io::duplex(MIB);
                let writing = tokio::spawn(async move {
                    writer.write_all(&bytes).await.unwrap();
                    time::sleep(2 * BODY_PAUSE_MAX).await;
                });
                let frame = read_frame(&mut reader, |_| 300 * MIB, Some(&purse)).await;
                writing.abort();
                frame
            }
        };
        let announced = tokio::spawn(read(whole[..HEAD_BYTES + 10].to_vec()));
        time::sleep(BODY_PAUSE_MAX / 2).await;
        assert_eq!(room.bytes(), 0, "64 KiB of its own");
        let paused = announced.await.unwrap();
        assert!(matches!(paused, Err(FrameError::Paused)), "{paused:?}");

        let first = read(whole.clone()).await.unwrap().unwrap();
        assert_eq!(first.body.len(), 2 * MIB);
        assert!(room.bytes() as usize >= MIB, "{}", room.bytes());
        let refused = read(whole.clone()).await;
        assert!(
            matches!(refused, Err(FrameError::NoRoom { .. })),
            "{refused:?}"
        );
        drop(first);
        assert_eq!(room.bytes(), 0);
        assert!(read(whole).await.unwrap().is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            begins_well in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if begins_well && bytes.len() > 3 {
                bytes[..3].copy_from_slice(b"td\x01");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&bytes));
        }
    }
}
