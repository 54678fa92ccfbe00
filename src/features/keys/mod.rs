//! Rotating keys: the master key, and the data key of one organization or of many, while all are served.
//!
//! It owns the order of the steps and what is said of them. Wrapping and versions are the keyring's; what is sealed in
//! an organization's file is known to the features that seal it, and [`reseal`] is the list of them: whoever seals a
//! column belongs there. The steps of one organization: its new key is on disk, everything is sealed with that from then
//! on, what is there is sealed anew in one transaction with the event that says so, and the key before is kept for as
//! long as a backup may need it. A crash anywhere is completed by the next start. `docs/KEYS.md` is for operators.
//!
//! It leaves alone the signing keys themselves, which rotate on their own, and the deployment's data key, from which
//! cookies, tokens and the catalog's keyed hashes are made: that one stays.

pub mod http;

use std::sync::Arc;
use std::time::Duration;

use crate::base::time::length;
use crate::base::{Error, KeyRotationId, OrganizationId, Result, Timestamp, codes};
use crate::crypto::{Sealer, random};
use crate::features::audit::{self, Act, By, Target};
use crate::features::provisioning::impersonal;
use crate::features::{Bell, DeploymentState, idempotency, outbox, signing_key};
use crate::keyring::{DataRotation, Keyring, MasterPlan, MasterRotation, Swept};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::Tenant;

/// When a failed step is tried again.
const AGAIN: Duration = length::minutes(1);
/// A clock may be set while nobody looks at it.
const LOOK: Duration = length::hours(1);
/// The event in an organization's log.
const ROTATED: &str = "data_key.rotated";
const DESTROYED: &str = "data_key.destroyed";

/// For how long what was replaced is kept.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub data_keys: Duration,
    pub master_keys: Duration,
}

/// Wakes whoever rotates keys, and keeps two from doing it at the same time; cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    ring: Keyring,
    times: Times,
    bell: Bell<()>,
}

impl Desk {
    #[must_use]
    pub fn new(ring: Keyring, times: Times) -> Self {
        Self(Arc::new(Inner { ring, times, bell: Bell::default() }))
    }

    /// The keys themselves, wrapped.
    #[must_use]
    pub fn ring(&self) -> &Keyring {
        &self.0.ring
    }

    /// For how long what was replaced is kept.
    #[must_use]
    pub fn times(&self) -> Times {
        self.0.times
    }

    /// There is something to do.
    pub fn call(&self) {
        self.0.bell.ring();
    }

    /// Until it is called.
    pub async fn rung(&self) {
        self.0.bell.rung().await;
    }

    /// Nothing further is begun; returns when what is under way has ended.
    pub async fn close(&self) {
        self.0.bell.close().await;
    }

    fn is_closed(&self) -> bool {
        self.0.bell.is_closed()
    }
}

/// Seals anew whatever an older data key has sealed in an organization's file; returns how many values.
pub fn reseal(db: &Write<'_, TenantDb>, sealer: &Sealer) -> Result<usize> {
    Ok(signing_key::reseal(db, sealer)? + outbox::reseal(db, sealer)? + idempotency::reseal(db, sealer)?)
}

/// Refuses a file in which something is sealed with a data key that is not there any more: `reseal` would fail in it.
pub fn require_keys(db: &Read<'_, TenantDb>, sealer: &Sealer) -> Result<()> {
    signing_key::require_keys(db, sealer)?;
    outbox::require_keys(db, sealer)?;
    idempotency::require_keys(db, sealer)
}

/// What rotating an organization's data key did.
#[derive(Debug, Clone, Copy)]
pub struct Rotated {
    pub from: u32,
    pub to: u32,
    /// Values that were sealed anew.
    pub resealed: usize,
    /// When the key before is destroyed.
    pub kept_until: Timestamp,
}

/// Gives an organization a new data key and seals everything anew with it.
pub async fn rotate(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<Rotated> {
    if let Some(shut) = state.tenants.why_shut(id) {
        return Err(shut.refusal());
    }
    let tenant = open(state, id).await?;
    // One that takes no write gets no new key.
    tenant.write_beyond(|_| Ok(())).await?;
    let (from, to) = state.keys.ring().add_version(id).await?;
    let resealed = finish(state, &tenant, by).await?;
    let kept_until = state.tenant.clock.now().plus(state.keys.times().data_keys);
    state.keys.call();
    Ok(Rotated { from, to, resealed, kept_until })
}

/// The second half, which can be taken again: after a crash, and for a file that came from elsewhere.
async fn finish(state: &DeploymentState, tenant: &Tenant, by: &By) -> Result<usize> {
    let sealer = tenant.sealer();
    let newest = state.keys.ring().newest_version(tenant.id()).await?;
    let (to, resealed) = tenant
        .write_beyond(|db| {
            let (to, resealed) = (require_newest(sealer, newest)?, reseal(db, sealer)?);
            // The crash may have come after this transaction.
            if !audit::has_happened(db, ROTATED, "to", &to.into())? {
                let act = Act::about(ROTATED, tenant.id());
                audit::record(db, by, act.with("to", to).with("resealed", resealed))?;
            }
            Ok((to, resealed))
        })
        .await?;
    state.keys.ring().set_resealed(tenant.id(), to).await?;
    metrics::counter!("bulkhead_data_keys_rotated_total").increment(1);
    Ok(resealed)
}

/// What seals in the file is what the ring has; anything else would be sealed with what is to go.
fn require_newest(sealer: &Sealer, newest: Option<u32>) -> Result<u32> {
    let version = sealer.version();
    match newest {
        Some(newest) if newest <= version => Ok(version),
        _ => Err(Error::new(&codes::KEY_UNAVAILABLE)
            .because("the file is open with keys from before")
            .retry_after(AGAIN)),
    }
}

async fn open(state: &DeploymentState, id: OrganizationId) -> Result<Tenant> {
    state.tenants.open(&state.directory.by_id(id).await?).await
}

/// Begins a rotation of the master key; it goes on in the background.
pub async fn start_master(state: &DeploymentState, retire_now: bool, by: &By) -> Result<MasterRotation> {
    let id: KeyRotationId = random::id(state.tenant.clock.now());
    let rotation = match state.keys.ring().begin_master_rotation(id, retire_now).await {
        Err(error) if error.is(&codes::KEY_ROTATION_RUNNING) && retire_now => {
            // The one that waits for its time need not wait any more.
            let last = state.keys.ring().master_rotation().await?.filter(|last| last.ended_at.is_some());
            let last = last.ok_or(error)?;
            state.keys.ring().retire_soon(&last).await?;
            note(state, by, "master_key.retirement_brought_forward", &last).await?;
            state.keys.call();
            return state.keys.ring().master_rotation().await?.ok_or_else(|| Error::internal("a rotation vanished"));
        }
        begun => begun?,
    };
    note(state, by, "master_key.rotation_started", &rotation).await?;
    state.keys.call();
    Ok(rotation)
}

/// What that would do.
pub async fn plan_master(state: &DeploymentState) -> Result<MasterPlan> {
    state.keys.ring().plan_master_rotation().await
}

async fn note(state: &DeploymentState, by: &By, action: &'static str, rotation: &MasterRotation) -> Result<()> {
    let act = Act::new(action).on(Target::new("key_rotation", rotation.id)).with("master_key_id", &*rotation.target);
    state.catalog.write(|db| audit::record(db, &impersonal(by), act).map(drop)).await
}

/// Begins to give new data keys to all organizations whose keys are older than that; goes on in the background.
pub async fn start_data(state: &DeploymentState, older_than: Duration, by: &By) -> Result<DataRotation> {
    let now = state.tenant.clock.now();
    let rotation = state.keys.ring().begin_data_rotation(random::id(now), before(state, older_than)).await?;
    let act = Act::new("data_keys.rotation_started").on(Target::new("key_rotation", rotation.id));
    let act = act.with("total", rotation.total).with("before", rotation.before.to_string());
    state.catalog.write(|db| audit::record(db, &impersonal(by), act).map(drop)).await?;
    state.keys.call();
    Ok(rotation)
}

/// How many that would be.
pub async fn plan_data(state: &DeploymentState, older_than: Duration) -> Result<i64> {
    state.keys.ring().count_older_than(before(state, older_than)).await
}

/// Keys made before this are old enough; without an age, those of this very moment too.
fn before(state: &DeploymentState, older_than: Duration) -> Timestamp {
    let now = state.tenant.clock.now();
    if older_than.is_zero() { now.plus(Duration::from_millis(1)) } else { now.minus(older_than) }
}

/// Does what there is to do; tells how long it is until there may be more. Nothing: it is time to stop.
pub async fn round(state: &DeploymentState) -> Option<Duration> {
    let _at_work = state.keys.0.bell.turn().await;
    let mut is_good = resume(state).await;
    is_good &= said(master(state).await, "the rotation of the master key did not get further");
    loop {
        if state.keys.is_closed() {
            return None;
        }
        match sweep(state).await {
            Ok(true) => is_good &= said(master(state).await, "the rotation of the master key did not get further"),
            Ok(false) => break,
            Err(error) => {
                is_good = said(Err(error), "the rotation of data keys did not get further");
                break;
            }
        }
    }
    is_good &= said(destroy_due(state).await, "replaced data keys could not be destroyed");
    Some(if is_good { LOOK } else { AGAIN })
}

fn said(outcome: Result<()>, what: &str) -> bool {
    match outcome {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(?error, "{what}; it will be tried again");
            false
        }
    }
}

/// Organizations whose rotation was interrupted.
async fn resume(state: &DeploymentState) -> bool {
    let unfinished = match state.keys.ring().unfinished().await {
        Ok(unfinished) => unfinished,
        Err(error) => return said(Err(error), "interrupted rotations could not be read"),
    };
    let mut is_good = true;
    for id in unfinished {
        if state.keys.is_closed() {
            return is_good;
        }
        let finished = async { finish(state, &open(state, id).await?, &By::system()).await };
        if let Err(error) = finished.await {
            // Its file can be read as it is: the key before stays until this has succeeded.
            tracing::warn!(organization = %id, ?error, "a rotation of a data key could not be finished yet");
            is_good &= is_kept(&error);
        }
    }
    is_good
}

/// Goes on with a rotation of the master key, if there is one.
async fn master(state: &DeploymentState) -> Result<()> {
    let ring = state.keys.ring();
    let Some(mut rotation) = ring.master_rotation().await?.filter(|last| last.retired_at.is_none()) else {
        return Ok(());
    };
    if rotation.ended_at.is_none() {
        loop {
            let rewrapped = ring.rewrap(&rotation, || state.keys.is_closed()).await;
            let left = ring.master_status().await?.left;
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("bulkhead_keys_left_to_wrap").set(left as f64);
            match rewrapped {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    let why = error.cause().unwrap_or_else(|| error.to_string());
                    ring.note_master_error(rotation.id, Some(&why)).await?;
                    return Err(error);
                }
            }
            if ring.end_master_rotation(&rotation, state.keys.times().master_keys).await? {
                break;
            }
        }
        let ended = ring.master_rotation().await?.filter(|last| last.id == rotation.id);
        rotation = ended.ok_or_else(|| Error::internal("a rotation vanished"))?;
        note(state, &By::system(), "master_key.rotated", &rotation).await?;
    }
    if rotation.retire_at.is_some_and(|at| at <= state.tenant.clock.now()) {
        if rotation.retire_now
            && let Some(backups) = &state.backups
        {
            // Earlier states of the ring are wrapped by the key that goes.
            backups.renew_keyring().await?;
        }
        if !ring.retire(&rotation).await? {
            // Something came in between, and is wrapped anew now.
            state.keys.call();
            return Ok(());
        }
        note(state, &By::system(), "master_key.retired", &rotation).await?;
    }
    Ok(())
}

/// One organization of a sweep; tells whether there may be more.
async fn sweep(state: &DeploymentState) -> Result<bool> {
    let ring = state.keys.ring();
    let Some(rotation) = ring.data_rotation().await?.filter(|last| last.ended_at.is_none()) else { return Ok(false) };
    let Some(id) = ring.next_of(&rotation).await? else {
        let act = Act::new("data_keys.rotated").on(Target::new("key_rotation", rotation.id));
        let act = act.with("done", rotation.done).with("skipped", rotation.skipped).with("failed", rotation.failed);
        state.catalog.write(|db| audit::record(db, &By::system(), act).map(drop)).await?;
        ring.end_data_rotation(rotation.id).await?;
        return Ok(false);
    };
    let swept = match rotate(state, id, &By::system()).await {
        Ok(_) => Swept::Done,
        // It waits for somebody whom all the others need as well.
        Err(error) if error.is(&codes::KEY_UNAVAILABLE) => return Err(error),
        Err(error) if is_kept(&error) => Swept::Skipped(format!("{id}: {}", error.code().name)),
        Err(error) => {
            tracing::warn!(organization = %id, ?error, "a data key was not rotated");
            Swept::Failed(format!("{id}: {}", error.code().name))
        }
    };
    ring.advance(rotation.id, id, &swept).await?;
    // Requests first.
    tokio::task::yield_now().await;
    Ok(true)
}

/// Whether an organization is as it is because somebody wants it so: there is no use in trying again every minute.
pub fn is_kept(error: &Error) -> bool {
    let kept = [
        &codes::ORGANIZATION_QUARANTINED,
        &codes::ORGANIZATION_FROZEN,
        &codes::ORGANIZATION_LEAVING,
        &codes::ORGANIZATION_MOVED,
        &codes::ORGANIZATION_NOT_FOUND,
    ];
    kept.into_iter().any(|code| error.is(code))
}

/// Destroys versions that no backup within reach needs any more, after a last look at the file.
async fn destroy_due(state: &DeploymentState) -> Result<()> {
    let ring = state.keys.ring();
    let before = state.tenant.clock.now().minus(state.keys.times().data_keys);
    let mut failed = Ok(());
    for (id, version) in ring.replaced_before(before).await? {
        if state.keys.is_closed() {
            break;
        }
        if let Err(error) = destroy(state, id, version).await {
            tracing::warn!(organization = %id, ?error, "a replaced data key could not be destroyed yet");
            if !is_kept(&error) {
                failed = Err(error);
            }
        }
    }
    failed
}

async fn destroy(state: &DeploymentState, id: OrganizationId, version: u32) -> Result<()> {
    let tenant = open(state, id).await?;
    let sealer = tenant.sealer();
    let newest = state.keys.ring().newest_version(id).await?;
    tenant
        .write_beyond(|db| {
            require_newest(sealer, newest)?;
            // A file that was put back from a copy may still need it.
            reseal(db, sealer)?;
            if !audit::has_happened(db, DESTROYED, "up_to", &version.into())? {
                let act = Act::about(DESTROYED, id);
                audit::record(db, &By::system(), act.with("up_to", version))?;
            }
            Ok(())
        })
        .await?;
    state.keys.ring().destroy_up_to(id, version).await?;
    Ok(())
}
