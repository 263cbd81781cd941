//! Request bodies that are too large for memory: files without a name, bounded together.
//!
//! A file is unlinked as soon as it is made, so that nothing is left of it when the process ends, however it ends. It is
//! written and read in pieces, by the runtime's blocking threads and by few of them at a time: whoever waits for a slow
//! disk waits with one piece in memory. What the system still has in memory is read without a thread, where it can say so.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::budget::{Budget, Reserved};

/// How much of a request's body is held in memory before it goes to a file.
pub const IN_MEMORY_BYTES: usize = 64 << 10;

/// How much of a file is read at once.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// What a body in a file takes of the memory: its end, and a piece on its way there or back.
pub const BESIDE_FILE_BYTES: usize = IN_MEMORY_BYTES + PIECE_BYTES;

/// How many pieces are written and read at a time.
const MAX_OPERATIONS: usize = 8;

/// How often a name is tried that somebody else has.
const MAX_NAMES: usize = 8;

/// A folder for the bodies of requests, and how many bytes they may take together. Clones share both.
///
/// ```
/// use onceproxy::http::spool::Spool;
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{IdempotencyLayer, Ledger, Policy};
///
/// # fn main() -> std::io::Result<()> {
/// let spool = Spool::open(std::env::temp_dir(), 10 << 30)?;
/// let uploads = Policy { max_request_body: 1 << 30, ..Policy::required() };
/// let layer = IdempotencyLayer::new(Ledger::new(MemoryStore::new())).policy(uploads).spool(spool.clone());
/// assert_eq!(spool.used_bytes(), 0);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    max_bytes: usize,
    budget: Budget,
    places: Arc<Semaphore>,
}

/// A file of a spool; closed when the last who reads or writes it is gone.
struct SpoolFile {
    spool: Spool,
    /// Taken out by `drop` only.
    open: Option<Open>,
}

/// Closed first, counted as free then: fields are dropped in their order.
struct Open {
    file: File,
    reserved: Mutex<Reserved>,
}

/// A body on its way into a file.
pub(super) struct Spooling {
    spool: Spool,
    file: Option<Arc<SpoolFile>>,
    written_bytes: u64,
}

/// The part of a body that is in a file, read from its start to its end. Clones read on their own.
pub(super) struct Spooled {
    file: Arc<SpoolFile>,
    position: u64,
    end: u64,
    reading: Option<Working<Bytes>>,
}

type Working<T> = JoinHandle<io::Result<T>>;

impl Spool {
    /// Opens a spool of at most so many bytes in a folder.
    ///
    /// # Errors
    /// When no file can be made in the folder.
    pub fn open(folder: impl Into<PathBuf>, max_bytes: u64) -> io::Result<Spool> {
        let folder = folder.into();
        drop(nameless_file(&folder)?);
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX).min(isize::MAX.unsigned_abs());
        let places = Arc::new(Semaphore::new(MAX_OPERATIONS));
        Ok(Spool { shared: Arc::new(Shared { folder, max_bytes, budget: Budget::new(max_bytes), places }) })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// How many bytes lie in files now.
    pub fn used_bytes(&self) -> u64 {
        self.shared.max_bytes.saturating_sub(self.free_bytes()) as u64
    }

    pub(super) fn free_bytes(&self) -> usize {
        self.shared.budget.free_bytes()
    }

    /// Does something with a file on a thread that may wait. It is done whether or not anybody waits for it: who has
    /// its turn and does not come would hold up all the others.
    fn run<T, W>(&self, runtime: &Handle, work: W) -> Working<T>
    where
        T: Send + 'static,
        W: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let in_place = |place: OwnedSemaphorePermit| {
            move || {
                let result = work();
                drop(place);
                result
            }
        };
        let places = self.shared.places.clone();
        match places.clone().try_acquire_owned() {
            Ok(place) => runtime.spawn_blocking(in_place(place)),
            Err(_) => runtime.spawn(async move {
                let place = places.acquire_owned().await.expect("the semaphore is never closed");
                ended(spawn_blocking(in_place(place)).await)
            }),
        }
    }
}

fn ended<T>(result: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Spooling {
    pub(super) fn new(spool: Spool) -> Spooling {
        Spooling { spool, file: None, written_bytes: 0 }
    }

    /// Writes chunks behind those that are written already. After an error it is as if they had not been given.
    ///
    /// Their room in memory is lent and comes back: who does not wait for the end leaves both behind until then.
    pub(super) async fn write(&mut self, chunks: Vec<Bytes>, room: Reserved) -> io::Result<Reserved> {
        let bytes = chunks.iter().map(Bytes::len).sum();
        let reserved = self.spool.shared.budget.reserve(bytes).ok_or_else(used_up)?;
        let (spool, file, begin) = (self.spool.clone(), self.file.clone(), self.written_bytes);
        let writing = self.spool.run(&Handle::current(), move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(SpoolFile::make(spool)?),
            };
            file.write(&chunks, begin, reserved)?;
            drop(chunks);
            Ok((file, room))
        });
        let (file, room) = ended(writing.await)?;
        self.file = Some(file);
        self.written_bytes += bytes as u64;
        Ok(room)
    }

    /// What was written, to be read; `None` when that is nothing.
    pub(super) fn finish(self) -> Option<Spooled> {
        let file = self.file.filter(|_| self.written_bytes > 0)?;
        Some(Spooled { file, position: 0, end: self.written_bytes, reading: None })
    }
}

impl Spooled {
    /// How many bytes are to come.
    pub(super) fn left_bytes(&self) -> u64 {
        self.end - self.position
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Ok(length) = usize::try_from(self.left_bytes().min(PIECE_BYTES as u64)) else { return Poll::Ready(None) };
        if length == 0 {
            return Poll::Ready(None);
        }
        let reading = match &mut self.reading {
            Some(reading) => reading,
            // Taken here, where it is given back: what one thread takes and another gives back piles up in between.
            None => match self.file.read_at_once(self.position, BytesMut::zeroed(length)) {
                Ok(piece) => return Poll::Ready(Some(Ok(self.advance(piece)))),
                Err(piece) => {
                    let (file, position) = (self.file.clone(), self.position);
                    let reading = self.file.spool.run(&Handle::current(), move || file.read(position, piece));
                    self.reading.insert(reading)
                }
            },
        };
        let read = ended(ready!(Pin::new(reading).poll(cx)));
        self.reading = None;
        Poll::Ready(Some(read.map(|piece| self.advance(piece))))
    }

    fn advance(&mut self, piece: Bytes) -> Bytes {
        self.position += piece.len() as u64;
        piece
    }
}

impl Clone for Spooled {
    fn clone(&self) -> Spooled {
        Spooled { file: self.file.clone(), position: self.position, end: self.end, reading: None }
    }
}

impl SpoolFile {
    fn make(spool: Spool) -> io::Result<SpoolFile> {
        let reserved = Mutex::new(spool.shared.budget.reserve_none());
        let open = Open { file: nameless_file(&spool.shared.folder)?, reserved };
        Ok(SpoolFile { spool, open: Some(open) })
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("it is open until it is dropped")
    }

    fn write(&self, chunks: &[Bytes], begin: u64, reserved: Reserved) -> io::Result<()> {
        self.open().reserved.lock().unwrap_or_else(PoisonError::into_inner).join(reserved);
        let mut position = begin;
        for chunk in chunks {
            place::write_all(&self.open().file, chunk, position)?;
            position += chunk.len() as u64;
        }
        Ok(())
    }

    /// Reads as much of a piece as there is without waiting for a disk; gives it back when that is nothing.
    fn read_at_once(&self, position: u64, mut piece: BytesMut) -> Result<Bytes, BytesMut> {
        match place::read_at_once(&self.open().file, &mut piece, position) {
            0 => Err(piece),
            read => {
                piece.truncate(read);
                Ok(piece.freeze())
            }
        }
    }

    fn read(&self, position: u64, mut piece: BytesMut) -> io::Result<Bytes> {
        place::read_exact(&self.open().file, &mut piece, position)?;
        Ok(piece.freeze())
    }
}

/// To free a large file's blocks takes time: not the runtime's.
impl Drop for SpoolFile {
    fn drop(&mut self) {
        let open = self.open.take();
        match Handle::try_current() {
            Ok(runtime) => drop(self.spool.run(&runtime, move || {
                drop(open);
                Ok(())
            })),
            Err(_) => drop(open),
        }
    }
}

fn used_up() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, "the bodies of other requests take all the room of the spool")
}

/// Makes a file that only this process can reach.
fn nameless_file(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    for _ in 0..MAX_NAMES {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the operating system has random bytes");
        let path = folder.join(format!(".onceproxy-{:016x}", u64::from_ne_bytes(random)));
        match options.open(&path) {
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writing and reading at a place in a file, which has no position of its own then.
#[cfg(unix)]
mod place {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;

    /// How much was read; nothing also where the system or the file's kind cannot say what it has.
    #[cfg(target_os = "linux")]
    pub(super) fn read_at_once(file: &File, bytes: &mut [u8], position: u64) -> usize {
        use rustix::io::{ReadWriteFlags, preadv2};
        preadv2(file, &mut [io::IoSliceMut::new(bytes)], position, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read_at_once(_: &File, _: &mut [u8], _: u64) -> usize {
        0
    }

    pub(super) fn write_all(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
        file.write_all_at(bytes, position)
    }

    pub(super) fn read_exact(file: &File, bytes: &mut [u8], position: u64) -> io::Result<()> {
        file.read_exact_at(bytes, position)
    }
}

#[cfg(windows)]
mod place {
    use std::fs::File;
    use std::io;
    use std::os::windows::fs::FileExt;

    pub(super) fn read_at_once(_: &File, _: &mut [u8], _: u64) -> usize {
        0
    }

    pub(super) fn write_all(file: &File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = file.seek_write(bytes, position)?;
            bytes = &bytes[written..];
            position += written as u64;
        }
        Ok(())
    }

    pub(super) fn read_exact(file: &File, mut bytes: &mut [u8], mut position: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let read = file.seek_read(bytes, position)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes = &mut bytes[read..];
            position += read as u64;
        }
        Ok(())
    }
}
