//! Everything an inode has comes back.

use std::os::unix::fs::MetadataExt;

use super::*;

/// A tree with everything in it that a file system can hold.
pub fn everything(world: &World) {
    sh(
        &world.source(),
        r#"
        mkdir -p dir/empty dir/sticky; chmod 1777 dir/sticky; chmod 2750 dir
        echo plain > plain; : > nothing
        head -c 3000000 /dev/urandom > large; head -c 40000000 /dev/urandom > huge
        echo s > setuid; chown 1234:2345 setuid; chmod 6755 setuid
        echo c > capable; chown 77:88 capable; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 capable
        echo x > xattrs; setfattr -n user.note -v 'a note' xattrs; setfattr -n trusted.deep -v 0x00ff01 xattrs; setfattr -n user.empty xattrs
        setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' x)" xattrs
        echo a > acl; setfacl -m u:1001:rw,g:1002:r,m::rwx acl
        mkdir acls; setfacl -m u:1003:rwx acls; setfacl -d -m u:1004:rx,g:1005:rwx acls; echo inherited > acls/child
        setfattr -n user.dir -v d acls
        ln -s plain link; ln -s /nowhere/at/all dangling; touch -hd '1999-12-31 23:59:59.123456789' dangling; chown -h 5:6 link
        setfattr -h -n trusted.link -v l link
        echo h > hard1; ln hard1 hard2; ln hard1 dir/hard3; ln -s target slink1; ln slink1 slink2
        mkdir -p links/a; echo f > links/z; ln links/z links/a/x
        mknod null c 1 3; chmod 640 null; chown 3:4 null; setfattr -n trusted.dev -v d null; mknod disk b 7 200; mkfifo fifo; chmod 600 fifo
        python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')"
        truncate -s 50M hollow; echo middle | dd of=hollow bs=1M seek=20 conv=notrunc status=none
        truncate -s 10M hole-only; (echo start; ) > tail; truncate -s 5M tail
        touch $'\xff\xfe\x80 not utf-8' $'new\nline' ' ' "$(head -c 255 /dev/zero | tr '\0' n)"
        touch -d '1901-01-01 00:00:00.5' old; touch -d '2200-01-01 00:00:00.000000001' future
        echo d > nodump; chattr +d nodump; echo A > noatime; chattr +A noatime; mkdir flags; chattr +d flags
        echo i > immutable; chattr +i immutable; echo a > append; chattr +a append
        mkdir frozen; echo f > frozen/file; chattr +i frozen; chmod 000 plain
        echo l > locked1; ln locked1 locked2; chattr +i locked1
        touch -d '2001-02-03 04:05:06.789' dir dir/empty links/a links acls .
        "#,
    );
}

/// Makes a tree removable again.
pub fn thaw(world: &World) {
    sh(world.dir.path(), "chattr -R -ia . 2>/dev/null || true");
}

#[test]
fn everything_comes_back() {
    let world = World::new();
    everything(&world);
    let manifest = world.backup();
    assert_eq!(manifest.errors, 0);
    let (restored, outcome) = world.restore_to(&manifest, "target");
    let (a, b) = (portrait(&world.source()), portrait(&restored));
    let differences = differences(&world.source(), &restored);
    let blocks = |path: &str| restored.join(path).metadata().unwrap().blocks();
    let (hollow, hole_only) = (blocks("hollow"), blocks("hole-only"));
    let socket = restored.join("socket").symlink_metadata().unwrap().mode() & 0o170_000;
    thaw(&world);
    assert_eq!(outcome.error_list, []);
    assert_eq!(outcome.files, manifest.totals.entries);
    assert_eq!(differences, "");
    assert!(a == b, "{}", diff(&world, &a, &b));
    assert!(hollow <= 16 && hole_only == 0, "holes were filled: {hollow} {hole_only}");
    assert_eq!(socket, 0o140_000);
}

#[test]
fn a_default_acl_does_not_interfere() {
    let world = World::new();
    sh(&world.source(), "echo plain > plain; chmod 640 plain; mkdir dir; echo p > dir/p");
    let manifest = world.backup();
    let target = world.dir.path().join("target");
    let there = world.beneath(&target);
    std::fs::create_dir_all(&there).unwrap();
    sh(&there, "setfacl -d -m u:1004:rwx .");
    world.restore(&manifest, to(&target)).unwrap();
    assert_eq!(portrait(&world.source()), portrait(&there));
}

#[test]
fn paths_beyond_path_max_and_large_directories() {
    let world = World::new();
    sh(
        &world.source(),
        r#"
        python3 - <<'P'
import os
os.mkdir('many')
for i in range(20000): open(f'many/file-{i:06}', 'w').close()
name = 'd' * 200
for i in range(60):
    os.mkdir(name); os.chdir(name)
open('bottom', 'w').write('deep'); os.link('bottom', 'twin'); os.symlink('bottom', 'link')
os.setxattr('bottom', 'user.deep', b'yes')
P
        "#,
    );
    let manifest = world.backup();
    let (restored, outcome) = world.restore_to(&manifest, "target");
    let check = "import os,sys\nn='d'*200\nos.chdir(sys.argv[1])\n[os.chdir(n) for _ in range(60)]\n\
        print(open('bottom').read(), os.stat('twin').st_ino == os.stat('bottom').st_ino, os.readlink('link'), \
        os.getxattr('bottom','user.deep').decode())";
    let said = Command::new("python3").args(["-c", check]).arg(&restored).output().unwrap();
    let many = std::fs::read_dir(restored.join("many")).unwrap().count();
    sh(world.dir.path(), "rm -rf target source");
    assert_eq!(outcome.error_list, []);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "deep True bottom yes\n");
    assert_eq!(many, 20000);
}

/// The first lines that differ.
pub fn diff(world: &World, a: &str, b: &str) -> String {
    let (x, y) = (world.dir.path().join("a.txt"), world.dir.path().join("b.txt"));
    std::fs::write(&x, a).unwrap();
    std::fs::write(&y, b).unwrap();
    let output = Command::new("diff").args([&x, &y]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).chars().take(4000).collect()
}
