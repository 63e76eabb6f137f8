//! Compression of a stream by several threads.
//!
//! The stream is cut into pieces that are compressed independently and written in order: frames
//! of zstd and members of gzip may follow one another, and every decompressor takes them as one.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::model::{Error, IoContext, Result};
use crate::restore::Format;

/// What is compressed at a time.
const PIECE: usize = 4 << 20;
const ZSTD_LEVEL: i32 = 3;

type Answer = Result<Vec<u8>>;

/// Compresses what is written to it, and writes that to the stream beneath.
pub struct Compressor {
    piece: Vec<u8>,
    work: Option<crossbeam_channel::Sender<(Vec<u8>, SyncSender<Answer>)>>,
    order: Option<SyncSender<Receiver<Answer>>>,
    threads: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<Result<u64>>>,
}

impl Compressor {
    /// A stream of the given form into `out`.
    pub fn new(format: Format, out: Box<dyn Write + Send>) -> Result<Self> {
        let workers = match format {
            Format::Tar => 1,
            Format::TarGz | Format::TarZst => std::thread::available_parallelism().map_or(2, usize::from).min(8),
        };
        let cannot = |e: std::io::Error| Error::io("cannot start a thread", &e);
        let (work, jobs) = crossbeam_channel::bounded::<(Vec<u8>, SyncSender<Answer>)>(1);
        let (order, answers) = sync_channel::<Receiver<Answer>>(workers + 1);
        let mut threads = Vec::new();
        for _ in 0..workers {
            let jobs = jobs.clone();
            let run = move || {
                for (piece, answer) in jobs {
                    // Whoever asked may be gone, after an error.
                    let _ = answer.send(compress(format, piece));
                }
            };
            threads.push(std::thread::Builder::new().name("export".into()).spawn(run).map_err(cannot)?);
        }
        let write = move || write_all(out, answers);
        let writer = std::thread::Builder::new().name("export".into()).spawn(write).map_err(cannot)?;
        Ok(Self {
            piece: Vec::with_capacity(PIECE),
            work: Some(work),
            order: Some(order),
            threads,
            writer: Some(writer),
        })
    }
}

impl Compressor {
    /// Appends bytes.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let (answer, receiver) = sync_channel(1);
        let sent = self.order.as_ref().is_some_and(|order| order.send(receiver).is_ok())
            && self.work.as_ref().is_some_and(|work| work.send((piece, answer)).is_ok());
        // The writer has ended, and says why.
        if sent { Ok(()) } else { self.end().and(Err(Error::failed("the export's writer ended early"))) }
    }

    /// Writes what is left, and says how many bytes were written in all.
    pub fn finish(&mut self) -> Result<u64> {
        if !self.piece.is_empty() && self.writer.is_some() {
            self.send()?;
        }
        self.end()
    }

    fn end(&mut self) -> Result<u64> {
        (self.work, self.order) = (None, None);
        for thread in self.threads.drain(..) {
            // A worker that died sent no answer, which the writer reports.
            let _ = thread.join();
        }
        let ended = || Error::failed("the export's writer has ended");
        self.writer.take().ok_or_else(ended)?.join().map_err(|_| ended())?
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = self.end();
        }
    }
}

fn write_all(mut out: Box<dyn Write + Send>, answers: Receiver<Receiver<Answer>>) -> Result<u64> {
    let mut written = 0;
    for answer in answers {
        let bytes = answer.recv().map_err(|_| Error::failed("a thread of the export died"))??;
        out.write_all(&bytes).at(|| "cannot write the export")?;
        written += bytes.len() as u64;
    }
    out.flush().at(|| "cannot write the export")?;
    Ok(written)
}

fn compress(format: Format, piece: Vec<u8>) -> Answer {
    match format {
        Format::Tar => Ok(piece),
        Format::TarZst => zstd::bulk::compress(&piece, ZSTD_LEVEL).at(|| "cannot compress"),
        Format::TarGz => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::with_capacity(piece.len() / 2), flate2::Compression::default());
            encoder.write_all(&piece).and_then(|()| encoder.finish()).at(|| "cannot compress")
        }
    }
}
