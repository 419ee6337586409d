//! Bytes that leave the process in one direction: to a pipe, a socket or a file, from its current position on.
//!
//! Bytes of files go by the kernel alone where it does that: by `splice` into a pipe, by `copy_file_range` into a file,
//! by `sendfile` into a socket and whatever else takes it. They are never in this process then, which so cannot check
//! them either. Where the kernel refuses they are read and written, and both are counted. What is only read and written
//! is also how it is found out what is wrong: a call with two ends does not say which of them has failed.
//!
//! Nothing is buffered here, so whatever else writes to the same descriptor does not come in between what was written
//! before and after. A descriptor that does not block is waited for.

use std::io::{ErrorKind, IsTerminal};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::{Error, File, Operation, Result};

/// The piece that is read and written at once.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// A way from one descriptor to another inside the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere there is none"))]
enum Way {
    CopyRange,
    Splice,
    SendFile,
}

/// Bytes on their way out. See the module.
///
/// ```
/// use std::io::Read;
/// use std::os::fd::AsFd;
/// use std::path::Path;
/// use terrace_io::{FileSystem, OpenMode, OsFileSystem, OutputStream};
/// # fn main() -> terrace_io::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// let file = OsFileSystem.open(&directory.path().join("a"), OpenMode::CreateNew)?;
/// file.write_at(b"terrace", 0)?;
/// let (mut reader, writer) = std::io::pipe().unwrap();
/// let mut stream = OutputStream::new(writer.as_fd(), Path::new("the pipe"))?;
/// stream.write_all(b"a ")?;
/// assert_eq!(stream.send(&*file, 0, 7)?, 7);
/// assert_eq!(stream.position(), 9);
/// drop(writer);
/// let mut text = String::new();
/// reader.read_to_string(&mut text).unwrap();
/// assert_eq!(text, "a terrace");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OutputStream<'a> {
    out: BorrowedFd<'a>,
    path: PathBuf,
    position: u64,
    /// Those that are left to try, the best one last.
    ways: Vec<Way>,
    buffer: Vec<u8>,
    bytes_in_kernel: u64,
    bytes_through_memory: u64,
}

impl<'a> OutputStream<'a> {
    /// A stream into `out`, which errors call `path`. [`Error::InvalidArgument`] if it is a terminal: these are no bytes
    /// for people.
    pub fn new(out: BorrowedFd<'a>, path: &Path) -> Result<OutputStream<'a>> {
        if out.is_terminal() {
            let what = format!("{} is a terminal: send it to a file, a pipe or a socket", path.display());
            return Err(Error::invalid(what));
        }
        Ok(OutputStream {
            out,
            path: path.to_owned(),
            position: 0,
            ways: ways(out),
            buffer: Vec::new(),
            bytes_in_kernel: 0,
            bytes_through_memory: 0,
        })
    }

    /// How many bytes have gone out.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of files that have gone out without having been in this process.
    pub fn bytes_in_kernel(&self) -> u64 {
        self.bytes_in_kernel
    }

    /// Bytes of files that were read and written by this process.
    pub fn bytes_through_memory(&self) -> u64 {
        self.bytes_through_memory
    }

    /// Writes all of `bytes`. After an error nobody knows how many have gone out.
    pub fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.waited(|out| rustix::io::write(out, bytes)) {
                Ok(0) => return Err(self.failed(ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.position += written as u64;
                    bytes = &bytes[written..];
                }
                Err(errno) => return Err(self.failed(errno.into())),
            }
        }
        Ok(())
    }

    /// Sends up to `len` bytes of a file, from `offset` on. Says how many: fewer than asked for, down to 0 at the end of
    /// the file.
    pub fn send(&mut self, file: &dyn File, offset: u64, len: u64) -> Result<u64> {
        if let Some(source) = file.descriptor() {
            while let Some(&way) = self.ways.last() {
                match self.waited(|out| send_in_kernel(way, source, out, offset, len)) {
                    Ok(sent) if sent > 0 => {
                        self.position += sent as u64;
                        self.bytes_in_kernel += sent as u64;
                        return Ok(sent as u64);
                    }
                    // Refused, failed, or nothing to send: reading and writing will tell.
                    _ => drop(self.ways.pop()),
                }
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len.min(PIECE_BYTES_MAX) as usize, 0);
        let read = file.read_at(&mut buffer, offset)?;
        self.write_all(&buffer[..read])?;
        self.buffer = buffer;
        self.bytes_through_memory += read as u64;
        Ok(read as u64)
    }

    /// Repeats a call that a signal interrupted, and one that could not go on without waiting.
    fn waited(
        &self,
        mut call: impl FnMut(BorrowedFd<'a>) -> rustix::io::Result<usize>,
    ) -> rustix::io::Result<usize> {
        loop {
            match call(self.out) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    match rustix::event::poll(&mut [PollFd::new(&self.out, PollFlags::OUT)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(errno),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::io(&self.path, Operation::Write, source)
    }
}

/// The ways that a descriptor may take, by what it is, the best one last.
#[cfg(target_os = "linux")]
fn ways(out: BorrowedFd<'_>) -> Vec<Way> {
    use rustix::fs::FileType;
    let kind = rustix::fs::fstat(out).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::RegularFile) => vec![Way::SendFile, Way::CopyRange],
        Ok(FileType::Fifo) => vec![Way::SendFile, Way::Splice],
        _ => vec![Way::SendFile],
    }
}

#[cfg(not(target_os = "linux"))]
fn ways(_out: BorrowedFd<'_>) -> Vec<Way> {
    Vec::new()
}

#[cfg(target_os = "linux")]
fn send_in_kernel(
    way: Way,
    source: BorrowedFd<'_>,
    out: BorrowedFd<'_>,
    mut offset: u64,
    len: u64,
) -> rustix::io::Result<usize> {
    use rustix::pipe::{SpliceFlags, splice};
    let (from, len) = (Some(&mut offset), usize::try_from(len).unwrap_or(usize::MAX));
    match way {
        Way::CopyRange => rustix::fs::copy_file_range(source, from, out, None, len),
        Way::Splice => splice(source, from, out, None, len, SpliceFlags::empty()),
        Way::SendFile => rustix::fs::sendfile(out, source, from, len),
    }
}

#[cfg(not(target_os = "linux"))]
fn send_in_kernel(
    _way: Way,
    _source: BorrowedFd<'_>,
    _out: BorrowedFd<'_>,
    _offset: u64,
    _len: u64,
) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::{FileSystem, MemoryFileSystem, OpenMode, OsFileSystem};

    const LEN: usize = 3 << 20;

    fn bytes() -> Vec<u8> {
        (0..LEN as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn source(fs: &dyn FileSystem, path: &Path) -> Arc<dyn File> {
        let file = fs.open(path, OpenMode::CreateNew).unwrap();
        crate::write_all_at(&*file, &bytes(), 0).unwrap();
        file
    }

    /// Sends something, all of a file from byte 5 on, and something again. Says how many bytes went which way.
    fn send_all(out: BorrowedFd<'_>, file: &dyn File) -> (u64, u64) {
        let mut stream = OutputStream::new(out, Path::new("out")).unwrap();
        stream.write_all(b"before").unwrap();
        let mut offset = 5;
        loop {
            let sent = stream.send(file, offset, LEN as u64).unwrap();
            offset += sent;
            if sent == 0 {
                break;
            }
        }
        stream.write_all(b"after").unwrap();
        assert_eq!((offset, stream.position()), (LEN as u64, LEN as u64 - 5 + 11));
        (stream.bytes_in_kernel(), stream.bytes_through_memory())
    }

    #[track_caller]
    fn assert_came(found: &[u8]) {
        assert!(found == [b"before", &bytes()[5..], b"after"].concat(), "other bytes came");
    }

    /// Through `reader`, on a thread of its own, while `send` sends.
    fn through(mut reader: impl Read + Send, send: impl FnOnce() -> (u64, u64)) -> (u64, u64) {
        std::thread::scope(|scope| {
            let received = scope.spawn(move || {
                let mut found = Vec::new();
                reader.read_to_end(&mut found).unwrap();
                found
            });
            let ways = send();
            assert_came(&received.join().unwrap());
            ways
        })
    }

    const IN_KERNEL: (u64, u64) =
        if cfg!(target_os = "linux") { (LEN as u64 - 5, 0) } else { (0, LEN as u64 - 5) };

    #[test]
    fn files_go_into_pipes_and_sockets_in_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let file = source(&OsFileSystem, &directory.path().join("a"));
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(
            through(reader, || send_all(std::os::fd::OwnedFd::from(writer).as_fd(), &*file)),
            IN_KERNEL
        );
        for nonblocking in [false, true] {
            let (reader, writer) = UnixStream::pair().unwrap();
            writer.set_nonblocking(nonblocking).unwrap();
            assert_eq!(
                through(reader, || send_all(std::os::fd::OwnedFd::from(writer).as_fd(), &*file)),
                IN_KERNEL
            );
        }
    }

    /// What is appended to refuses both of the calls that a file takes.
    #[test]
    fn files_go_into_files_and_what_refuses_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = source(&OsFileSystem, &directory.path().join("a"));
        let mut out = tempfile::tempfile_in(directory.path()).unwrap();
        out.write_all(b"what was there: ").unwrap();
        assert_eq!(send_all(out.as_fd(), &*file), IN_KERNEL);
        let mut found = Vec::new();
        out.rewind().unwrap();
        out.read_to_end(&mut found).unwrap();
        assert_came(found.strip_prefix(b"what was there: ").unwrap());

        let path = directory.path().join("appended");
        let out = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        assert_eq!(send_all(out.as_fd(), &*file), (0, LEN as u64 - 5));
        assert_came(&std::fs::read(&path).unwrap());
    }

    #[test]
    fn what_has_no_descriptor_is_written() {
        let file = source(&MemoryFileSystem::new(), Path::new("a"));
        let (reader, writer) = std::io::pipe().unwrap();
        let ways = through(reader, || send_all(std::os::fd::OwnedFd::from(writer).as_fd(), &*file));
        assert_eq!(ways, (0, LEN as u64 - 5));
    }

    #[test]
    fn a_reader_that_has_gone_is_an_error_of_the_stream() {
        let directory = tempfile::tempdir().unwrap();
        let file = source(&OsFileSystem, &directory.path().join("a"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut stream = OutputStream::new(writer.as_fd(), Path::new("the pipe")).unwrap();
        match stream.send(&*file, 0, 100).unwrap_err() {
            Error::Io { path, operation: Operation::Write, source } => {
                assert_eq!((path.as_path(), source.kind()), (Path::new("the pipe"), ErrorKind::BrokenPipe));
            }
            error => panic!("{error:?}"),
        }
    }
}
