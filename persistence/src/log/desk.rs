//! `Desk`: lets the log's rare sequential work (open, pre-write a segment, update the manifest) be written as plain async
//! functions over a driver.
//!
//! A task asks at the desk and awaits the answer; [`Desk::serve`] carries out what was asked. Control calls are answered at
//! once, data calls when their completion arrives. Nothing here is on the commit path.
//!
//! Invariant: every call is answered exactly once; a call is issued when it is made, not when it is awaited, so several can
//! be in flight. Shard thread only.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use shardstage::port::buffer::IoBuffer;
use shardstage::port::driver::{FileCompletion, FileId, FileOp, OpenOptions};
use shardstage::port::service::ServiceContext;

use super::token::{Token, TokenKind};

enum Call {
    Open(PathBuf, OpenOptions),
    Close(FileId),
    Length(FileId),
    List(PathBuf),
    CreateDir(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Random,
    Now,
    NextTurn,
    Data(FileId, FileOp),
}

enum Answer {
    File(io::Result<FileId>),
    Number(io::Result<u64>),
    Names(io::Result<Vec<String>>),
    Done(io::Result<()>),
    Data(FileCompletion),
}

#[derive(Default)]
struct Inner {
    calls: VecDeque<(u64, Call)>,
    answers: BTreeMap<u64, Answer>,
    next: u64,
    /// Answers to be given in the next turn.
    next_turn: Vec<u64>,
}

/// Where tasks leave their calls.
#[derive(Clone, Default)]
pub(crate) struct Desk {
    inner: Rc<RefCell<Inner>>,
}

/// The answer to one call, later.
struct Pending {
    desk: Desk,
    id: u64,
}

impl Future for Pending {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Answer> {
        match self.desk.inner.borrow_mut().answers.remove(&self.id) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

/// A read in flight.
pub(crate) struct ReadAhead(Pending);

impl ReadAhead {
    /// Whether the read has ended.
    pub(crate) fn has_arrived(&self) -> bool {
        self.0.desk.inner.borrow().answers.contains_key(&self.0.id)
    }

    /// Waits for its end, which is then [`done`](Self::done) at once.
    pub(crate) async fn arrived(&self) {
        poll_fn(|_| if self.has_arrived() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// The whole buffer's bytes.
    pub(crate) async fn done(self) -> io::Result<IoBuffer> {
        let Answer::Data(completion) = self.0.await else { unreachable!("a data call has a data answer") };
        let read = completion.result?;
        let buffer = completion.buffer.ok_or_else(|| io::Error::other("the driver kept a read's buffer"))?;
        if read < buffer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("read {read} of {} bytes", buffer.len())));
        }
        Ok(buffer)
    }
}

/// A sync in flight.
pub(crate) struct Syncing(Pending);

impl Syncing {
    pub(crate) async fn done(self) -> io::Result<()> {
        let Answer::Data(completion) = self.0.await else { unreachable!("a data call has a data answer") };
        completion.result.map(|_| ())
    }
}

impl Desk {
    fn ask(&self, call: Call) -> Pending {
        let mut inner = self.inner.borrow_mut();
        inner.next += 1;
        let id = inner.next;
        inner.calls.push_back((id, call));
        Pending { desk: self.clone(), id }
    }

    async fn done(&self, call: Call) -> io::Result<()> {
        let Answer::Done(result) = self.ask(call).await else { unreachable!("the call has a plain answer") };
        result
    }

    pub(crate) async fn open(&self, path: PathBuf, options: OpenOptions) -> io::Result<FileId> {
        let Answer::File(result) = self.ask(Call::Open(path, options)).await else {
            unreachable!("an open has a file answer")
        };
        result
    }

    pub(crate) async fn close(&self, file: FileId) {
        let Answer::Done(_) = self.ask(Call::Close(file)).await else { unreachable!("a close has a plain answer") };
    }

    pub(crate) async fn length(&self, file: FileId) -> io::Result<u64> {
        let Answer::Number(result) = self.ask(Call::Length(file)).await else {
            unreachable!("a length has a number answer")
        };
        result
    }

    pub(crate) async fn random(&self) -> u64 {
        let Answer::Number(Ok(number)) = self.ask(Call::Random).await else {
            unreachable!("a random number has a number answer")
        };
        number
    }

    pub(crate) async fn now_ns(&self) -> u64 {
        let Answer::Number(Ok(now_ns)) = self.ask(Call::Now).await else {
            unreachable!("the time has a number answer")
        };
        now_ns
    }

    /// Goes on in the next turn, which comes at once: calls that wait are carried out before, and the device gets to work on
    /// them while the task works on what it has.
    pub(crate) async fn next_turn(&self) {
        let Answer::Done(_) = self.ask(Call::NextTurn).await else { unreachable!("a pause has a plain answer") };
    }

    /// Whether a task waits for nothing but the next turn.
    pub(crate) fn wants_turn(&self) -> bool {
        !self.inner.borrow().next_turn.is_empty()
    }

    pub(crate) async fn list(&self, path: PathBuf) -> io::Result<Vec<String>> {
        let Answer::Names(result) = self.ask(Call::List(path)).await else { unreachable!("a list has a names answer") };
        result
    }

    pub(crate) async fn create_dir(&self, path: PathBuf) -> io::Result<()> {
        self.done(Call::CreateDir(path)).await
    }

    pub(crate) async fn rename(&self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        self.done(Call::Rename(from, to)).await
    }

    pub(crate) async fn remove(&self, path: PathBuf) -> io::Result<()> {
        self.done(Call::Remove(path)).await
    }

    /// Starts to read `buffer.len()` bytes from `offset`.
    pub(crate) fn read(&self, file: FileId, offset: u64, buffer: IoBuffer) -> ReadAhead {
        ReadAhead(self.ask(Call::Data(file, FileOp::Read { offset, buffer })))
    }

    /// Reads what there is from `offset`, and says how much.
    pub(crate) async fn read_some(&self, file: FileId, offset: u64, buffer: IoBuffer) -> io::Result<(IoBuffer, usize)> {
        let Answer::Data(completion) = self.ask(Call::Data(file, FileOp::Read { offset, buffer })).await else {
            unreachable!("a data call has a data answer")
        };
        let read = completion.result?;
        let buffer = completion.buffer.ok_or_else(|| io::Error::other("the driver kept a read's buffer"))?;
        Ok((buffer, read))
    }

    /// Writes the whole buffer and gives it back.
    pub(crate) async fn write(&self, file: FileId, offset: u64, buffer: IoBuffer) -> io::Result<IoBuffer> {
        let len = buffer.len();
        let Answer::Data(completion) = self.ask(Call::Data(file, FileOp::Write { offset, buffer, len })).await else {
            unreachable!("a data call has a data answer")
        };
        let written = completion.result?;
        if written < len {
            return Err(io::Error::new(io::ErrorKind::WriteZero, format!("wrote {written} of {len} bytes")));
        }
        completion.buffer.ok_or_else(|| io::Error::other("the driver kept a write's buffer"))
    }

    pub(crate) async fn sync(&self, file: FileId) -> io::Result<()> {
        self.begin_sync(file).done().await
    }

    /// Starts to make durable what was written to the file.
    pub(crate) fn begin_sync(&self, file: FileId) -> Syncing {
        Syncing(self.ask(Call::Data(file, FileOp::Sync)))
    }

    /// Hands a completion to the task that waits for it.
    pub(crate) fn answer(&self, call: u64, completion: FileCompletion) {
        self.inner.borrow_mut().answers.insert(call, Answer::Data(completion));
    }

    /// Polls the task and carries out its calls until it ends or waits for a completion.
    pub(crate) fn serve<T>(&self, task: &mut Pin<Box<dyn Future<Output = T>>>, cx: &mut ServiceContext<'_>) -> Poll<T> {
        {
            let inner = &mut *self.inner.borrow_mut();
            inner.answers.extend(inner.next_turn.drain(..).map(|id| (id, Answer::Done(Ok(())))));
        }
        loop {
            if let Poll::Ready(done) = task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Poll::Ready(done);
            }
            let mut answered = false;
            loop {
                let Some((id, call)) = self.inner.borrow_mut().calls.pop_front() else { break };
                if matches!(call, Call::NextTurn) {
                    self.inner.borrow_mut().next_turn.push(id);
                    continue;
                }
                if let Some(answer) = carry_out(id, call, cx) {
                    self.inner.borrow_mut().answers.insert(id, answer);
                    answered = true;
                }
            }
            if !answered {
                return Poll::Pending;
            }
        }
    }
}

fn carry_out(id: u64, call: Call, cx: &mut ServiceContext<'_>) -> Option<Answer> {
    let driver = cx.driver();
    Some(match call {
        Call::Open(path, options) => Answer::File(driver.open(&path, options)),
        Call::Close(file) => {
            driver.close(file);
            Answer::Done(Ok(()))
        }
        Call::Length(file) => Answer::Number(driver.file_len(file)),
        Call::List(path) => Answer::Names(driver.list(&path)),
        Call::CreateDir(path) => Answer::Done(driver.create_dir(&path)),
        Call::Rename(from, to) => Answer::Done(driver.rename(&from, &to)),
        Call::Remove(path) => Answer::Done(driver.remove(&path)),
        Call::Random => Answer::Number(Ok(driver.random_u64())),
        Call::Now => Answer::Number(Ok(driver.now_ns())),
        Call::NextTurn => unreachable!("the desk keeps it itself"),
        Call::Data(file, op) => {
            cx.submit(Token { kind: TokenKind::Task, value: id }.pack(), file, op);
            return None;
        }
    })
}
