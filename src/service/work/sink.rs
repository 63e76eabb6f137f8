//! Writing into a descriptor that somebody else reads from, at their pace: a reader who stops
//! holds up the job, but never keeps it from being cancelled.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use crate::model::{IoContext, Progress, Result};

/// How long a wait lasts before the cancel flag is looked at again, in milliseconds.
const PATIENCE: u16 = 200;

enum Way {
    /// A file, or anything else that does not keep a writer waiting for a reader.
    Plain(File),
    /// A pipe, opened again so that not waiting is our own affair and not the caller's.
    Pipe(File),
    /// A socket.
    Socket(Arc<OwnedFd>),
}

/// A descriptor as a writer.
pub(super) struct Sink {
    way: Way,
    progress: Arc<Progress>,
}

impl Sink {
    /// Writes to `fd` until the job is cancelled.
    pub fn new(fd: Arc<OwnedFd>, progress: Arc<Progress>) -> Result<Self> {
        let what = || "the descriptor to export to cannot be used";
        let file = File::from(fd.try_clone().at(what)?);
        let kind = file.metadata().at(what)?.file_type();
        let way = if kind.is_fifo() {
            let again = OpenOptions::new()
                .write(true)
                .custom_flags(nix::libc::O_NONBLOCK)
                .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            // Without root's rights or /proc it cannot be opened again, and the writer waits.
            again.map_or(Way::Plain(file), Way::Pipe)
        } else if kind.is_socket() {
            Way::Socket(fd)
        } else {
            Way::Plain(file)
        };
        Ok(Self { way, progress })
    }

    /// Waits until there is room, or the job is cancelled.
    fn wait(&self) -> io::Result<()> {
        let fd = match &self.way {
            Way::Plain(file) | Way::Pipe(file) => file.as_fd(),
            Way::Socket(fd) => fd.as_fd(),
        };
        loop {
            if self.progress.is_cancelled() {
                return Err(io::Error::other("the job was cancelled"));
            }
            let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::from(PATIENCE)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match &mut self.way {
                Way::Plain(file) => return file.write(bytes),
                Way::Pipe(file) => file.write(bytes),
                Way::Socket(fd) => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    send(fd.as_raw_fd(), bytes, flags).map_err(io::Error::from)
                }
            };
            match written {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_takes_everything_at_its_readers_pace() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut sink = Sink::new(Arc::new(write), Arc::default()).unwrap();
        let data: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = data.clone();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::from(read).read_to_end(&mut all).unwrap();
            all
        });
        sink.write_all(&data).unwrap();
        drop(sink);
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[test]
    fn a_reader_who_stops_does_not_keep_the_job() {
        let (_read, write) = nix::unistd::pipe().unwrap();
        let progress: Arc<Progress> = Arc::default();
        let mut sink = Sink::new(Arc::new(write), Arc::clone(&progress)).unwrap();
        let cancel = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            progress.cancel();
        });
        assert!(sink.write_all(&vec![0; 10_000_000]).is_err());
        cancel.join().unwrap();
    }
}
