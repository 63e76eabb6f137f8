//! Getting bytes on their way to the disk early, so that a restore does not wait for all of them at
//! its end.

use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Less than this is not worth a call: the kernel puts small files together better by itself.
const WORTH: u64 = 1 << 20;

/// Has the kernel begin to write what a file holds in this range. Nothing is promised by it: that
/// all is on disk is for the sync at the end to say.
pub fn begin(file: impl AsFd, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    if len.unsigned_abs() < WORTH {
        return;
    }
    #[allow(unsafe_code)]
    // SAFETY: the call takes numbers only, and changes neither memory nor what the file holds. No
    // crate in use offers it. That it failed shows at the sync.
    let _ = unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}
