//! Bulkhead: an identity service for B2B SaaS in which every customer organization lives in its own
//! SQLite file.
//!
//! Floors; imports point down only (`tests/it/architecture.rs` holds the house to it):
//!
//! - F0 `base`: pure values. `config`: the settings.
//! - F1 `sqlite`, `crypto`, `outbound`, `ltx`: the outside world and its formats, without knowledge of the product.
//!   `fairness`: what one organization may take of what all share.
//! - F2 `keyring`, `catalog`, `tenants`, `replica`, `backup`: keys, routing, files, and copies of them.
//! - F3 `web`: the edge kit.
//! - F4 `features`: one folder a capability.
//! - F5 `jobs`, `router`, `app`, `cli`: composition.

pub mod app;
pub mod backup;
pub mod base;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod fairness;
pub mod features;
pub mod jobs;
pub mod keyring;
pub mod ltx;
pub mod outbound;
pub mod replica;
pub mod router;
pub mod sqlite;
pub mod tenants;
pub mod web;
