//! One entry's headers: a ustar block, and before it a pax record block for what ustar cannot say.

use crate::vault::tree::Time;

/// The block of tar.
pub const BLOCK: usize = 512;

/// What a ustar header says; what does not fit goes into pax records.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// The path, relative, with a slash at the end for directories.
    pub path: Vec<u8>,
    /// Type flag.
    pub kind: u8,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name.
    pub user: Vec<u8>,
    /// Group's name.
    pub group: Vec<u8>,
    /// Bytes that follow.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Device numbers.
    pub device: Option<(u32, u32)>,
    /// Further pax records.
    pub records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    /// The header's blocks.
    pub fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut block = [0u8; BLOCK];
        match split(&self.path) {
            Some((prefix, name)) => {
                put(&mut block, 0, name);
                put(&mut block, 345, prefix);
            }
            None => {
                records.push((b"path".to_vec(), self.path.clone()));
                put(&mut block, 0, &self.path[..self.path.len().min(100)]);
            }
        }
        if self.link.len() > 100 {
            records.push((b"linkpath".to_vec(), self.link.clone()));
        }
        put(&mut block, 157, &self.link[..self.link.len().min(100)]);
        octal(&mut block, 100, 7, self.mode.into());
        for (at, width, name, value) in
            [(108, 7, "uid", u64::from(self.uid)), (116, 7, "gid", self.gid.into()), (124, 11, "size", self.size)]
        {
            if !octal(&mut block, at, width, value) {
                records.push((name.into(), value.to_string().into_bytes()));
            }
        }
        let whole = u64::try_from(self.mtime.sec).ok().filter(|_| self.mtime.nsec == 0);
        if !whole.is_some_and(|sec| octal(&mut block, 136, 11, sec)) {
            records.push((b"mtime".to_vec(), decimal(self.mtime).into_bytes()));
            octal(&mut block, 136, 11, u64::try_from(self.mtime.sec).unwrap_or(0).min(0o77_777_777_777));
        }
        block[156] = self.kind;
        put(&mut block, 257, b"ustar\x0000");
        for (at, name, value) in [(265, "uname", &self.user), (297, "gname", &self.group)] {
            if value.len() > 31 {
                records.push((name.into(), value.clone()));
            } else {
                put(&mut block, at, value);
            }
        }
        let (major, minor) = self.device.unwrap_or_default();
        octal(&mut block, 329, 7, major.into());
        octal(&mut block, 337, 7, minor.into());
        checksum(&mut block);
        records.extend(self.records.iter().cloned());
        let mut bytes = if records.is_empty() { Vec::new() } else { pax(&records) };
        bytes.extend_from_slice(&block);
        bytes
    }
}

/// A path as ustar's prefix and name, if it fits.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The slash that parts them must leave something on both sides.
    let from = path.len().checked_sub(101)?;
    let at = (from..path.len().saturating_sub(1).min(156)).find(|i| path[*i] == b'/')?;
    (at > 0 && at <= 155).then(|| (&path[..at], &path[at + 1..]))
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts an octal number of so many digits; `false` and 0 if it does not fit.
fn octal(block: &mut [u8; BLOCK], at: usize, digits: usize, value: u64) -> bool {
    let text = format!("{value:0digits$o}");
    let fits = text.len() == digits;
    put(block, at, if fits { text } else { "0".repeat(digits) }.as_bytes());
    fits
}

fn checksum(block: &mut [u8; BLOCK]) {
    put(block, 148, b"        ");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// Seconds with a fraction, as pax wants them: the number itself, also before 1970.
fn decimal(time: Time) -> String {
    match (time.sec, time.nsec) {
        (sec, 0) => sec.to_string(),
        (sec, nsec) if sec >= 0 => format!("{sec}.{nsec:09}"),
        (sec, nsec) => format!("-{}.{:09}", -(sec + 1), 1_000_000_000 - nsec),
    }
}

/// A pax header with its records.
fn pax(records: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        // " key=value\n" after a length that counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        body.extend_from_slice(format!("{len} ").as_bytes());
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    let head = Header {
        path: b"././@PaxHeader".to_vec(),
        kind: b'x',
        mode: 0o644,
        size: body.len() as u64,
        ..Header::default()
    };
    let mut bytes = head.encode();
    bytes.extend_from_slice(&body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_the_number_itself() {
        assert_eq!(decimal(Time { sec: -2, nsec: 250_000_000 }), "-1.750000000");
        assert_eq!(decimal(Time { sec: -1, nsec: 1 }), "-0.999999999");
        assert_eq!(decimal(Time { sec: 7, nsec: 5 }), "7.000000005");
        assert_eq!(decimal(Time { sec: -7, nsec: 0 }), "-7");
    }

    #[test]
    fn long_paths_are_split_at_a_slash() {
        let path = [&[b'a'; 90][..], b"/", &[b'b'; 100]].concat();
        assert_eq!(split(&path), Some((&path[..90], &path[91..])));
        assert_eq!(split(&[b'a'; 101]), None);
        assert_eq!(split(&[&[b'a'; 156][..], b"/b"].concat()), None);
        assert_eq!(split(&[&[b'a'; 120][..], b"/"].concat()), None);
    }
}
