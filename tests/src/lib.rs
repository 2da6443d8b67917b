//! Hazard tests: one file a hazard under `tests/`, public API only. This library holds what several of them share.

#![forbid(unsafe_code)]

pub mod draw;
pub mod heavy;
pub mod kit_actors;
pub mod scripted;
#[cfg(feature = "adapters")]
pub mod sim_cluster;

/// The README's code blocks, compiled and run as documentation tests.
#[cfg(all(doctest, feature = "adapters"))]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The code blocks of the guide to actors, likewise.
#[cfg(all(doctest, feature = "adapters"))]
#[doc = include_str!("../../docs/actors.md")]
pub struct Actors;
