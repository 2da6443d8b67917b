//! `Idempotent`: a command that changes state once, however often it arrives.
//!
//! The command is wrapped, in the process and on the wire, with who sends it and under which number. The actor that runs it
//! records number and reply in the same record group as the command's events ([`Sessions`](super::sessions::Sessions)), and
//! answers a repetition with the recorded reply.
//!
//! Invariant: a command that was answered `Err(NotRun)` has not run in this attempt, and one that was answered `Ok` has run
//! exactly once in all attempts under its (client, opened, seq).

use shardstage::{Message, WireMessage, WireOps, wire};
use shardstage_codec::rkyv::{Archive, Deserialize, Serialize};
use shardstage_codec::{AlignedBytes, Shape, Wire, WireValue, decode, fingerprint_with_reply, rkyv};

use super::effect::Effect;
use super::sessions::{Admission, Mark};
use super::{CommandContext, CommandHandler};

/// A command with its client and number. Every [`CommandHandler`] of `C` handles it too; its answer is `C`'s, or why it did not
/// run.
///
/// [`Client`](crate::Client) makes, numbers and retries them. By hand:
///
/// - `client` names who numbers, uniquely among all that ever send to the actor; one that forgot its numbers takes another name.
/// - The first command to an actor goes with `opened` 0; it is answered [`NotRun::Open`] and goes again with the number in it,
///   which stays the session's from then on. A command that may have run is never sent again under another `opened`.
/// - `seq` counts from 1. It is new for every new command and the same for every repetition.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(crate = rkyv, attr(allow(missing_docs)))]
pub struct Idempotent<C> {
    /// Who sends it, at most [`CLIENT_BYTES`](crate::limits::CLIENT_BYTES). An actor that sends through its outbox is its type
    /// name, a zero byte and its key.
    pub client: String,
    /// The session at this actor, 0 before there is one.
    pub opened: u64,
    /// The command's number within the session.
    pub seq: u64,
    /// It runs only after all of the client's commands up to this one have; 0 for none.
    pub after: u64,
    /// The client has the answers up to this number, or wants them no more: they are forgotten.
    pub acked: u64,
    /// The command.
    pub command: C,
}

/// Why a command did not run in this attempt. Nothing changed.
#[wire]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRun {
    /// There is no session yet: send it again with this number, and keep it.
    Open {
        /// The session's number.
        opened: u64,
    },
    /// The client has acknowledged this number: it has run, or was given up, and its answer is forgotten.
    Acknowledged,
    /// The session is older than what the actor remembers. An earlier attempt may have run; nobody knows any more, and no
    /// further attempt ever will.
    SessionExpired,
    /// The client's `after` has not run yet; send that one first.
    Gap,
    /// As many answers of this client are remembered as may be; send again when earlier ones were acknowledged.
    WindowFull,
    /// Another command ran under this number, or the name of the client is too long: the sender's mistake.
    Misnumbered,
}

impl std::fmt::Display for NotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open { .. } => "the client has no session at this actor yet",
            Self::Acknowledged => "the client has acknowledged this command",
            Self::SessionExpired => "the client's session is older than what the actor remembers",
            Self::Gap => "an earlier command of the client has not run yet",
            Self::WindowFull => "too many answers wait for the client's acknowledgement",
            Self::Misnumbered => "another command ran under this number",
        })
    }
}

impl std::error::Error for NotRun {}

/// What stands before the command's own wire name.
const PREFIX: &str = "once:";
const NAME_ROOM: usize = shardstage_codec::limits::NAME_BYTES_MAX;

/// The wire name of `Idempotent<C>`, made by the compiler.
struct Named<C>(std::marker::PhantomData<C>);

impl<C: Wire> Named<C> {
    const LEN: usize = PREFIX.len() + C::NAME.len();
    const BYTES: [u8; NAME_ROOM] = {
        assert!(Self::LEN <= NAME_ROOM, "the wire name of an idempotent command has at most 123 bytes");
        assert!(!begins_with_prefix(C::NAME), "an idempotent command is not wrapped twice");
        let mut bytes = [0; NAME_ROOM];
        let mut at = 0;
        while at < Self::LEN {
            bytes[at] = if at < PREFIX.len() { PREFIX.as_bytes()[at] } else { C::NAME.as_bytes()[at - PREFIX.len()] };
            at += 1;
        }
        bytes
    };
    const ALL: &'static [u8; NAME_ROOM] = &Self::BYTES;
    const NAME: &'static str = match std::str::from_utf8(Self::ALL.split_at(Self::LEN).0) {
        Ok(name) => name,
        Err(_) => panic!("two strings in a row are a string"),
    };
}

const fn begins_with_prefix(name: &str) -> bool {
    let (name, prefix) = (name.as_bytes(), PREFIX.as_bytes());
    let mut at = 0;
    while at < prefix.len() {
        if at >= name.len() || name[at] != prefix[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl<C: WireValue> WireValue for Idempotent<C> {
    const DEPTH: u32 = shardstage_codec::wire::depth_over(&[C::DEPTH]);
    const SHAPE: u64 = Shape::structure()
        .field("client", String::SHAPE)
        .field("opened", u64::SHAPE)
        .field("seq", u64::SHAPE)
        .field("after", u64::SHAPE)
        .field("acked", u64::SHAPE)
        .field("command", C::SHAPE)
        .finish();
}

impl<C: WireMessage> Wire for Idempotent<C> {
    const NAME: &'static str = Named::<C>::NAME;
    const VERSION: u16 = C::VERSION;
    const FINGERPRINT: u64 = fingerprint_with_reply::<Self, Result<C::Reply, NotRun>>();
}

impl<C: WireMessage> Message for Idempotent<C> {
    type Reply = Result<C::Reply, NotRun>;
    const WIRE: Option<WireOps<Self>> = Some(WireOps::new());
}

impl<C: WireMessage> WireMessage for Idempotent<C> {}

impl<A, C> CommandHandler<Idempotent<C>> for A
where
    A: CommandHandler<C>,
    C: WireMessage,
{
    fn handle(&self, command: Idempotent<C>, cx: &CommandContext<'_, Self>) -> Effect<Self, Result<C::Reply, NotRun>> {
        let Idempotent { client, opened, seq, after, acked, command } = command;
        let mark = Mark { client, opened, seq, after, acked, message: C::ID.get() };
        match cx.sessions().admit(&mark) {
            Admission::Run => self.handle(command, cx).recorded(mark),
            Admission::Again(reply) => Effect::none().reply(Ok(read(reply))),
            Admission::No(why) => Effect::none().reply(Err(why)),
        }
    }
}

/// The recorded reply of a command.
///
/// # Panics
/// When it was recorded by a program in which the reply had another layout; the command ends as `Failed` and changes nothing.
fn read<R: WireValue>(reply: &[u8]) -> R {
    let mut aligned = AlignedBytes::with_capacity(reply.len());
    aligned.extend_from_slice(reply);
    match decode(&aligned) {
        Ok(reply) => reply,
        Err(error) => panic!("the recorded reply cannot be read: {error}"),
    }
}
