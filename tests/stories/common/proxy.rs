//! A proxy between a store and its server that misbehaves on purpose, by dice.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::tools::Dice;

/// How a request may fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mischief {
    /// Not answered for seconds, then cut off.
    Silence,
    /// Cut off before anything is passed on.
    Reset,
    /// Cut off with half of the request read.
    HalfRead,
    /// Answered with 503, and so are the next ones.
    Storm,
    /// Done, but answered with 500.
    DoneButFailed,
    /// Done, but not answered.
    DoneButCut,
    /// The answer ends in the middle.
    Truncated,
    /// One byte of the answer's body is another.
    Flipped,
}

use Mischief::{DoneButCut, DoneButFailed, Flipped, HalfRead, Reset, Silence, Storm, Truncated};

/// Everything but flips, which no store can see without a checksum.
pub const LOUD: &[Mischief] = &[Silence, Reset, HalfRead, Storm, DoneButFailed, DoneButCut, Truncated];
/// Flips too.
pub const ALL: &[Mischief] = &[Silence, Reset, HalfRead, Storm, DoneButFailed, DoneButCut, Truncated, Flipped];

struct Shared {
    upstream: u16,
    repertoire: &'static [Mischief],
    dice: Mutex<Dice>,
    /// The share of requests that fare badly, in thousandths.
    rate: AtomicU32,
    storm: AtomicU32,
    stopped: AtomicBool,
    /// How often each thing happened.
    counts: Mutex<std::collections::BTreeMap<Mischief, u32>>,
}

/// The proxy. It stops when it is dropped.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens for requests to the server at `upstream`.
    pub fn start(upstream: u16, repertoire: &'static [Mischief], seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            upstream,
            repertoire,
            dice: Mutex::new(Dice::seeded(seed)),
            rate: AtomicU32::new(0),
            storm: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            counts: Mutex::default(),
        });
        let ours = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ours.stopped.load(SeqCst) {
                    return;
                }
                let ours = ours.clone();
                std::thread::spawn(move || {
                    let _ = ours.serve(stream);
                });
            }
        });
        Self { port, shared }
    }

    /// Sets the share of requests that fare badly, in thousandths.
    pub fn misbehave(&self, rate: u32) {
        self.shared.rate.store(rate, SeqCst);
        self.shared.storm.store(0, SeqCst);
    }

    /// How often what happened.
    pub fn counts(&self) -> std::collections::BTreeMap<Mischief, u32> {
        self.shared.counts.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One message: its head, and what was read of its body.
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    text.lines().find_map(|l| l.strip_prefix(&format!("{name}:")).map(|v| v.trim().to_owned()))
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(head))
}

impl Shared {
    fn roll(&self) -> Option<Mischief> {
        if self.storm.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Some(Storm);
        }
        let mut dice = self.dice.lock().unwrap();
        if dice.roll() * 1000.0 >= f64::from(self.rate.load(SeqCst)) {
            return None;
        }
        let chosen = self.repertoire[(dice.roll() * self.repertoire.len() as f64) as usize];
        if chosen == Storm {
            self.storm.store((dice.roll() * 4.0) as u32, SeqCst);
        }
        Some(chosen)
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_secs(20)))?;
        while let Some(head) = read_head(&mut client)? {
            let mischief = self.roll();
            if let Some(mischief) = mischief {
                *self.counts.lock().unwrap().entry(mischief).or_default() += 1;
            }
            if mischief == Some(Reset) {
                return Ok(());
            }
            let len: usize = header(&head, "content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut body = vec![0; if mischief == Some(HalfRead) { len / 2 } else { len }];
            client.read_exact(&mut body)?;
            match mischief {
                Some(HalfRead) => return Ok(()),
                Some(Silence) => {
                    std::thread::sleep(Duration::from_secs(2));
                    return Ok(());
                }
                Some(Storm) => {
                    let text =
                        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
                    write!(client, "HTTP/1.1 503 Slow Down\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
                    continue;
                }
                _ => {}
            }
            let mut answer = self.ask(&Message { head, body })?;
            match mischief {
                Some(DoneButCut) => return Ok(()),
                Some(DoneButFailed) => {
                    let text = "<Error><Code>InternalError</Code><Message>Please try again.</Message></Error>";
                    write!(client, "HTTP/1.1 500 Sorry\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
                    continue;
                }
                Some(Flipped) if !answer.body.is_empty() => {
                    let at = (self.dice.lock().unwrap().roll() * answer.body.len() as f64) as usize;
                    answer.body[at] ^= 0x40;
                }
                Some(Truncated) => answer.body.truncate(answer.body.len() / 2),
                _ => {}
            }
            client.write_all(&answer.head)?;
            client.write_all(&answer.body)?;
            // The server's answer says that it closes.
            client.shutdown(Shutdown::Write)?;
            return Ok(());
        }
        Ok(())
    }

    /// Passes a request on, and reads the whole answer.
    fn ask(&self, request: &Message) -> std::io::Result<Message> {
        let mut server = TcpStream::connect(("127.0.0.1", self.upstream))?;
        server.set_read_timeout(Some(Duration::from_secs(20)))?;
        let text = String::from_utf8_lossy(&request.head).into_owned();
        let mut lines: Vec<&str> = text.trim_end().split("\r\n").collect();
        lines.retain(|l| {
            let l = l.to_ascii_lowercase();
            !l.starts_with("connection:") && !l.starts_with("expect:")
        });
        server.write_all(lines.join("\r\n").as_bytes())?;
        server.write_all(b"\r\nConnection: close\r\n\r\n")?;
        server.write_all(&request.body)?;
        let mut head = read_head(&mut server)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        while head.starts_with(b"HTTP/1.1 1") {
            head = read_head(&mut server)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        }
        let mut body = Vec::new();
        // An answer to HEAD has a length and no body.
        if !text.starts_with("HEAD ") {
            server.read_to_end(&mut body)?;
        }
        Ok(Message { head, body })
    }
}
