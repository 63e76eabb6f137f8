//! SQLite: a consistent copy by its own `VACUUM INTO`, while others write.
//!
//! The program runs as the owner of the database's file: whoever controls the directory that it is in
//! can lead it only to what they may read anyway.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::scratch::Scratch;
use super::tool::{RunAs, Tool, find, missing};
use super::{Dump, How, Place, Prepared};
use crate::model::{Database, Error, IoContext, Progress, Result};

/// How long other writers are waited for, in milliseconds.
const BUSY: u32 = 120_000;
/// `VACUUM INTO` came with this version.
const OLDEST: (u32, u32) = (3, 27);
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A copy to be made.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
    program: PathBuf,
    owner: RunAs,
    token: String,
}

/// A copy that was made; it goes when this does.
#[derive(Debug)]
pub struct Copied {
    file: File,
    _scratch: Scratch,
}

/// The program of SQLite, of a version that can do what is asked of it.
pub fn program(progress: &Arc<Progress>) -> Result<PathBuf> {
    let program = find("sqlite3", &[]).ok_or_else(|| missing("sqlite3", "sqlite3"))?;
    let said = Tool::new(&program, RunAs::us()).arg("--version").output(b"", progress)?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut numbers = said.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(Error::invalid_state(format!(
            "sqlite3 is of version {said:?}, and {}.{} or newer is needed; install that",
            OLDEST.0, OLDEST.1
        )));
    }
    Ok(program)
}

/// A call of the program on a file that must be there. Other users' wishes (`.sqliterc`) do not count.
pub fn tool(program: &Path, path: &Path, owner: RunAs) -> Tool {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri.push_str("?mode=rw");
    Tool::new(program, owner)
        .args(["-batch", "-bail", "-init", "/dev/null", "-cmd", &format!(".timeout {BUSY}")])
        .arg(uri)
}

/// A text as SQL has it.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Who owns a database's file.
pub fn owner(path: &Path) -> io::Result<RunAs> {
    let meta = std::fs::metadata(path)?;
    Ok(RunAs { uid: meta.uid(), gid: meta.gid() })
}

/// Checks that there is a database, and that it can be read.
pub fn prepare(database: &Database, token: &str, prepared: &mut Prepared, progress: &Arc<Progress>) -> Result<()> {
    let title = database.title();
    let program = program(progress).map_err(|e| e.context(&title))?;
    let path = database.path.clone().unwrap_or_default();
    let wrong = |why: String| Error::invalid_state(format!("{title} cannot be backed up: {why}"));
    let owner = owner(&path).map_err(|e| wrong(e.to_string()))?;
    // Not waiting for a writer, where it is a pipe.
    let open = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
    let file = open.map_err(|e| wrong(e.to_string()))?;
    if !file.metadata().at(|| "cannot look at it")?.is_file() {
        return Err(wrong("it is not a plain file".into()));
    }
    let mut head = Vec::new();
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(|e| wrong(e.to_string()))?;
    // An empty file is an empty database.
    if !head.is_empty() && head != MAGIC {
        return Err(wrong("it is no database of SQLite, or an encrypted one".into()));
    }
    let question = b"SELECT count(*) FROM sqlite_master;";
    tool(&program, &path, owner).output(question, progress).map_err(|e| wrong(e.message))?;
    let index = prepared.dumps.len();
    let copy = Copy { path, program, owner, token: format!("{token}-{index}") };
    prepared.dumps.push(Dump { place: Place::file(database), how: How::Copy(copy) });
    Ok(())
}

impl Copy {
    /// Makes the copy.
    pub fn make(&self, progress: &Arc<Progress>) -> Result<Copied> {
        let scratch = Scratch::new(&self.token, self.owner)?;
        let path = scratch.file("copy.sqlite");
        let statement = format!("VACUUM INTO {};", literal(&path.to_string_lossy()));
        tool(&self.program, &self.path, self.owner)
            .output(statement.as_bytes(), progress)
            .map_err(|e| e.context(format!("the SQLite database at {} could not be copied", self.path.display())))?;
        // It lies in a directory that only its owner can change, who could have put anything there.
        let file = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(&path);
        let file = file.at(|| "cannot open the copy")?;
        if !file.metadata().at(|| "cannot look at the copy")?.is_file() {
            return Err(Error::failed("the copy is not a plain file"));
        }
        Ok(Copied { file, _scratch: scratch })
    }
}

impl Read for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Copied {
    /// Whatever was read of it was there.
    #[allow(clippy::unused_self)]
    pub fn finish(self) -> Result<()> {
        Ok(())
    }
}
