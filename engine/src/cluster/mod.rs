//! Virtual actors over a fixed list of nodes: who owns a key, which actor it is, and how messages cross to other nodes.

pub(crate) mod activity;
pub(crate) mod credit;
pub(crate) mod directory;
pub(crate) mod inbound;
pub(crate) mod outbound;
pub(crate) mod placement;
pub(crate) mod registry;
pub(crate) mod routes;
pub(crate) mod settings;
