//! `Ring`: one io_uring with the operations that it carries.
//!
//! Invariant: an operation's file and buffer stay in this value from the moment its entry is written until its completion
//! was read, so the kernel never touches memory that somebody else owns; dropping the ring waits for that. Only the
//! thread that made the ring may call it. One of the few files with `unsafe`.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::driver::files::Operation;
use crate::limits::{FILE_ATTEMPTS, URING_ENTRIES, URING_FILE_OPERATIONS};
use crate::port::driver::{FileCompletion, FileOp};

/// Completion of a wake message; its upper byte is [`TAG_WAKE`].
pub(super) const WAKE_MESSAGE: u64 = TAG_WAKE << TAG_SHIFT;

const TAG_SHIFT: u32 = 56;
const TAG_FILE: u64 = 1;
const TAG_READABLE: u64 = 2;
const TAG_WRITABLE: u64 = 3;
const TAG_WAKE: u64 = 4;
const TAG_WAKE_EVENT: u64 = 5;
const TAG_IGNORED: u64 = 6;

/// What a poll waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poll {
    /// The socket with this key has datagrams.
    Readable(u32),
    /// The socket with this key has room.
    Writable(u32),
    /// The wake eventfd was written to.
    WakeEvent,
}

impl Poll {
    fn user_data(self) -> u64 {
        match self {
            Self::Readable(key) => TAG_READABLE << TAG_SHIFT | u64::from(key),
            Self::Writable(key) => TAG_WRITABLE << TAG_SHIFT | u64::from(key),
            Self::WakeEvent => TAG_WAKE_EVENT << TAG_SHIFT,
        }
    }

    fn events(self) -> u32 {
        let events = match self {
            Self::Readable(_) | Self::WakeEvent => libc::POLLIN,
            Self::Writable(_) => libc::POLLOUT,
        };
        u32::from(events.unsigned_abs())
    }
}

/// What a completion says.
#[derive(Debug)]
pub(super) enum Event {
    /// A file operation ended.
    File(FileCompletion),
    /// A poll fired or was cancelled; it is no longer armed.
    Polled(Poll),
    /// Nothing that anyone must act on: a wake message, a cancellation.
    Nothing,
}

struct Slot {
    operation: Operation,
    attempts: u32,
}

/// An io_uring of one thread.
pub(super) struct Ring {
    uring: IoUring,
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    /// Operations beyond [`URING_FILE_OPERATIONS`], or those that the submission queue had no room for.
    backlog: VecDeque<Slot>,
    polls: usize,
}

impl Ring {
    /// Makes the ring on the calling thread, which becomes its only one.
    ///
    /// # Errors
    /// What the kernel said, in words that name the limit, the permission or the version that is missing.
    pub(super) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .build(URING_ENTRIES)
            .map_err(|error| explain(&error))?;
        let parameters = uring.params();
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "io_uring lacks EXT_ARG or NODROP: the kernel is too old",
            ));
        }
        let count = u16::try_from(URING_FILE_OPERATIONS).expect("the limit fits an index");
        Ok(Self {
            uring,
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            backlog: VecDeque::new(),
            polls: 0,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open for as long as it lives, and the result borrows the ring.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }

    /// Lets the kernel write to `event` whenever there is something to run or read.
    pub(super) fn register_eventfd(&self, event: RawFd) -> io::Result<()> {
        self.uring.submitter().register_eventfd(event)
    }

    /// Takes a file operation. Its entry is submitted with the next enter.
    pub(super) fn start_file(&mut self, operation: Operation) {
        self.backlog.push_back(Slot { operation, attempts: 0 });
        self.start_backlog();
    }

    /// Arms a one-shot poll with the next enter; false when the kernel would not take it now. The descriptor stays open
    /// until the poll has completed.
    pub(super) fn start_poll(&mut self, descriptor: BorrowedFd<'_>, poll: Poll) -> bool {
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), poll.events()).build();
        let armed = self.push_plain(entry.user_data(poll.user_data()));
        if armed {
            self.polls += 1;
        }
        armed
    }

    /// Asks for the cancellation of a poll, which then completes; false when the kernel would not take it now.
    pub(super) fn cancel_poll(&mut self, poll: Poll) -> bool {
        let entry = opcode::AsyncCancel::new(poll.user_data()).build();
        self.push_plain(entry.user_data(TAG_IGNORED << TAG_SHIFT))
    }

    /// Whether an enter would submit or run something. Two loads.
    pub(super) fn needs_enter(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits what was queued and runs what the kernel deferred, without waiting.
    pub(super) fn enter(&mut self) {
        self.start_backlog();
        settle(self.uring.submit().map(drop));
    }

    /// Submits, then sleeps until there is a completion or the time is over. May return early.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        self.start_backlog();
        let result = match timeout {
            None => self.uring.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        settle(result.map(drop));
    }

    /// The next completion that has arrived.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let entry = self.uring.completion().next()?;
        let low = u32::try_from(entry.user_data() & u64::from(u32::MAX)).expect("the lower half of a u64");
        let poll = match entry.user_data() >> TAG_SHIFT {
            TAG_FILE => return Some(self.finish_file(low, &entry)),
            TAG_READABLE => Poll::Readable(low),
            TAG_WRITABLE => Poll::Writable(low),
            TAG_WAKE_EVENT => Poll::WakeEvent,
            TAG_WAKE | TAG_IGNORED => return Some(Event::Nothing),
            other => panic!("a completion with the unknown tag {other}"),
        };
        assert!(self.polls > 0, "a poll completes once");
        self.polls -= 1;
        Some(Event::Polled(poll))
    }

    fn finish_file(&mut self, index: u32, entry: &cqueue::Entry) -> Event {
        let place = self.slots.get_mut(index as usize).expect("the kernel returns what it was given");
        let mut slot = place.take().expect("an operation completes once");
        self.free.push(u16::try_from(index).expect("slots are few"));
        let result = match usize::try_from(entry.result()) {
            Ok(done) => Ok(done),
            Err(_) => Err(io::Error::from_raw_os_error(entry.result().wrapping_neg())),
        };
        slot.attempts += 1;
        if let Err(error) = &result
            && slot.operation.may_start_again(error)
            && slot.attempts < FILE_ATTEMPTS
        {
            self.backlog.push_front(slot);
            self.start_backlog();
            return Event::Nothing;
        }
        self.start_backlog();
        Event::File(slot.operation.complete(result))
    }

    /// Writes entries for what waits, as far as there are slots.
    fn start_backlog(&mut self) {
        while !self.backlog.is_empty() {
            let Some(index) = self.free.pop() else { return };
            let mut slot = self.backlog.pop_front().expect("it is not empty");
            let entry = file_entry(&mut slot.operation).user_data(TAG_FILE << TAG_SHIFT | u64::from(index));
            let place = &mut self.slots[usize::from(index)];
            assert!(place.is_none(), "a free slot is empty");
            *place = Some(slot);
            // SAFETY: file and buffer are in the slot now, which gives them up in `finish_file` only, after the kernel has
            // completed this very entry. Moving an `IoBuffer` does not move its bytes. Lengths were checked.
            if !unsafe { self.push(&entry) } {
                let slot = self.slots[usize::from(index)].take().expect("it was just put there");
                self.free.push(index);
                self.backlog.push_front(slot);
                return;
            }
        }
    }

    /// Writes an entry without pointers.
    fn push_plain(&mut self, entry: squeue::Entry) -> bool {
        // SAFETY: polls and cancellations refer to no memory of ours.
        unsafe { self.push(&entry) }
    }

    /// Writes an entry, submitting first where the queue is full; false when the kernel does not take them now.
    ///
    /// # Safety
    /// Memory that the entry names must stay valid until its completion was read.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.uring.submission().is_full() {
            settle(self.uring.submit().map(drop));
        }
        let mut queue = self.uring.submission();
        // SAFETY: the caller vouches for the memory.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Operations that the kernel has or will get, and polls.
    fn outstanding(&self) -> (usize, usize) {
        (self.slots.len() - self.free.len(), self.polls)
    }
}

impl Drop for Ring {
    /// Waits for file operations, which the device always ends, then cancels the polls.
    fn drop(&mut self) {
        self.backlog.clear();
        let mut cancelled = false;
        loop {
            while let Some(event) = self.next_event() {
                drop(event);
                self.backlog.clear();
            }
            let (files, polls) = self.outstanding();
            if files == 0 && polls == 0 {
                return;
            }
            if files == 0 && !cancelled {
                let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
                cancelled = self.push_plain(entry.user_data(TAG_IGNORED << TAG_SHIFT));
            }
            match self.uring.submit_and_wait(1) {
                Err(error) if !is_transient(&error) => {
                    // The kernel may still write to the buffers: they are given up, never freed.
                    mem::forget(mem::take(&mut self.slots));
                    return;
                }
                _ => {}
            }
        }
    }
}

fn file_entry(operation: &mut Operation) -> squeue::Entry {
    let descriptor = Fd(operation.file.file.as_raw_fd());
    let size = |len: usize| u32::try_from(len).expect("lengths were checked");
    match &mut operation.op {
        FileOp::Read { offset, buffer } => {
            opcode::Read::new(descriptor, buffer.as_mut_ptr(), size(buffer.len())).offset(*offset).build()
        }
        FileOp::Write { offset, buffer, len } => {
            opcode::Write::new(descriptor, buffer.as_ptr(), size(*len)).offset(*offset).build()
        }
        FileOp::Sync if operation.file.directory => opcode::Fsync::new(descriptor).build(),
        FileOp::Sync => opcode::Fsync::new(descriptor).flags(FsyncFlags::DATASYNC).build(),
    }
}

/// Takes an enter's answer: what is transient is tried again by the next enter, anything else is our own bug.
fn settle(result: io::Result<()>) {
    if let Err(error) = result
        && !is_transient(&error)
    {
        panic!("the ring refuses to be entered (made on another thread?): {error}");
    }
}

fn is_transient(error: &io::Error) -> bool {
    // ETIME ends a wait; EBUSY asks to read completions first; EAGAIN and ENOMEM pass when the kernel has memory again.
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOMEM))
}

/// Says which limit or permission is missing.
fn explain(error: &io::Error) -> io::Error {
    let cause = match error.raw_os_error() {
        Some(libc::ENOMEM) => "not enough locked memory for the ring (raise `ulimit -l`, LimitMEMLOCK=)",
        Some(libc::EPERM | libc::EACCES) => {
            "refused (sysctl kernel.io_uring_disabled or the container's seccomp profile)"
        }
        Some(libc::ENOSYS) => "not in this kernel or hidden by the container's seccomp profile",
        Some(libc::EINVAL) => "this kernel lacks SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1 has them)",
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor left (raise `ulimit -n`, LimitNOFILE=)",
        _ => "not available",
    };
    io::Error::new(error.kind(), format!("io_uring: {cause}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::driver::files::OpenFile;
    use crate::port::buffer::IoBuffer;

    #[test]
    fn dropping_waits_until_the_kernel_has_given_the_buffers_back() {
        let (source, sink) = rustix::pipe::pipe().expect("a pipe");
        let open = Arc::new(OpenFile { file: source.into(), directory: false });
        let mut ring = Ring::new().expect("io_uring works on this machine");
        let op = FileOp::Read { offset: u64::MAX, buffer: IoBuffer::zeroed(4096) };
        ring.start_file(Operation { token: 1, file: Arc::clone(&open), op });
        ring.enter();
        assert!(ring.next_event().is_none(), "the pipe is empty");
        let (dropping, begun) = channel();
        let writer = std::thread::spawn(move || {
            begun.recv().expect("the test lives");
            rustix::io::write(&sink, &[7; 10]).expect("the reading side is open");
        });
        dropping.send(()).expect("the writer lives");
        drop(ring);
        assert_eq!(Arc::strong_count(&open), 1, "the operation ended");
        writer.join().expect("it ends well");
        let left = rustix::io::ioctl_fionread(&open.file).expect("a pipe knows its fill");
        assert_eq!(left, 0, "the operation took the bytes before its buffer was freed");
    }

    #[test]
    fn start_errors_name_what_is_missing() {
        for (code, word) in [
            (libc::ENOMEM, "ulimit -l"),
            (libc::EPERM, "seccomp"),
            (libc::ENOSYS, "seccomp"),
            (libc::EINVAL, "6.1"),
            (libc::EMFILE, "ulimit -n"),
        ] {
            let text = explain(&io::Error::from_raw_os_error(code)).to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
