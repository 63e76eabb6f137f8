//! Between the kernel and the view: the only module that knows fuser.
//!
//! What is in memory is answered by the event loop that got the request. What must wait is done
//! there too, as long as other loops are free, and by a pool of threads otherwise, so that there
//! is always a loop to answer what needs no waiting. Whatever has waited too long is answered
//! with EIO, even if its thread never comes back. Directories of versions are the only inodes of
//! which is counted what the kernel knows (`paths.rs`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};
use nix::libc;

use super::attr::{Attr, system_time};
use super::fail::{Answer, Fail};
use super::ino::Ino;
use super::pool::Pool;
use super::view::{Row, View};
use super::virtuals::Change;
use super::watch::{Pending, Refuse, Watch};

/// What never changes is remembered by the kernel for this long.
const FOREVER: Duration = Duration::from_secs(12 * 3600);

/// What may change; changes are told to the kernel, this is for a message that got lost.
const SHORTLY: Duration = Duration::from_secs(1);

/// Event loops.
const LOOPS: usize = 4;

/// `FS_IOC_GETFLAGS`, with the size of its argument as 64 and 32 bit programs have it.
const GETFLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];

macro_rules! refuse {
    ($($reply:ty),*) => { $(impl Refuse for $reply {
        fn refuse(self, errno: nix::errno::Errno) { self.error(Errno::from_i32(errno as i32)); }
    })* };
}
refuse!(ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyXattr);

struct Inner {
    view: Arc<View>,
    waiters: Pool,
    readers: Pool,
    /// For what needs many nodes: whoever reads a file does not wait for it.
    lookers: Pool,
    watch: Watch,
    /// Event loops that wait for the vault.
    waiting: AtomicUsize,
    notifier: OnceLock<Notifier>,
}

/// The file system as fuser wants it.
struct Fs(Arc<Inner>);

impl Inner {
    /// Ends a request that failed.
    fn errno(&self, ino: Ino, fail: Fail) -> nix::errno::Errno {
        match fail {
            Fail::Errno(errno) => errno,
            Fail::Missing(..) => nix::errno::Errno::EIO,
            Fail::Broken(error) => {
                if self.watch.may_say() {
                    let (backup, path) = self.view.describe(ino);
                    tracing::warn!(backup, path, "cannot be read: {error}");
                }
                nix::errno::Errno::EIO
            }
        }
    }

    /// Remembers a directory of versions that the kernel is about to be told of; says whether it may be.
    fn keep(self: &Arc<Self>, parent: Ino, name: &[u8], ino: Ino) -> Answer<()> {
        if ino.is_versions() && self.view.paths().keep(parent, name, ino)? {
            let inner = self.clone();
            // Not here: the kernel may wait for this very answer.
            self.lookers.run(move || {
                if let Some(notifier) = inner.notifier.get() {
                    notifier.tell(&inner.view.tops());
                }
            });
        }
        Ok(())
    }

    /// Does work that may wait: here if enough loops are free, else in a pool.
    fn slow(self: &Arc<Self>, pool: &Pool, work: impl FnOnce(&Self) + Send + 'static) {
        let inner = self.clone();
        if self.waiting.fetch_add(1, Ordering::Relaxed) < LOOPS - 1 {
            let _ = catch_unwind(AssertUnwindSafe(|| work(&inner)));
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            pool.run(move || work(&inner));
        }
    }

    /// Answers from memory, or later when what was missing is there. `ask` fills the reply, and
    /// fails only if it has put nothing into it.
    fn answer<R: Refuse, T>(
        self: &Arc<Self>,
        ino: Ino,
        mut reply: R,
        mut ask: impl FnMut(&View, &mut R) -> Answer<T> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        match ask(&self.view, &mut reply) {
            Ok(answer) => send(reply, answer),
            Err(Fail::Missing(..)) => {
                let pending = self.watch.hold(reply);
                self.slow(&self.waiters, move |inner| {
                    let answer = inner.view.insist(|| pending.with(|reply| ask(&inner.view, reply)));
                    pending.end(|reply| match answer {
                        Ok(answer) => send(reply, answer),
                        Err(fail) => reply.refuse(inner.errno(ino, fail)),
                    });
                });
            }
            Err(fail) => reply.refuse(self.errno(ino, fail)),
        }
    }

    /// Answers with what only the vault knows.
    fn wait<R: Refuse, T>(
        self: &Arc<Self>,
        ino: Ino,
        reply: R,
        work: impl FnOnce(&View) -> Answer<T> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        let work = held(self.watch.hold(reply), ino, work, send);
        self.slow(&self.readers, work);
    }

    /// Answers with what all backups of a resource have, at once if it is `known`.
    fn look<R: Refuse, T>(
        self: &Arc<Self>,
        ino: Ino,
        reply: R,
        known: impl FnOnce(&View) -> Option<T>,
        work: impl FnOnce(&View) -> Answer<T> + Send + 'static,
        send: impl FnOnce(R, T) + Send + 'static,
    ) {
        if let Some(answer) = known(&self.view) {
            return send(reply, answer);
        }
        let (work, inner) = (held(self.watch.hold(reply), ino, work, send), self.clone());
        self.lookers.run(move || work(&inner));
    }
}

/// Work whose outcome answers a request that waits.
fn held<R: Refuse, T>(
    pending: Pending<R>,
    ino: Ino,
    work: impl FnOnce(&View) -> Answer<T> + Send + 'static,
    send: impl FnOnce(R, T) + Send + 'static,
) -> impl FnOnce(&Inner) + Send + 'static {
    move |inner| {
        let answer = work(&inner.view);
        pending.end(|reply| match answer {
            Ok(answer) => send(reply, answer),
            Err(fail) => reply.refuse(inner.errno(ino, fail)),
        });
    }
}

fn ttl(ino: Ino) -> Duration {
    if ino.is_versions() {
        // Who may enter, and what there is, depends on all backups at the moment.
        Duration::ZERO
    } else if ino.is_virtual() || ino.number() == 0 || ino.linked_from().is_some() {
        SHORTLY
    } else {
        FOREVER
    }
}

fn add(reply: &mut ReplyDirectory, row: &Row<'_>) -> bool {
    !reply.add(INodeNo(row.attr.ino.0), row.cookie, kind(&row.attr), OsStr::from_bytes(row.name))
}

/// Adds a name in `dir`, of which the kernel knows then, but for the two that every directory has.
fn add_plus(inner: &Arc<Inner>, dir: Ino, reply: &mut ReplyDirectoryPlus, row: &Row<'_>, ttl: Duration) -> bool {
    let (attr, ino) = (file_attr(&row.attr), row.attr.ino);
    let dots = matches!(row.name, b"." | b"..");
    if !dots && inner.keep(dir, row.name, ino).is_err() {
        // It is not shown, and nothing else is lost.
        return true;
    }
    let generation = Generation(row.attr.generation);
    let added = !reply.add(attr.ino, row.cookie, OsStr::from_bytes(row.name), &ttl, &attr, generation);
    if !added && !dots && ino.is_versions() {
        inner.view.paths().forget(ino, 1);
    }
    added
}

fn kind(attr: &Attr) -> FileType {
    match attr.kind {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        _ => FileType::RegularFile,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let time = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: UNIX_EPOCH,
        kind: kind(attr),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The answer to a question for bytes by a caller who has room for `size` of them; 0 asks how
/// many there are.
fn send_xattr(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            // Listings of versions are kept until the directory's time changes.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            if config.add_capabilities(flag).is_err() {
                // Without it things are slower, or ACLs are not enforced; modes always are.
                tracing::info!("this kernel's FUSE does not offer {flag:?}");
            }
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (Ino(parent.0), name.as_bytes().to_vec());
        if parent.is_versions() {
            let (inner, known) = (self.0.clone(), name.clone());
            let found = self.0.view.known_version(parent, &name).flatten();
            let work = move |view: &View| view.version(parent, &name);
            return self.0.look(
                parent,
                reply,
                |_| found,
                work,
                move |reply, attr| match inner.keep(parent, &known, attr.ino) {
                    Ok(()) => reply.entry(&Duration::ZERO, &file_attr(&attr), Generation(0)),
                    Err(fail) => reply.refuse(inner.errno(parent, fail)),
                },
            );
        }
        let (inner, known) = (self.0.clone(), name.clone());
        let ask = move |view: &View, _: &mut ReplyEntry| view.lookup(parent, &name);
        self.0.answer(parent, reply, ask, move |reply, found| match found {
            Some(attr) => match inner.keep(parent, &known, attr.ino) {
                Ok(()) => reply.entry(&ttl(attr.ino), &file_attr(&attr), Generation(attr.generation)),
                Err(fail) => reply.refuse(inner.errno(parent, fail)),
            },
            // Inode 0: the kernel remembers that there is no such name.
            None => {
                reply.entry(&FOREVER, &file_attr(&Attr::directory(Ino(0), 0, 0, Default::default())), Generation(0))
            }
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, times: u64) {
        if Ino(ino.0).is_versions() {
            self.0.view.paths().forget(Ino(ino.0), times);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let ino = Ino(ino.0);
        let send = move |reply: ReplyAttr, attr| reply.attr(&ttl(ino), &file_attr(&attr));
        if ino.is_versions() {
            let known = |view: &View| view.known_version_attr(ino);
            return self.0.look(ino, reply, known, move |view| view.version_attr(ino), send);
        }
        self.0.answer(ino, reply, move |view, _| view.getattr(ino), send);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let ino = Ino(ino.0);
        self.0.answer(ino, reply, move |view, _| view.readlink(ino), |reply, target| reply.data(&target));
    }

    // ENOSYS to the first open makes the kernel do without any: pages and listings are kept.
    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let ino = Ino(ino.0);
        let work = move |view: &View| view.read(ino, offset, size.into());
        self.0.wait(ino, reply, work, |reply, data| reply.data(data.bytes()));
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::EINVAL) };
        let ino = Ino(ino.0);
        self.0.wait(
            ino,
            reply,
            move |view| view.seek(ino, from, whence),
            |reply, at| match i64::try_from(at) {
                Ok(at) => reply.offset(at),
                Err(_) => reply.error(Errno::EOVERFLOW),
            },
        );
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let ino = Ino(ino.0);
        if ino.is_versions() {
            return self.0.look(
                ino,
                reply,
                |view| view.known_listing(ino, offset),
                move |view| view.listing(ino, offset),
                move |mut reply, listing| {
                    listing.list(offset, &mut |row| add(&mut reply, &row));
                    reply.ok();
                },
            );
        }
        let ask = move |view: &View, reply: &mut ReplyDirectory| view.list(ino, offset, &mut |row| add(reply, &row));
        self.0.answer(ino, reply, ask, |reply, ()| reply.ok());
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        let (inner, ino) = (self.0.clone(), Ino(ino.0));
        if ino.is_versions() {
            return self.0.look(
                ino,
                reply,
                |view| view.known_listing(ino, offset),
                move |view| view.listing(ino, offset),
                move |mut reply, listing| {
                    listing.list(offset, &mut |row| {
                        // Who may enter what depends on all backups at the moment.
                        add_plus(&inner, ino, &mut reply, &row, Duration::ZERO)
                    });
                    reply.ok();
                },
            );
        }
        let ask = move |view: &View, reply: &mut ReplyDirectoryPlus| {
            view.list(ino, offset, &mut |row| {
                let ttl = if row.sure { ttl(row.attr.ino) } else { Duration::ZERO };
                add_plus(&inner, ino, reply, &row, ttl)
            })
        };
        self.0.answer(ino, reply, ask, |reply, ()| reply.ok());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (ino, name) = (Ino(ino.0), name.as_bytes().to_vec());
        let ask = move |view: &View, _: &mut ReplyXattr| {
            view.xattrs(ino, |all| match all.binary_search_by(|(n, _)| n.as_slice().cmp(&name)) {
                Ok(at) => Ok(all[at].1.clone()),
                Err(_) => Err(Fail::Errno(nix::errno::Errno::ENODATA)),
            })
        };
        self.0.answer(ino, reply, ask, move |reply, value| send_xattr(reply, size, &value));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let (ino, root) = (Ino(ino.0), req.uid() == 0);
        let ask = move |view: &View, _: &mut ReplyXattr| {
            view.xattrs(ino, |all| {
                let shown = all.iter().filter(|(name, _)| root || !name.starts_with(b"trusted."));
                Ok(shown.flat_map(|(name, _)| name.iter().chain(&[0])).copied().collect::<Vec<u8>>())
            })
        };
        self.0.answer(ino, reply, ask, move |reply, names| send_xattr(reply, size, &names));
    }

    fn ioctl(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        if !GETFLAGS.contains(&cmd) || out_size < 4 {
            return reply.error(Errno::ENOTTY);
        }
        let ino = Ino(ino.0);
        self.0.answer(ino, reply, move |view, _| view.flags(ino), |reply, flags| reply.ioctl(0, &flags.to_ne_bytes()));
    }
}

/// Tells the kernel what to forget.
#[derive(Clone)]
pub struct Notifier(fuser::Notifier);

impl Notifier {
    /// Makes changes of the virtual directories visible. Must not be called by an event loop.
    pub fn tell(&self, changes: &[Change]) {
        let mut parents: Vec<Ino> = changes.iter().map(|change| change.parent).collect();
        parents.sort_unstable();
        parents.dedup();
        for change in changes {
            let _ = self.0.inval_entry(INodeNo(change.parent.0), OsStr::from_bytes(&change.name));
        }
        // A name that the kernel did not know leaves its directory's listing in place.
        for parent in parents {
            let _ = self.0.inval_inode(INodeNo(parent.0), 0, 0);
        }
    }
}

/// A mounted file system that is not served yet.
pub struct Served(Session<Fs>);

/// Shakes hands with the kernel over the device of a new mount.
pub fn open(view: Arc<View>, device: File, threads: usize) -> io::Result<Served> {
    let inner = Inner {
        view,
        waiters: Pool::new("wait", threads.max(2), None)?,
        readers: Pool::new("read", threads.max(2) * 2, None)?,
        lookers: Pool::new("look", 2, None)?,
        watch: Watch::new()?,
        waiting: AtomicUsize::new(0),
        notifier: OnceLock::new(),
    };
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(LOOPS);
    config.clone_fd = true;
    let inner = Arc::new(inner);
    let session = Session::from_fd(Fs(inner.clone()), OwnedFd::from(device), SessionACL::All, config)?;
    let notifier = session.notifier();
    let _ = inner.notifier.set(Notifier(session.notifier()));
    // A kernel that does not take it asks for it.
    inner.view.set_push(Box::new(move |ino, bytes| drop(notifier.store(INodeNo(ino.0), 0, bytes))));
    Ok(Served(session))
}

impl Served {
    /// What tells the kernel about changes.
    pub fn notifier(&self) -> Notifier {
        Notifier(self.0.notifier())
    }

    /// Serves until the file system is unmounted.
    pub fn run(self) -> io::Result<()> {
        self.0.run()
    }
}
