//! One system call that the ring crate does not wrap: posting a completion to another ring without a ring of one's own.
//!
//! Invariant: the request is plain data without pointers, so nothing outlives the call. Any thread may call it. One of
//! the few files with `unsafe`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use io_uring::{opcode, squeue, types};

/// `IORING_REGISTER_SEND_MSG_RING`: number 31 of the register calls, Linux 6.13 and later.
const REGISTER_SEND_MESSAGE: libc::c_uint = 31;

/// The register call takes no ring of the sender's.
const NO_RING: libc::c_int = -1;

/// Posts a completion with `user_data` to `ring`, waking its thread where it sleeps. About 7 us when it sleeps in a guest.
///
/// # Errors
/// `InvalidInput` where the kernel is older; otherwise what the kernel says. Nothing was posted.
pub(super) fn post(ring: BorrowedFd<'_>, user_data: u64) -> io::Result<()> {
    let request: squeue::Entry = opcode::MsgRingData::new(types::Fd(ring.as_raw_fd()), 0, user_data, None).build();
    // SAFETY: the kernel reads one submission entry (64 bytes, `repr(C)`) at the given address during the call and writes
    // nothing; `ring` is open for the length of the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_io_uring_register, NO_RING, REGISTER_SEND_MESSAGE, ptr::from_ref(&request), 1_u32)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<squeue::Entry>() == 64, "the kernel reads a whole submission entry");
