//! F2. Organizations' files: where they are, opening them on demand, keeping the used ones open,
//! making new ones.
//!
//! It owns the directory `orgs/`. A [`Tenant`] is the only way to an organization's data, and
//! [`Tenants::open`] is the only way to a [`Tenant`]: it takes a [`TenantRoute`], which only the
//! catalog's directory can make. It knows of what is inside a file its stamp and the names that lead
//! to it.

mod awaited;
mod copy;
mod create;
mod encryption;
mod gate;
mod hold;
mod leftovers;
mod look;
mod migrate;
mod open_files;
mod overwrite;
mod path;
mod places;
mod recast;
mod relocate;
mod share;
mod tenant;
mod volumes;

pub use gate::{ARRIVING, DEPARTED, DEPARTING, FROZEN, FROZEN_HEAD, Shut, UNFROZEN, last_word};
pub use hold::{Condition, Held, KeptFile};
pub use look::{Depth, Look, Names, Seen, Standing, file_in, look_at, shards, standing_in, whose};
pub use open_files::{Limits, Occasion, Tenants};
pub use overwrite::Fold;
pub use recast::{Ready, Recast};
pub use relocate::Copied;
pub use tenant::Tenant;

/// The schema of an organization's file, oldest step first.
pub const MIGRATIONS: &[&str] = &[
    include_str!("../../tenant-schema/0001_initial.sql"),
    include_str!("../../tenant-schema/0002_views.sql"),
    include_str!("../../tenant-schema/0003_care.sql"),
    include_str!("../../tenant-schema/0004_limits.sql"),
    include_str!("../../tenant-schema/0005_replication.sql"),
];
