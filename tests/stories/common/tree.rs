//! Trees to back up.

use std::os::unix::net::UnixListener;
use std::path::Path;

use super::tools::sh;

/// Makes a tree with every kind of thing that a file system can hold.
pub fn everything(dir: &Path) {
    UnixListener::bind(dir.join("socket")).unwrap();
    sh(
        dir,
        r#"
        mkdir -p a/b/c empty sticky private; chmod 1777 sticky; chmod 700 private
        echo plain > plain; : > nothing; head -c 3000000 /dev/urandom > large; echo deep > a/b/c/deep
        for i in $(seq 300); do echo "file $i" > a/b/$i; done
        echo s > setuid; chown 1234:2345 setuid; chmod 6755 setuid
        cp /bin/true capable; setcap cap_net_raw+ep capable
        echo x > attributes; setfattr -n user.note -v 'a note' attributes; setfattr -n trusted.deep -v 0x00ff01 attributes
        echo a > acl; setfacl -m u:1001:rw,g:1002:r,m::rwx acl
        mkdir acls; setfacl -d -m u:1004:rx,g:1005:rwx acls; echo child > acls/child
        echo h > hard1; ln hard1 hard2; ln hard1 a/hard3; ln -s target link1; ln link1 link2; ln -s /nowhere dangling
        mknod null c 1 3; chmod 640 null; mknod disk b 7 200; mkfifo fifo; chmod 600 fifo
        truncate -s 30M hollow; echo middle | dd of=hollow bs=1M seek=20 conv=notrunc status=none; truncate -s 5M hole
        touch $'\xff\xfe\x80 not text' $'new\nline' ' ' "$(head -c 255 /dev/zero | tr '\0' n)"
        touch -d '1901-01-01 00:00:00.5' old; touch -hd '1999-12-31 23:59:59.123456789' dangling
        touch -d '2001-02-03 04:05:06.789' a/b/c a/b empty
        "#,
    );
}

/// Makes `count` files of `bytes` that nothing can compress, none like another.
pub fn random_files(dir: &Path, prefix: &str, count: u32, bytes: u32) {
    sh(dir, &format!("for i in $(seq {count}); do head -c {bytes} /dev/urandom > {prefix}$(printf %05d $i); done"));
}
