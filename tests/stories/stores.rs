//! "Whatever my backups lie on, it keeps what it is given": one suite for every store, and what
//! happens with one that misbehaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strongroom::model::{Error, ErrorKind};
use strongroom::store::{LocalStore, LoginFile, ObjectStore, Patience, S3Place, S3Store};

use crate::common::proxy::{ALL, LOUD, Proxy};
use crate::common::s3::{Kind, Server, login};
use crate::common::{Dice, eventually};

fn kind_of<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(len);
    data
}

fn keys(store: &dyn ObjectStore, prefix: &str) -> Vec<(String, u64)> {
    let mut list: Vec<_> = store.list(prefix).unwrap().into_iter().map(|o| (o.key, o.size)).collect();
    list.sort();
    list
}

/// What every store must do. `many` is how many small objects it is given.
fn conforms(store: &Arc<dyn ObjectStore>, many: usize, conditional: bool) {
    // Nothing is there.
    assert_eq!(kind_of(store.get("a/none", 10)), ErrorKind::NotFound);
    assert_eq!(kind_of(store.get_range("a/none", 0, 1)), ErrorKind::NotFound);
    assert_eq!(kind_of(store.get_range("a/none", 0, 0)), ErrorKind::NotFound);
    assert_eq!(store.size("a/none").unwrap(), None);
    assert_eq!(store.list("a/").unwrap(), []);
    store.delete("a/none").unwrap();

    // Small ones, and what may be asked of them.
    let small = bytes(1000, 1);
    store.put("a/small", &small).unwrap();
    store.sync().unwrap();
    assert_eq!(store.get("a/small", 1000).unwrap(), small);
    assert_eq!(kind_of(store.get("a/small", 999)), ErrorKind::Damaged);
    assert_eq!(store.size("a/small").unwrap(), Some(1000));
    for (offset, len) in [(0, 1), (0, 1000), (999, 1), (500, 250), (1000, 0), (0, 0)] {
        let there = store.get_range("a/small", offset, len).unwrap();
        assert_eq!(there, small[offset as usize..offset as usize + len], "{offset} {len}");
    }
    for (offset, len) in [(0, 1001), (999, 2), (1000, 1), (5000, 1), (1001, 0)] {
        let result = store.get_range("a/small", offset, len);
        // A place where nothing is read need not be looked at.
        assert!(len == 0 || kind_of(result) == ErrorKind::Damaged, "{offset} {len}");
    }

    // Another content in its place, an empty one, and none.
    store.put("a/small", b"other").unwrap();
    assert_eq!(store.get("a/small", 10).unwrap(), b"other");
    assert_eq!(store.size("a/small").unwrap(), Some(5));
    store.put("a/empty", b"").unwrap();
    assert_eq!(store.get("a/empty", 0).unwrap(), b"");
    assert_eq!(store.size("a/empty").unwrap(), Some(0));
    assert_eq!(keys(&**store, "a/"), [("a/empty".to_owned(), 0), ("a/small".to_owned(), 5)]);
    store.delete("a/small").unwrap();
    store.delete("a/small").unwrap();
    assert_eq!(kind_of(store.get("a/small", 10)), ErrorKind::NotFound);
    store.put("a/small", b"back").unwrap();
    assert_eq!(store.get("a/small", 10).unwrap(), b"back");

    // Only where nothing is, if it can do that; if not, it says so and stores nothing.
    let once = store.put_if_absent("a/once", b"first");
    if conditional {
        assert!(once.unwrap());
        assert!(!store.put_if_absent("a/once", b"second").unwrap());
        assert_eq!(store.get("a/once", 10).unwrap(), b"first");
    } else {
        assert_eq!(kind_of(once), ErrorKind::DestinationFailed);
        assert_eq!(store.size("a/once").unwrap(), None);
    }

    // Large ones: one part, a part and a byte, several parts.
    for (n, len) in [5 << 20, (5 << 20) + 1, 8 << 20, (8 << 20) + 1, 20 << 20].into_iter().enumerate() {
        let data = bytes(len, 2 + n as u64);
        let key = format!("large/{n}");
        store.put(&key, &data).unwrap();
        assert_eq!(store.size(&key).unwrap(), Some(len as u64));
        assert!(store.get(&key, len as u64).unwrap() == data, "{len} bytes");
        let at = len - 70_000;
        assert_eq!(store.get_range(&key, at as u64, 70_000).unwrap(), data[at..]);
    }
    let over = bytes(9 << 20, 9);
    store.put("large/0", &over).unwrap();
    assert!(store.get("large/0", 9 << 20).unwrap() == over, "a large one in place of another");

    // Names that begin alike; what is beneath others.
    for key in ["p/a", "p/ab", "p/a-b", "p/a.b", "p/a_b", "p/sub/a", "p/sub/deep/a", "pa/a", "p-a/a", "p.a/a"] {
        store.put(key, key.as_bytes()).unwrap();
    }
    let list: Vec<_> = keys(&**store, "p/").into_iter().map(|(key, _)| key).collect();
    assert_eq!(list, ["p/a", "p/a-b", "p/a.b", "p/a_b", "p/ab", "p/sub/a", "p/sub/deep/a"]);
    assert_eq!(keys(&**store, "p/sub/").len(), 2);
    assert_eq!(keys(&**store, "pa/").len(), 1);

    // Names that are none.
    for key in ["", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", "A", "a b", "a\0", "é", "a/\n"] {
        assert_eq!(kind_of(store.put(key, b"x")), ErrorKind::InvalidArgument, "{key:?}");
        assert_eq!(kind_of(store.get(key, 1)), ErrorKind::InvalidArgument, "{key:?}");
        assert_eq!(kind_of(store.delete(key)), ErrorKind::InvalidArgument, "{key:?}");
    }

    // More than a page of a listing.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for n in (thread..many).step_by(8) {
                    store.put(&format!("many/{:02x}/{n:05}", n % 256), &n.to_le_bytes()).unwrap();
                }
            });
        }
    });
    let list = keys(&**store, "many/");
    assert_eq!(list.len(), many);
    assert!(list.windows(2).all(|w| w[0].0 < w[1].0) && list.iter().all(|(_, size)| *size == 8));

    // At once: whoever comes last, it is one of them, whole.
    let versions: Vec<Vec<u8>> = (0..4).map(|n| bytes(if n < 2 { 100_000 } else { 6 << 20 }, 100 + n)).collect();
    std::thread::scope(|scope| {
        for data in &versions {
            scope.spawn(|| (0..3).for_each(|_| store.put("race/a", data).unwrap()));
        }
        for _ in 0..8 {
            if let Some(there) = store.get("race/a", 6 << 20).map_or_else(
                |e| {
                    assert_eq!(e.kind, ErrorKind::NotFound, "{e}");
                    None
                },
                Some,
            ) {
                assert!(versions.contains(&there), "{} bytes that nobody put", there.len());
            }
        }
    });
    assert!(versions.contains(&store.get("race/a", 6 << 20).unwrap()));

    store.sync().unwrap();
    assert!(store.space().is_ok());
}

fn open(place: &S3Place, patience: Patience) -> Arc<dyn ObjectStore> {
    Arc::new(S3Store::open(place, patience).unwrap())
}

#[test]
fn a_directory_is_a_store() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::open(dir.path()).unwrap());
    conforms(&store, 2500, true);
    store.sweep().unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn seaweedfs_is_a_store() {
    let Some(server) = Server::start(Kind::Seaweed, "seaweedfs_is_a_store") else { return };
    conforms(&open(&server.place("in/here"), Patience::WORK), 2500, true);
    let (keys, uploads) = server.keys("");
    assert!(keys.iter().all(|key| key.starts_with("in/here/")));
    assert_eq!(uploads, [""; 0], "uploads that nobody completes");
    // Beneath no prefix, and beneath one that begins alike.
    let store = open(&server.place("in/her"), Patience::WORK);
    assert_eq!(store.list("a/").unwrap(), []);
    let whole = open(&server.place(""), Patience::WORK);
    assert_eq!(whole.get("in/here/a/small", 10).unwrap(), b"back");
}

#[test]
fn swift_is_a_store() {
    let Some(server) = Server::start(Kind::Swift, "swift_is_a_store") else { return };
    conforms(&open(&server.place("in/here"), Patience::WORK), 1100, false);
    assert_eq!(server.keys("").1, [""; 0], "uploads that nobody completes");
}

#[test]
fn a14_uploads_that_were_cut_short_are_taken_back_and_those_of_others_are_not() {
    let story = "a14_uploads_that_were_cut_short_are_taken_back_and_those_of_others_are_not";
    let Some(server) = Server::start(Kind::Seaweed, story) else { return };
    let ours = format!("mine/packs/ab/{}", "ab".repeat(32));
    for key in [&ours, "mine/video.mp4", "other/packs/ab/abababababababababababababababababab"] {
        server.leave_upload(key);
    }
    assert_eq!(server.keys("").1.len(), 3);
    open(&server.place("mine"), Patience::WORK).sweep().unwrap();
    let left = server.keys("").1;
    assert!(left.len() == 2 && !left.contains(&ours), "{left:?}");
}

#[test]
fn what_is_wrong_is_said_at_once_and_without_secrets() {
    let story = "what_is_wrong_is_said_at_once_and_without_secrets";
    let Some(mut server) = Server::start(Kind::Seaweed, story) else { return };
    let place = server.place("x");
    let began = Instant::now();
    let told = |place: &S3Place, words: &[&str]| {
        let store = open(place, Patience::WORK);
        for error in [
            store.put("a/b", b"x").unwrap_err(),
            store.get("a/b", 10).unwrap_err(),
            store.list("a/").unwrap_err(),
            store.put(&format!("a/{}", "ab".repeat(32)), &vec![0; 6 << 20]).unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::DestinationFailed, "{error}");
            assert!(words.iter().all(|w| error.message.contains(w)), "{error}");
            assert!(!error.message.contains("hush") && !error.message.contains('\n'), "{error}");
        }
        assert!(!format!("{store:?} {place:?}").contains("hush"));
    };
    let mut wrong = place.clone();
    wrong.login.secret_access_key = "hush".into();
    told(&wrong, &["access was denied", "credentials", "127.0.0.1", "\"bucket\""]);
    wrong.login.access_key_id = "nobody".into();
    told(&wrong, &["access was denied"]);
    let mut elsewhere = place.clone();
    elsewhere.settings.bucket = "nowhere".into();
    told(&elsewhere, &["\"nowhere\""]);
    // None of these is worth waiting for.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());

    // Something that is no S3 store, and a port where nothing is.
    server.kill();
    let short = Patience { total: Duration::from_secs(1), attempt: Duration::from_secs(1) };
    let store = open(&place, short);
    let error = store.get("a/b", 10).unwrap_err();
    assert!(error.kind == ErrorKind::DestinationFailed && error.message.contains("cannot be reached"), "{error}");
    assert!(store.space().unwrap_err().message.contains("cannot be reached"));
    server.start_again();
    assert!(eventually(Duration::from_secs(30), || store.put("a/b", b"again").is_ok()));
    assert!(store.space().is_ok(), "it is well again");
}

#[test]
fn an_authority_of_ones_own_is_trusted_where_it_is_named() {
    let story = "an_authority_of_ones_own_is_trusted_where_it_is_named";
    let Some(server) = Server::start(Kind::Seaweed, story) else { return };
    let (endpoint, authority) = server.secure();
    let mut place = server.place("x");
    place.settings.endpoint = Some(endpoint);
    let error = open(&place, Patience::WORK).put("a/b", b"x").unwrap_err();
    assert_eq!(error.kind, ErrorKind::DestinationFailed);
    assert!(error.message.contains("certificate is not trusted") && error.message.contains("ca_file"), "{error}");
    place.settings.ca_file = Some(authority);
    let store = open(&place, Patience::WORK);
    store.put("a/b", b"x").unwrap();
    let large = bytes(9 << 20, 3);
    store.put("a/large", &large).unwrap();
    assert!(store.get("a/large", 9 << 20).unwrap() == large);
}

#[test]
fn a_bandwidth_is_kept_to() {
    let Some(server) = Server::start(Kind::Seaweed, "a_bandwidth_is_kept_to") else { return };
    let mut place = server.place("x");
    place.settings.bandwidth_limit = Some(4 << 20);
    let store = open(&place, Patience::WORK);
    let data = bytes(10 << 20, 3);
    let began = Instant::now();
    // In parts, which share it.
    store.put("a/b", &data).unwrap();
    // Never faster; how much slower is the machine's affair.
    assert!(began.elapsed() > Duration::from_millis(2300), "{:?}", began.elapsed());
    let began = Instant::now();
    assert!(store.get("a/b", 10 << 20).unwrap() == data);
    assert!(began.elapsed() > Duration::from_millis(2300), "{:?}", began.elapsed());
}

#[test]
fn keys_that_were_changed_are_read_again() {
    let Some(server) = Server::start(Kind::Seaweed, "keys_that_were_changed_are_read_again") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("login");
    let mut place = server.place("x");
    place.login.secret_access_key = "old".into();
    place.file = Some(LoginFile { path: path.clone(), access_key_id: None });
    let store = open(&place, Patience::WORK);
    assert!(store.put("a/b", b"x").is_err());
    sh_private(&path, &login().to_file());
    store.put("a/b", b"x").unwrap();
}

fn sh_private(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_store_behind_a_bad_line_gives_nothing_wrong() {
    let Some(server) = Server::start(Kind::Seaweed, "a_store_behind_a_bad_line_gives_nothing_wrong") else { return };
    let seed = Dice::seed(5);
    let proxy = Proxy::start(server.port, LOUD, seed);
    let mut place = server.place("x");
    place.settings.endpoint = Some(format!("http://127.0.0.1:{}", proxy.port));
    let patience = Patience { total: Duration::from_secs(4), attempt: Duration::from_secs(1) };
    let store = open(&place, patience);
    proxy.misbehave(300);
    let mut dice = Dice::seeded(seed);
    let mut stored = std::collections::BTreeMap::new();
    let (mut failed, mut began) = (0, Instant::now());
    for n in 0..150_u64 {
        let large = dice.roll() < 0.06;
        let data = bytes(if large { 9 << 20 } else { (dice.roll() * 50_000.0) as usize }, n);
        // A put that failed may have been done: then the key holds one of several.
        let key = format!("o/{:064x}", (dice.roll() * 40.0) as u32);
        let put = store.put(&key, &data);
        let versions = stored.entry(key).or_insert_with(Vec::new);
        if put.is_ok() {
            versions.clear();
        } else {
            failed += 1;
        }
        versions.push(data);
        let (key, versions) = stored.iter().nth((dice.roll() * stored.len() as f64) as usize).unwrap();
        match store.get(key, 10 << 20) {
            Ok(there) => assert!(versions.contains(&there), "{key} holds {} bytes that nobody put", there.len()),
            Err(e) if e.kind == ErrorKind::NotFound => assert!(versions.len() > 1 || failed > 0, "{key}: {e}"),
            Err(e) => assert_eq!(e.kind, ErrorKind::DestinationFailed, "{e}"),
        }
        if let Some(whole) = versions.first().filter(|v| versions.len() == 1 && v.len() > 10) {
            match store.get_range(key, 3, whole.len() - 5) {
                Ok(part) => assert!(part == whole[3..whole.len() - 2], "{key}"),
                Err(e) => assert!(matches!(e.kind, ErrorKind::DestinationFailed | ErrorKind::NotFound), "{e}"),
            }
        }
        match store.size(key) {
            Ok(Some(size)) => assert!(versions.iter().any(|v| v.len() as u64 == size), "{key}"),
            Ok(None) => assert!(failed > 0, "{key} is not there"),
            Err(e) => assert_eq!(e.kind, ErrorKind::DestinationFailed, "{e}"),
        }
        // Each of these is bounded by patience; a machine that is busy gets ten times that.
        assert!(began.elapsed() < Duration::from_secs(300), "round {n} took {:?}", began.elapsed());
        began = Instant::now();
    }
    println!("{failed} of 150 puts failed; {:?}", proxy.counts());
    assert!(proxy.counts().len() == LOUD.len(), "not everything happened: {:?}", proxy.counts());
    // Once the line is good, everything is as it was said to be.
    proxy.misbehave(0);
    let list = store.list("o/").unwrap();
    for (key, versions) in &stored {
        match store.get(key, 10 << 20) {
            Ok(there) => {
                assert!(versions.contains(&there), "{key}");
                assert!(list.iter().any(|o| o.key == *key && o.size == there.len() as u64));
            }
            Err(e) => assert!(e.kind == ErrorKind::NotFound && versions.len() > 1, "{key}: {e}"),
        }
    }
    store.sweep().unwrap();
    assert_eq!(server.keys("x/").1, [""; 0]);
}

#[test]
fn flips_on_the_way_are_found_by_the_vault() {
    use strongroom::vault::seal::Class;
    use strongroom::vault::{Compression, MasterKey, NewVault, Secret, Vault, VaultWriter, verify};
    let Some(server) = Server::start(Kind::Seaweed, "flips_on_the_way_are_found_by_the_vault") else { return };
    let seed = Dice::seed(7);
    let proxy = Proxy::start(server.port, ALL, seed);
    let mut place = server.place("v");
    place.settings.endpoint = Some(format!("http://127.0.0.1:{}", proxy.port));
    let patience = Patience { total: Duration::from_secs(4), attempt: Duration::from_secs(1) };
    let store = open(&place, patience);
    let cache = tempfile::tempdir().unwrap();
    let master = MasterKey::random().unwrap();
    let new = NewVault {
        uuid: uuid::Uuid::new_v4(),
        master: Some(master.clone()),
        key_file: Some(Secret::random().unwrap()),
    };
    // The first writes to a server take as long as the machine is busy.
    let slow = Patience { total: Duration::from_secs(120), attempt: Duration::from_secs(40) };
    Vault::create(&*open(&place, slow), &new).unwrap();
    let vault = Vault::open(store, Some(master), cache.path(), 1 << 20).unwrap();
    proxy.misbehave(150);
    let mut stored = Vec::new();
    for round in 0..12_u64 {
        let blobs: Vec<Vec<u8>> = (0..20).map(|n| bytes(60_000, round * 100 + n)).collect();
        let done = VaultWriter::start(&vault, Compression::default()).and_then(|writer| {
            let mut lane = writer.lane(Class::DataPack)?;
            let ids = blobs.iter().map(|blob| lane.put(blob)).collect::<Result<Vec<_>, _>>()?;
            lane.flush()?;
            drop(lane);
            writer.finish().map(|_| ids)
        });
        if let Ok(ids) = done {
            stored.extend(ids.into_iter().zip(blobs));
        }
        for (id, blob) in stored.iter().rev().take(40) {
            if let Ok(read) = vault.read_blob(id) {
                assert!(read[..] == blob[..], "another blob than was stored");
            }
        }
    }
    println!("{} of 240 blobs were stored; {:?}", stored.len(), proxy.counts());
    assert!(stored.len() >= 60, "hardly anything was stored");
    proxy.misbehave(0);
    vault.refresh().unwrap();
    for (id, blob) in &stored {
        assert!(vault.read_blob(id).unwrap()[..] == blob[..]);
    }
    let found = verify(&vault, &[], true, &strongroom::model::Progress::default()).unwrap();
    assert_eq!(found.problem_count, 0, "{:?}", found.problems);
}
