//! `Transaction`: changes of several keys, all or nothing; `Entry`: a value with its version.
//!
//! Invariant: a transaction that [`commit`](Transaction::commit) let through fits one record and contradicts no version that
//! it named; one that it refused has changed nothing.

use std::collections::BTreeMap;
use std::fmt;

use shardstage::wire;
use shardstage_codec::{AlignedBytes, encode};

use super::Effect;
use super::keyed::{Keyed, KeyedState};
use crate::limits::{STATE_BYTES, STATE_KEY_BYTES, STATE_KEYS, STATE_OPERATIONS, STATE_TRANSACTION_BYTES};

/// One key of an actor's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// What was set.
    pub value: V,
    /// Number of the transaction that set it, within the actor; rises with every change. Name it in
    /// [`Transaction::expect`] to be refused when the key was changed meanwhile.
    pub version: u64,
}

/// Why a transaction was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionError {
    /// A key has another version than was expected; read it again.
    Version {
        /// The key.
        key: String,
        /// What the transaction expected, 0: the key is not there.
        expected: u64,
        /// What it has, 0: it is not there.
        found: u64,
    },
    /// A key is empty or longer than [`STATE_KEY_BYTES`].
    Key {
        /// Its length, bytes.
        bytes: usize,
    },
    /// More than [`STATE_OPERATIONS`] changes in one transaction.
    Operations,
    /// The actor would have more than [`STATE_KEYS`] keys.
    Keys,
    /// The changes take more than [`STATE_TRANSACTION_BYTES`] together.
    Bytes,
    /// The actor's keys and values would take more than [`STATE_BYTES`]: its state must fit one snapshot.
    StateBytes,
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { key, expected, found } => {
                write!(f, "key {key:?} has version {found}, the transaction expected {expected}")
            }
            Self::Key { bytes } => write!(f, "a key has {bytes} bytes; 1 to {STATE_KEY_BYTES} are allowed"),
            Self::Operations => write!(f, "more than {STATE_OPERATIONS} changes in one transaction"),
            Self::Keys => write!(f, "the actor would have more than {STATE_KEYS} keys"),
            Self::Bytes => write!(f, "the changes take more than {STATE_TRANSACTION_BYTES} bytes"),
            Self::StateBytes => write!(f, "the actor's state would take more than {STATE_BYTES} bytes"),
        }
    }
}

impl std::error::Error for TransactionError {}

/// Changes to the keys of one actor: built, checked, and made an [`Effect`] by [`commit`](Self::commit).
#[must_use = "a transaction that is not committed does nothing"]
pub struct Transaction<'a, S: KeyedState> {
    state: &'a Keyed<S>,
    changes: Vec<(String, Option<S::Value>)>,
    expected: Vec<(String, u64)>,
}

impl<'a, S: KeyedState> Transaction<'a, S> {
    pub(super) fn new(state: &'a Keyed<S>) -> Self {
        Self { state, changes: Vec::new(), expected: Vec::new() }
    }

    /// Sets a key. Of several changes of one key the last counts.
    pub fn set(mut self, key: impl Into<String>, value: S::Value) -> Self {
        self.changes.push((key.into(), Some(value)));
        self
    }

    /// Deletes a key, if it is there.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.changes.push((key.into(), None));
        self
    }

    /// Refuses the whole transaction unless the key has this [version](Entry::version); 0: unless it is not there.
    pub fn expect(mut self, key: impl Into<String>, version: u64) -> Self {
        self.expected.push((key.into(), version));
        self
    }

    /// Checks everything; the effect sets and deletes all keys at once. Without any change it persists nothing.
    ///
    /// # Errors
    /// See [`TransactionError`]; nothing changes.
    pub fn commit(self) -> Result<Effect<Keyed<S>, ()>, TransactionError> {
        for (key, expected) in self.expected {
            let found = self.state.get(&key).map_or(0, |entry| entry.version);
            if found != expected {
                return Err(TransactionError::Version { key, expected, found });
            }
        }
        if self.changes.len() > STATE_OPERATIONS {
            return Err(TransactionError::Operations);
        }
        let mut last: BTreeMap<String, Option<S::Value>> = BTreeMap::new();
        for (key, value) in self.changes {
            if key.is_empty() || key.len() > STATE_KEY_BYTES {
                return Err(TransactionError::Key { bytes: key.len() });
            }
            last.insert(key, value);
        }
        if last.is_empty() {
            return Ok(Effect::none());
        }
        let mut scratch = AlignedBytes::new();
        let (mut bytes, mut state_bytes, mut keys) = (0, self.state.bytes(), self.state.len());
        let mut changes = Vec::with_capacity(last.len());
        for (key, value) in last {
            if let Some(old) = self.state.stored_bytes(&key) {
                state_bytes -= old;
                keys -= 1;
            }
            let value = match value {
                Some(value) => {
                    scratch.clear();
                    let len = encode(&value, &mut scratch).map_err(|_| TransactionError::Bytes)?;
                    keys += 1;
                    state_bytes += key.len() + len;
                    Some(scratch[scratch.len() - len..].to_vec())
                }
                None => None,
            };
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            changes.push(Change { key, value });
        }
        if bytes > STATE_TRANSACTION_BYTES {
            return Err(TransactionError::Bytes);
        }
        if keys > STATE_KEYS {
            return Err(TransactionError::Keys);
        }
        if state_bytes > STATE_BYTES {
            return Err(TransactionError::StateBytes);
        }
        Ok(Effect::persist(Changes { schema: S::SCHEMA, changes }))
    }
}

impl<S: KeyedState> fmt::Debug for Transaction<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transaction({} changes, {} conditions)", self.changes.len(), self.expected.len())
    }
}

/// One record: all changes of a transaction.
#[wire(id = "shardstage.keyed-state")]
#[derive(Clone, Debug)]
pub struct Changes {
    /// Schema of the values.
    pub(super) schema: u16,
    pub(super) changes: Vec<Change>,
}

/// A key and its new value's archive; `None` deletes it.
#[wire]
#[derive(Clone, Debug)]
pub struct Change {
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
}
