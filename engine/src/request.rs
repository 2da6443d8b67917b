//! `Request`: what travels down a chain of calls beside the messages: headers, a deadline, a trace parent.
//!
//! Invariant: a request is immutable and shared; who changes it makes another. The one that the running handler or task is
//! part of lies in its shard (`ShardCell`) or, outside the shards, in its thread, for the length of a [`Scope`], and while it
//! lies there sends from there take the way of `carried.rs`. Usable from any thread.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

pub use shardstage_codec::RequestError;
use shardstage_codec::TraceParent;
use shardstage_codec::limits::{REQUEST_HEADERS_MAX, REQUEST_TEXT_BYTES_MAX};
use shardstage_codec::request::check_header;

use crate::reentrancy::Callers;
use crate::shard::{ShardCell, current};
use crate::sync::thread_local;

/// Until when the answer is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    None,
    /// Nanoseconds from the sending on: made outside the shards, or not sent yet.
    Left(u64),
    /// On the shards' common clock.
    At(u64),
}

#[derive(Clone, Debug)]
struct Content {
    /// Names in ASCII order, each once.
    headers: Vec<(Box<str>, Box<str>)>,
    deadline: Deadline,
    trace: Option<TraceParent>,
    /// Nobody's: only its sends are looked at.
    hollow: bool,
    /// Who waits for what is done in it, where somebody has to know.
    callers: Option<Callers>,
}

/// Headers, deadline and trace parent that travel with a message and with whatever its handling sends: tells and asks, on the
/// same shard, to other shards, threads and nodes, and through the answers that an async handler or a `then` waits for.
///
/// Cloning counts a reference. A message without a request pays nothing for it; one with a request allocates nothing more per
/// hop than a pooled block.
///
/// What a handler sends carries the request of the message that it handles, with the same headers; the deadline is a point in
/// time, so what is left of it shrinks from hop to hop; the trace parent is handed on as it is, as the W3C standard has it for
/// those who do not record spans of their own. Whoever does ([`TraceParent::with_parent_id`]) sends within a
/// [`scope`](Self::scope) of a request with the new parent.
///
/// Timers, watches, messages to many receivers at once, and the effects of durable actors do not carry it on.
#[derive(Clone)]
pub struct Request(Arc<Content>);

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// A request with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Content {
            headers: Vec::new(),
            deadline: Deadline::None,
            trace: None,
            hollow: false,
            callers: None,
        }))
    }

    /// What is open while an actor's sends are looked at that are part of no request.
    pub(crate) fn hollow() -> Self {
        Self(Arc::new(Content {
            headers: Vec::new(),
            deadline: Deadline::None,
            trace: None,
            hollow: true,
            callers: None,
        }))
    }

    /// The same, unless it is nobody's.
    pub(crate) fn real(self) -> Option<Self> {
        Some(self).filter(|request| !request.0.hollow)
    }

    /// The same, unless it is nobody's and says nothing of who waits: what travels with an ask.
    pub(crate) fn for_ask(self) -> Option<Self> {
        Some(self).filter(|request| !request.0.hollow || request.0.callers.is_some())
    }

    /// What travels with a tell, for which nobody waits.
    pub(crate) fn for_tell(self) -> Option<Self> {
        self.with_callers(None).real()
    }

    /// Who waits for what is done in it.
    pub(crate) fn callers(&self) -> Option<&Callers> {
        self.0.callers.as_ref()
    }

    /// The same with another list of who waits.
    pub(crate) fn with_callers(mut self, callers: Option<Callers>) -> Self {
        if callers.is_some() || self.0.callers.is_some() {
            Arc::make_mut(&mut self.0).callers = callers;
        }
        self
    }

    /// The request that the running handler, or the scope of this thread, is part of.
    #[must_use]
    pub fn current() -> Option<Self> {
        open()?.real()
    }

    /// The same with a header more, or with another value of it.
    ///
    /// # Errors
    /// [`RequestError::Name`], [`RequestError::Value`], or [`RequestError::TooMany`] beyond 16 headers or 2 KiB of text in all.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, RequestError> {
        check_header(name, value)?;
        let content = Arc::make_mut(&mut self.0);
        match content.headers.binary_search_by(|(other, _)| (**other).cmp(name)) {
            Ok(at) => content.headers[at].1 = value.into(),
            Err(at) => content.headers.insert(at, (name.into(), value.into())),
        }
        let bytes: usize = content.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if content.headers.len() > REQUEST_HEADERS_MAX || bytes > REQUEST_TEXT_BYTES_MAX {
            return Err(RequestError::TooMany);
        }
        Ok(self)
    }

    /// The same with a deadline: `ttl` from the sending on, or the one that it has if that is earlier. Whoever gets a message of
    /// it later drops the message before work and counts it as expired; an ask is told so.
    #[must_use]
    pub fn with_deadline(mut self, ttl: Duration) -> Self {
        let left = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        let now = current(|shard| shard.map(|shard| shard.core.borrow().now_ns));
        let deadline = match (self.0.deadline, now) {
            (Deadline::None, _) => Deadline::Left(left),
            (Deadline::Left(earlier), _) => Deadline::Left(earlier.min(left)),
            (Deadline::At(at), Some(now)) => Deadline::At(at.min(now.saturating_add(left))),
            // Outside the shards there is no clock to compare with; the one that is under way stays.
            (Deadline::At(at), None) => Deadline::At(at),
        };
        Arc::make_mut(&mut self.0).deadline = deadline;
        self
    }

    /// The same with a trace parent.
    #[must_use]
    pub fn with_trace_parent(mut self, trace: TraceParent) -> Self {
        Arc::make_mut(&mut self.0).trace = Some(trace);
        self
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let at = self.0.headers.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        Some(&self.0.headers[at].1)
    }

    /// All headers, in the order of their names.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The trace parent.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.0.trace
    }

    /// How long its answer is of use: until its deadline, on a shard, or from the sending on. `None` without a deadline, and
    /// outside the shards for one that is under way.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        match self.0.deadline {
            Deadline::None => None,
            Deadline::Left(ns) => Some(Duration::from_nanos(ns)),
            Deadline::At(at) => {
                let now = current(|shard| shard.map(|shard| shard.core.borrow().now_ns))?;
                Some(Duration::from_nanos(at.saturating_sub(now)))
            }
        }
    }

    /// Runs `f`; whatever it sends is part of this request, instead of the one that the caller is part of.
    ///
    /// An ask or a waiting send belongs to the request in whose scope it is first polled; see [`attach`](Self::attach).
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        current(|shard| {
            let _scope = match shard {
                // Who waits for the running handler does so whatever request its sends are part of.
                Some(shard) => {
                    let callers = shard.request().and_then(|open| open.callers().cloned());
                    Scope::on(shard, self.clone().with_callers(callers))
                }
                None => Scope::outside(self.clone().with_callers(None)),
            };
            f()
        })
    }

    /// A future that runs in the [`scope`](Self::scope) of this request whenever it is polled. Allocates once.
    pub fn attach<F: Future>(&self, future: F) -> Attached<F> {
        Attached { request: self.clone(), future: Box::pin(future) }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.0.deadline
    }

    /// The same with its deadline as a point in time.
    pub(crate) fn begun_at(mut self, now_ns: u64) -> Self {
        if let Deadline::Left(left) = self.0.deadline {
            Arc::make_mut(&mut self.0).deadline = Deadline::At(now_ns.saturating_add(left));
        }
        self
    }

    /// The deadline on the shards' clock, 0 for none, of a request that has begun.
    pub(crate) fn deadline_ns(&self) -> u64 {
        match self.0.deadline {
            Deadline::At(at) => at.max(1),
            Deadline::None | Deadline::Left(_) => 0,
        }
    }

    /// What crosses nodes.
    ///
    /// Without a clock nobody knows what is left until a point in time: one that has begun has no deadline there.
    pub(crate) fn block(&self, now_ns: Option<u64>) -> shardstage_codec::RequestBlock<'_> {
        shardstage_codec::RequestBlock {
            ttl_ns: match self.0.deadline {
                Deadline::None => 0,
                Deadline::Left(left) => left.max(1),
                // One that has passed arrives as passed.
                Deadline::At(at) => now_ns.map_or(0, |now_ns| at.saturating_sub(now_ns).max(1)),
            },
            trace: self.0.trace,
            headers: self.headers().collect(),
            callers: self.callers().map_or_else(Vec::new, Callers::on_wire),
        }
    }

    /// A request that came over the wire.
    pub(crate) fn of_block(block: &shardstage_codec::RequestBlock<'_>, now_ns: u64) -> Result<Self, RequestError> {
        let mut request = Self::new();
        for (name, value) in &block.headers {
            request = request.with_header(name, value)?;
        }
        let content = Arc::make_mut(&mut request.0);
        content.trace = block.trace;
        content.callers = Callers::of_wire(&block.callers);
        content.hollow =
            block.headers.is_empty() && block.trace.is_none() && block.ttl_ns == 0 && !block.callers.is_empty();
        if block.ttl_ns != 0 {
            content.deadline = Deadline::At(now_ns.saturating_add(block.ttl_ns));
        }
        Ok(request)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("headers", &self.0.headers)
            .field("deadline", &self.0.deadline)
            .field("trace_parent", &self.0.trace.map(|trace| trace.to_string()))
            .finish()
    }
}

/// See [`Request::attach`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Attached<F> {
    request: Request,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Attached<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.request.scope(|| this.future.as_mut().poll(cx))
    }
}

thread_local! {
    /// The request of this thread's scope, outside the shards.
    static OUTSIDE: RefCell<Option<Request>> = const { RefCell::new(None) };
}

/// The request that sends from here carry, if any.
pub(crate) fn open() -> Option<Request> {
    current(|shard| match shard {
        Some(shard) => shard.request(),
        None => OUTSIDE.with(|outside| outside.borrow().clone()),
    })
}

/// While it lives, sends from this shard or thread carry a request. Scopes nest.
pub(crate) struct Scope<'a> {
    shard: Option<&'a ShardCell>,
    before: Option<Request>,
}

impl<'a> Scope<'a> {
    pub(crate) fn on(shard: &'a ShardCell, request: Request) -> Self {
        let now_ns = shard.core.borrow().now_ns;
        Self { shard: Some(shard), before: shard.set_request(Some(request.begun_at(now_ns))) }
    }

    fn outside(request: Request) -> Self {
        Self { shard: None, before: OUTSIDE.with(|outside| outside.replace(Some(request))) }
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let before = self.before.take();
        // What is replaced is plain data, whose drop runs nobody's code.
        match self.shard {
            Some(shard) => drop(shard.set_request(before)),
            None => drop(OUTSIDE.with(|outside| outside.replace(before))),
        }
    }
}
