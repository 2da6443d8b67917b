//! `KeyedState`: an actor's state as keys and values, changed by transactions.
//!
//! Each transaction is one record; now and then the whole state is stored as a snapshot.
//!
//! Invariant: a key's version is the number of the transaction that set it; recovery gives the same keys, values and versions.

use std::collections::BTreeMap;

use shardstage::wire;
use shardstage_codec::{AlignedBytes, WireValue, encode};

use super::transaction::Changes;
use super::{Entry, EventSourced, SnapshotPolicy, Stored, Transaction};

/// State of keys and values. [`Durable`](super::Durable)`<`[`Keyed`]`<Cart>>` runs it, and commands are handled by
/// [`CommandHandler`](super::CommandHandler)s of `Keyed<Cart>`.
///
/// ```
/// use shardstage::prelude::*;
/// use shardstage_persistence::{CommandContext, CommandHandler, Effect, Keyed, KeyedState};
///
/// struct Cart;
///
/// impl KeyedState for Cart {
///     const NAME: &'static str = "cart";
///     type Value = u32;
/// }
///
/// #[message(id = "cart.swap", reply = bool)]
/// struct Swap { out: String, into: String }
///
/// impl CommandHandler<Swap> for Keyed<Cart> {
///     fn handle(&self, swap: Swap, _cx: &CommandContext<'_, Self>) -> Effect<Self, bool> {
///         let count = self.get(&swap.out).map_or(0, |entry| entry.value);
///         match self.transaction().delete(swap.out).set(swap.into, count).commit() {
///             Ok(effect) => effect.reply(true),
///             Err(_) => Effect::none().reply(false),
///         }
///     }
/// }
/// ```
pub trait KeyedState: Sized + 'static {
    /// The actor type's stable name, as [`EventSourced::TYPE`].
    const NAME: &'static str;

    /// Version of the values' schema.
    const SCHEMA: u16 = 1;

    /// As [`EventSourced::SNAPSHOTS`].
    const POLICY: SnapshotPolicy = SnapshotPolicy::new();

    /// What keys stand for.
    type Value: WireValue;

    /// Reads a value of another [`SCHEMA`](Self::SCHEMA). `None`: the actor cannot be served.
    fn upcast(_stored: Stored<'_>) -> Option<Self::Value> {
        None
    }
}

/// The keys and values of one actor.
pub struct Keyed<S: KeyedState> {
    entries: BTreeMap<String, (Entry<S::Value>, usize)>,
    transactions: u64,
    bytes: usize,
}

impl<S: KeyedState> Keyed<S> {
    /// The key's value and version.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry<S::Value>> {
        self.entries.get(key).map(|(entry, _)| entry)
    }

    /// All keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry<S::Value>)> {
        self.entries.iter().map(|(key, (entry, _))| (&**key, entry))
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Begins to change keys.
    pub fn transaction(&self) -> Transaction<'_, S> {
        Transaction::new(self)
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of a key with its value.
    pub(super) fn stored_bytes(&self, key: &str) -> Option<usize> {
        self.entries.get(key).map(|(_, bytes)| key.len() + bytes)
    }

    fn put(&mut self, key: String, version: u64, schema: u16, bytes: &[u8]) {
        self.delete(&key);
        let mut aligned = AlignedBytes::new();
        aligned.extend_from_slice(bytes);
        let stored = Stored::new(schema, &aligned);
        let value = if schema == S::SCHEMA { stored.decode() } else { S::upcast(stored) };
        let value = value.unwrap_or_else(|| {
            panic!("the value of key {key:?} has schema {schema}, this program reads {}", S::SCHEMA)
        });
        self.bytes += key.len() + bytes.len();
        self.entries.insert(key, (Entry { value, version }, bytes.len()));
    }

    fn delete(&mut self, key: &str) {
        if let Some((_, bytes)) = self.entries.remove(key) {
            self.bytes -= key.len() + bytes;
        }
    }
}

impl<S: KeyedState> std::fmt::Debug for Keyed<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyed({} {} keys, {} transactions)", S::NAME, self.entries.len(), self.transactions)
    }
}

/// The whole state.
#[wire]
#[derive(Clone, Debug)]
pub struct KeyedImage {
    transactions: u64,
    schema: u16,
    entries: Vec<KeyedEntry>,
}

/// One key of it.
#[wire]
#[derive(Clone, Debug)]
pub struct KeyedEntry {
    key: String,
    version: u64,
    value: Vec<u8>,
}

impl<S: KeyedState> EventSourced for Keyed<S> {
    const TYPE: &'static str = S::NAME;
    const SNAPSHOTS: SnapshotPolicy = S::POLICY;

    type Event = Changes;
    type Snapshot = KeyedImage;

    fn new(_key: &str) -> Self {
        Self { entries: BTreeMap::new(), transactions: 0, bytes: 0 }
    }

    fn apply(&mut self, event: &Changes) {
        self.transactions += 1;
        for change in &event.changes {
            match &change.value {
                Some(value) => self.put(change.key.clone(), self.transactions, event.schema, value),
                None => self.delete(&change.key),
            }
        }
    }

    fn snapshot(&self) -> Option<KeyedImage> {
        let mut scratch = AlignedBytes::new();
        let entries = self.entries.iter().map(|(key, (entry, _))| {
            scratch.clear();
            let len = encode(&entry.value, &mut scratch).ok()?;
            let value = scratch[scratch.len() - len..].to_vec();
            Some(KeyedEntry { key: key.clone(), version: entry.version, value })
        });
        let entries = entries.collect::<Option<Vec<_>>>()?;
        Some(KeyedImage { transactions: self.transactions, schema: S::SCHEMA, entries })
    }

    fn restore(&mut self, image: KeyedImage) {
        for entry in image.entries {
            self.put(entry.key, entry.version, image.schema, &entry.value);
        }
        self.transactions = image.transactions;
    }
}
