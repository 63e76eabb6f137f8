//! Bytes of files: parts, holes, ends, and what a hostile record may say.

use std::sync::Arc;

use super::memory::Memory;
use crate::browse::ahead::Pace;
use crate::browse::file::FileMap;
use crate::vault::tree::content::encode_list;
use crate::vault::tree::{Content, Part};

/// A file of three parts and two holes, and its bytes; or of two lists of these.
fn sample(memory: &Memory, lists: bool) -> (FileMap, Vec<u8>) {
    let blobs: Vec<Vec<u8>> =
        [100usize, 50, 150].iter().zip(1u8..).map(|(len, n)| (0..*len).map(|i| (i as u8) ^ n << 5).collect()).collect();
    let part = |blob: &Vec<u8>| Part { id: memory.put(blob.clone()), len: blob.len() as u64 };
    let parts: Vec<Part> = blobs.iter().map(part).collect();
    let list =
        |parts: &[Part]| Part { id: memory.put(encode_list(parts)), len: parts.iter().map(|part| part.len).sum() };
    let content =
        if lists { Content::Lists(vec![list(&parts[..2]), list(&parts[2..])]) } else { Content::Parts(parts) };
    let holes = [(20, 1000), (1100, 4000)];
    let mut bytes = blobs.concat();
    for (offset, len) in holes {
        let tail = bytes.split_off(offset);
        bytes.extend(std::iter::repeat_n(0, len));
        bytes.extend(tail);
    }
    let holes: Vec<(u64, u64)> = holes.iter().map(|(offset, len)| (*offset as u64, *len as u64)).collect();
    let map = FileMap::new(bytes.len() as u64, &holes, &content).unwrap();
    (map, bytes)
}

#[test]
fn any_stretch_reads_as_written() {
    let memory = Memory::default();
    for lists in [false, true] {
        let (map, bytes) = sample(&memory, lists);
        for offset in (0..bytes.len() + 10).step_by(7) {
            for len in [0, 1, 13, 64, 999, 4096, 10_000] {
                let read = map.read(&memory, offset as u64, len as u64).unwrap();
                let from = offset.min(bytes.len());
                assert_eq!(read.bytes(), &bytes[from..(offset + len).min(bytes.len()).max(from)], "{offset} {len}");
            }
        }
    }
}

#[test]
fn data_and_holes_are_found() {
    let memory = Memory::default();
    let (map, bytes) = sample(&memory, false);
    let end = bytes.len() as u64;
    assert_eq!(end, 5300);
    for (offset, data, hole) in [(0, 0, 20), (19, 19, 20), (20, 1020, 20), (1050, 1050, 1100), (5100, 5100, end)] {
        assert_eq!(map.seek(offset, true).unwrap(), data, "{offset}");
        assert_eq!(map.seek(offset, false).unwrap(), hole, "{offset}");
    }
    assert!(map.seek(end, true).is_err() && map.seek(end, false).is_err());
    let hollow = FileMap::new(1 << 40, &[(0, 1 << 40)], &Content::Empty).unwrap();
    assert!(hollow.seek(5, true).is_err());
    assert_eq!(hollow.seek(5, false).unwrap(), 5);
    assert_eq!(hollow.read(&memory, 1 << 39, 3).unwrap().bytes(), [0, 0, 0]);
}

#[test]
fn records_that_do_not_add_up_are_refused() {
    let memory = Memory::default();
    let id = memory.put(vec![1; 10]);
    let part = |len| Content::Parts(vec![Part { id, len }]);
    type Bad = (u64, Vec<(u64, u64)>, Content);
    let bad: [Bad; 5] = [
        (11, vec![], part(10)),
        (10, vec![(8, 4)], part(10)),
        (10, vec![(4, 2), (5, 1)], part(7)),
        (u64::MAX, vec![(u64::MAX, u64::MAX)], part(10)),
        (5, vec![], Content::Parts(vec![Part { id, len: u64::MAX }, Part { id, len: 6 }])),
    ];
    for (size, holes, content) in bad {
        assert!(FileMap::new(size, &holes, &content).is_err(), "{size} {holes:?}");
    }
    // A blob that is shorter or longer than its part.
    for len in [9, 11] {
        let map = FileMap::new(len, &[], &Content::Whole(id)).unwrap();
        assert!(map.read(&memory, 0, 100).is_err());
    }
}

#[test]
fn only_sequential_readers_get_read_ahead() {
    let (mib, size) = (1 << 20, 1 << 30);
    let pace = Pace::default();
    assert_eq!(pace.step(0, mib, size), Some((mib, 2 * mib)));
    assert_eq!(pace.step(mib, mib, size), Some((2 * mib, 4 * mib)));
    assert_eq!(pace.step(2 * mib, mib, size), Some((4 * mib, 7 * mib)));
    assert_eq!(pace.step(500 * mib, mib, size), None);
    assert_eq!(pace.step(100 * mib, mib, size), None);
    assert_eq!(pace.step(101 * mib, mib, size), Some((102 * mib, 103 * mib)));
    let end = Arc::new(Pace::default());
    assert_eq!(end.step(0, mib, mib), None);
}

/// A file of 800 gigabytes in two lists that come over and over: only those that are read are in memory.
#[test]
fn lists_are_read_where_they_are_needed() {
    let memory = Memory::default();
    let part = |n: u8| Part { id: memory.put(vec![n; 1000]), len: 1000 };
    let list = |n: u8| Part { id: memory.put(encode_list(&vec![part(n); 4096])), len: 4_096_000 };
    let lists: Vec<Part> = [list(1), list(2)].repeat(100_000);
    let size = 200_000 * 4_096_000;
    let map = FileMap::new(size, &[], &Content::Lists(lists)).unwrap();
    assert!(map.weight() < 20_000_000);
    for (at, bytes) in [(0, [1, 1]), (4_095_999, [1, 2]), (size / 2 - 1, [2, 1]), (size - 2, [2, 2])] {
        assert_eq!(map.read(&memory, at, 2).unwrap().bytes(), bytes, "{at}");
    }
    // Whoever reads on is ahead of by some, and never by all.
    let (mut wanted, mut at) = (0, 0);
    for _ in 0..100 {
        wanted = map.ahead(&memory, at, 131_072).len().max(wanted);
        at += 131_072;
    }
    assert!((1..=1024 + 4096).contains(&wanted), "{wanted}");
    let liar = Content::Lists(vec![Part { len: 4_096_001, ..list(1) }]);
    let map = FileMap::new(4_096_001, &[], &liar).unwrap();
    assert!(map.read(&memory, 0, 1).is_err());
}
